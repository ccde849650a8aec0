"""Full ES: every meta-step runs whole inner trainings from their start."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem, Window, fresh_trainings, twice
from optsearch.seeds import drawing_on
from optsearch.trees import Tree


@dataclass(frozen=True)
class FullES:
    """Antithetic evolution strategies over whole inner trainings of `horizon` steps; it keeps no state.

    `takes_signs` looks only at which half of a pair was better, as VeLO does (arxiv.org/abs/2211.09760): a loss
    that explodes then counts no more than any other.
    """

    takes_signs: bool

    def inner_steps(self, settings: MetaTraining) -> int:
        return 2 * settings.num_tasks * self._horizon(settings)

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        return {}

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        settings = problem.settings
        horizon = self._horizon(settings)
        trainings = twice(fresh_trainings(problem, [horizon] * settings.num_tasks, generator))
        noise = torch.randn(settings.num_tasks, len(weights), device=weights.device,
                            generator=drawing_on(weights.device, generator))
        perturbed = torch.cat([weights + settings.sigma * noise, weights - settings.sigma * noise])
        found = Window(problem, horizon, settings.num_tasks).run(
            trainings, trees.unravel(perturbed, problem.shapes), generator).meta_losses
        one, other = found.values.chunk(2)
        difference = one - other
        if self.takes_signs:
            difference = difference.sign()
        return Estimate((noise * difference[:, None]).mean(0) / (2 * settings.sigma), found, {})

    @staticmethod
    def _horizon(settings: MetaTraining) -> int:
        return settings.horizon // settings.truncation * settings.truncation
