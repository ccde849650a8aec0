"""A controller that passes messages over the model's own graph."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers import rules
from optsearch.optimizers.model_graph import DIRECTIONS
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

# Of what a layer sees of each tensor: itself, the mean in each direction, the mean over all tensors.
NUM_SOURCES = 2 + len(DIRECTIONS)


@dataclass(frozen=True)
class GNN:
    """A graph network over the model's tensors.

    Every layer adds to a tensor what it makes of the tensor itself, of the mean over its neighbours in each of
    `model_graph.DIRECTIONS` with weights of its own (Schlichtkrull et al. 2017, arxiv.org/abs/1703.06103), and of the
    mean over all tensors (Zaheer et al. 2017, arxiv.org/abs/1703.06114). So news travel `num_layers` edges a step.
    """

    hidden_size: int = 32
    num_layers: int = 2
    activation: str = "silu"

    def __post_init__(self) -> None:
        require("controller.gnn", self.hidden_size > 0 and self.num_layers > 0,
                f"hidden_size and num_layers must be at least 1, not {self.hidden_size} and {self.num_layers}.")
        require("controller.gnn", self.activation in rules.ACTIVATIONS,
                f"there is no activation `{self.activation}`. Activations: {', '.join(sorted(rules.ACTIVATIONS))}.")

    def width(self, num_inputs: int) -> int:
        return self.hidden_size

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        weights = rules.init_layer(generator, "embed", num_inputs, self.hidden_size)
        for index in range(self.num_layers):
            weights |= rules.init_layer(generator, f"message{index}", NUM_SOURCES * self.hidden_size, self.hidden_size)
        return weights

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return {}

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        activation = rules.ACTIVATIONS[self.activation]
        shares = moment.model.adjacency(moment.layout, values).mT
        hidden = activation(rules.linear(weights, "embed", values))
        for index in range(self.num_layers):
            heard = (hidden.unsqueeze(-3) @ shares).flatten(-3, -2)
            seen = torch.cat([hidden, heard, hidden.mean(-1, keepdim=True).expand_as(hidden)], -2)
            hidden = hidden + activation(rules.linear(weights, f"message{index}", seen))
        return hidden, {}
