"""What a design costs: weights, matrix products and state, counted without computing anything."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Observation
from optsearch.trees import Tree

if TYPE_CHECKING:
    from optsearch.optimizers.optimizer import LearnedOptimizer

BYTES = 4
ONE_LAYER = Layout((("weight", (128, 128)), ("bias", (128,))))
# Tensors there have shapes and no numbers.
META = torch.device("meta")


@dataclass(frozen=True)
class Costs:
    """Of one step of one training, in float32.

    `flops` are those of matrix products, two for each multiply-add; `tensor_flops` of them would remain if all tensors
    were empty: what is computed once a tensor or once a step.
    """

    num_weights: int
    num_parameters: int
    num_tensors: int
    flops: int
    tensor_flops: int
    state_bytes: int

    @property
    def flops_per_parameter(self) -> float:
        return (self.flops - self.tensor_flops) / max(1, self.num_parameters)

    @property
    def flops_per_tensor(self) -> float:
        return self.tensor_flops / self.num_tensors

    @property
    def state_bytes_per_parameter(self) -> float:
        return self.state_bytes / max(1, self.num_parameters)


def num_weights(design: "LearnedOptimizer") -> int:
    """How many numbers are meta-learned."""
    return sum(leaf.numel() for leaf in design.init_weights(torch.Generator().manual_seed(0)).values())


def costs_of(design: "LearnedOptimizer", layout: Layout) -> Costs:
    """The costs for params of this layout."""
    weights = {name: leaf.to(META) for name, leaf in design.init_weights(torch.Generator().manual_seed(0)).items()}
    params = {name: torch.empty(shape, device=META) for name, shape in layout.shapes}
    state = design.init(params)
    empty = {name: torch.empty(0, device=META) for name in params}
    return Costs(sum(leaf.numel() for leaf in weights.values()), layout.num_parameters, layout.num_tensors,
                 _flops(design, weights, params, state), _flops(design, weights, empty, design.init(empty)),
                 BYTES * sum(leaf.numel() for leaf in state.values()))


def _flops(design: "LearnedOptimizer", weights: Tree, params: Tree, state: Tree) -> int:
    # Imports Triton where there is one, which who only loads an optimizer does without.
    from torch.utils.flop_counter import FlopCounterMode

    one = torch.empty(1, device=META)
    with FlopCounterMode(display=False) as counter:
        design.update(weights, Observation(params, params, one, loss=one, num_steps=one), state)
    return int(counter.get_total_flops())
