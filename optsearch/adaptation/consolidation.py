"""Elastic weight consolidation: weights that matter to what was learned before are held where they are."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.estimate import Estimate, Estimator
from optsearch.meta_training.plan import Plan
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.seeds import generator
from optsearch.trees import Tree


@dataclass(frozen=True)
class ConsolidatedEstimator:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arxiv.org/abs/1612.00796).

    Meta-gradients of `estimator` with a pull back to `anchor` `[num_weights]`: `strength` · `importance` · distance,
    in units of the meta-gradient's RMS. So `strength` has no unit, and means the same to all estimators under AdamW,
    whose steps depend on what a meta-gradient points to and not on how long it is; `importance` has mean 1.
    """

    estimator: Estimator
    anchor: Tensor
    importance: Tensor
    strength: float

    def inner_steps(self, settings: MetaTraining) -> int:
        return self.estimator.inner_steps(settings)

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        return self.estimator.start(problem, num_weights, generator)

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        found = self.estimator.meta_gradient(problem, state, weights, generator)
        scale = found.gradient.square().mean().sqrt()
        pull = self.strength * self.importance.to(weights) * (weights - self.anchor.to(weights))
        return replace(found, gradient=found.gradient + scale * pull)


def importance(plan: Plan) -> Tensor:
    """The diagonal of the Fisher information at the weights that `plan` begins with, `[num_weights]` with mean 1.

    The mean of squared meta-gradients over the plan's budget, with turns as in its meta-training. It needs an estimator
    that sees gradients: squares of those that see only losses have nearly the same mean for all weights, |gradient|² +
    2 gradient² for a pair, and many more than there are weights would be needed to tell them apart.
    """
    tree, distribution, estimator = plan.first_weights(), plan.distribution, plan.chosen_estimator
    weights = trees.ravel(tree).to(next(iter(distribution.families[0].data.inner.values())).device)
    problems = [Problem(Steps(plan.optimizer, family), plan.settings, trees.shapes_of(tree))
                for family in distribution.families]
    states = [estimator.start(problem, len(weights), generator(plan.seed, "importance", index))
              for index, problem in enumerate(problems)]
    turns, total = distribution.start(), torch.zeros_like(weights)
    for meta_step in range(plan.num_meta_steps):
        turn = distribution.turn(turns)
        found = estimator.meta_gradient(problems[turn], states[turn], weights,
                                        generator(plan.seed, "importance of turn", meta_step))
        total += found.gradient.square()
        states[turn], turns = found.state, distribution.after(turns, turn)
    return total / total.mean().clamp(min=torch.finfo(total.dtype).tiny)
