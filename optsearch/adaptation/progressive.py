"""Progressive columns: new units learn what is new, and read old ones, which stay as they are."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optsearch import trees
from optsearch.adaptation.few_shot import READOUTS
from optsearch.adaptation.inheritance import inherit
from optsearch.errors import DesignError
from optsearch.meta_training.estimate import Estimate, Estimator
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.trees import Tree


@dataclass(frozen=True)
class FrozenEstimator:
    """Meta-gradients of `estimator` that are 0 where `free` `[num_weights]`, of booleans, is false."""

    estimator: Estimator
    free: Tensor

    def inner_steps(self, settings: MetaTraining) -> int:
        return self.estimator.inner_steps(settings)

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        return self.estimator.start(problem, num_weights, generator)

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        found = self.estimator.meta_gradient(problem, state, weights, generator)
        return replace(found, gradient=torch.where(self.free.to(weights.device), found.gradient, 0.0))


def grown(design: LearnedOptimizer, num_units: int) -> LearnedOptimizer:
    """The design with `num_units` more units in each layer of its rule."""
    rule: Any = design.rule
    if not design.has_rule:
        raise DesignError("a design without a rule has no units to which a column could be added. Keep what it has "
                          "learned by `ewc` or `replay`.")
    return replace(design, rule=replace(rule, hidden_size=rule.hidden_size + num_units))


def free_entries(old: LearnedOptimizer, new: LearnedOptimizer) -> Tensor:
    """Which weights of the design `new`, grown from `old`, belong to its new units: booleans `[num_weights]`.

    As in progressive networks (Rusu et al. 2016, arxiv.org/abs/1606.04671) old units neither change nor read new ones,
    new ones read old ones. The readout is shared, though, so that nobody has to say whose turn it is: what it takes
    from new units is free, and on old tasks, too, they have their say. Schedules and controllers stay as they are.
    """
    ones, zeros = ({name: torch.full_like(leaf, value) for name, leaf in design.init_weights(torch.Generator()).items()}
                   for design, value in ((old, 1.0), (new, 0.0)))
    taken = {name: leaf > 0 for name, leaf in inherit(ones, old, new, zeros).weights.items()}
    return trees.ravel({name: ~(leaf if name.startswith(READOUTS) or leaf.dim() < 2
                                else leaf.any(-1, keepdim=True).expand_as(leaf)) for name, leaf in taken.items()})
