"""Weights that are a good start: what is lowered is the meta-loss after a few steps on one family alone."""

from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from optsearch.adaptation.curvature import hessian_vector, num_unrolls
from optsearch.errors import UsageError
from optsearch.meta_training.estimate import Estimate, Estimator
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem
from optsearch.trees import Shapes, Tree

MethodName = Literal["maml", "first_order_maml", "anil", "reptile"]
SECOND_ORDER = ("maml", "anil")
# The last maps to what a step is made of, of rule and controller: the only ones that ANIL adapts.
READOUTS = ("rule.output.", "controls.output.")


@dataclass(frozen=True)
class FewShot:
    """How a start is learned: `num_steps` steps of gradient descent at the rate `learning_rate` on one family each.

    "maml" lowers the meta-loss after them with all second derivatives (Finn et al. 2017, arxiv.org/abs/1703.03400),
    "first_order_maml" without, "anil" with them, but adapts only the readouts (Raghu et al. 2020,
    arxiv.org/abs/1909.09157), "reptile" moves to where they lead (Nichol et al. 2018, arxiv.org/abs/1803.02999).
    """

    method: MethodName = "reptile"
    num_steps: int = 5
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        names = get_args(MethodName)
        if self.method not in names:
            raise UsageError(f"there is no few-shot method {self.method!r}. Methods: {', '.join(names)}.")
        if self.num_steps < 1 or not self.learning_rate > 0:
            raise UsageError("few-shot adaptation needs at least 1 step and a learning rate above 0, not "
                             f"{self.num_steps} and {self.learning_rate}.")

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Visited:
    """Where a meta-gradient was taken: all that it takes to have it again."""

    weights: Tensor
    state: Tree
    seed: int


@dataclass(frozen=True)
class AdaptedEstimator:
    """Meta-gradients of the start; those of the single steps come from `estimator`, window after window.

    The state that windows pass on is taken as given, as everywhere in truncated estimates.
    """

    estimator: Estimator
    few_shot: FewShot

    def inner_steps(self, settings: MetaTraining) -> int:
        """What a curvature unrolls again counts, too."""
        count = self.few_shot.num_steps
        looks = 0 if self.few_shot.method == "reptile" else 1
        again = count * num_unrolls(self.estimator) if self.few_shot.method in SECOND_ORDER else 0
        return (count + looks + again) * self.estimator.inner_steps(settings)

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        return self.estimator.start(problem, num_weights, generator)

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        """The meta-losses are those after adapting, but for Reptile, which looks no further than its last step."""
        count, method = self.few_shot.num_steps, self.few_shot.method
        seeds = torch.randint(2**62, (count + 1,), generator=generator).tolist()
        mask = self._mask(problem.shapes).to(weights)
        path, now, found = [], Visited(weights, state, seeds[0]), None
        for seed in seeds[1:]:
            path.append(now)
            found = self._found(problem, now)
            now = Visited(now.weights - self.few_shot.learning_rate * mask * found.gradient, found.state, seed)
        if method == "reptile" and found is not None:
            return replace(found, gradient=weights - now.weights)
        found = self._found(problem, now)
        gradient = found.gradient
        if method in SECOND_ORDER:
            for each in reversed(path):
                gradient = gradient - self.few_shot.learning_rate * hessian_vector(
                    self.estimator, problem, each.state, each.weights, mask * gradient, each.seed)
        return replace(found, gradient=gradient)

    def _found(self, problem: Problem, at: Visited) -> Estimate:
        return self.estimator.meta_gradient(problem, at.state, at.weights, torch.Generator().manual_seed(at.seed))

    def _mask(self, shapes: Shapes) -> Tensor:
        """1 for weights that are adapted; all where a design has no readout."""
        is_readout = {name: name.startswith(READOUTS) for name in shapes}
        if self.few_shot.method != "anil" or not any(is_readout.values()):
            is_readout = dict.fromkeys(shapes, True)
        return torch.cat([torch.full((prod(shape),), float(is_readout[name])) for name, shape in shapes.items()])
