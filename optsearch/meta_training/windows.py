"""A stretch of inner steps of many trainings, and the meta-losses along it."""

from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from optsearch.meta_training import inner
from optsearch.meta_training.inner import InnerOptimizer, Trainings
from optsearch.meta_training.settings import MetaTraining
from optsearch.seeds import seed_for
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Shapes, Tree

# Below this a loss is as good as 0 and its logarithm says nothing more.
MIN_LOSS = 1e-6


@dataclass(frozen=True)
class Problem:
    """What stays the same over a whole meta-training of one family."""

    optimizer: InnerOptimizer
    family: TaskFamily
    settings: MetaTraining
    shapes: Shapes


@dataclass(frozen=True)
class Window:
    """`num_steps` inner steps of `num_tasks` tasks; trainings beyond that see the same batches again, in order.

    `gradients` says what flows back through the steps; see `inner.step`.
    """

    problem: Problem
    num_steps: int
    num_tasks: int
    gradients: inner.Gradients = "none"

    def run(self, trainings: Trainings, weights: Tree, generator: torch.Generator) -> tuple[Tensor, Trainings]:
        """Mean meta-losses `[n]`, and the trainings after the last step."""
        family, settings = self.problem.family, self.problem.settings
        inner_rows = inner.draw(family, "inner", (self.num_steps, self.num_tasks), generator)
        meta_rows = inner.draw(family, "meta", (self.num_steps, self.num_tasks), generator)
        repeats = len(trainings.step) // self.num_tasks
        every = settings.truncation // settings.num_meta_losses
        losses = []
        with torch.set_grad_enabled(self.gradients != "none"):
            for index in range(self.num_steps):
                batch = inner.rows_at(family, "inner", inner_rows[index].repeat(repeats, 1))
                loss, trainings = inner.step(self.problem.optimizer, family, weights, trainings, batch, self.gradients)
                if (index + 1) % every == 0:
                    if settings.meta_loss == "validation":
                        rows = inner.rows_at(family, "meta", meta_rows[index].repeat(repeats, 1))
                        loss = inner.losses_on(family, trainings, rows)
                    losses.append(self._meta_loss(inner.capped(loss, family), trainings))
            return torch.stack(losses).mean(0), trainings

    def _meta_loss(self, losses: Tensor, trainings: Trainings) -> Tensor:
        """log loss · (1 + e) progress^e, with e the late emphasis: ratios of losses count, above all at the end."""
        emphasis = self.problem.settings.late_emphasis
        progress = (trainings.step / trainings.horizon).squeeze(-1)
        return losses.clamp(min=MIN_LOSS).log() * (1 + emphasis) * progress**emphasis


def draw_horizon(settings: MetaTraining, generator: torch.Generator) -> int:
    """Log-uniform, in whole truncations."""
    low, high = log(settings.horizon * settings.min_horizon_ratio), log(settings.horizon)
    drawn = exp(low + (high - low) * float(torch.rand((), generator=generator)))
    return max(1, round(drawn / settings.truncation)) * settings.truncation


def fresh_trainings(problem: Problem, horizons: list[int], generator: torch.Generator) -> Trainings:
    """One training a horizon."""
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in horizons]
    generators = [torch.Generator().manual_seed(seed_for(seed, "training")) for seed in seeds]
    return inner.start(problem.optimizer, problem.family, generators, horizons)


def twice(trainings: Trainings) -> Trainings:
    """All of the trainings, and then all of them again: the two halves of antithetic pairs."""
    return trainings.map(lambda leaf: torch.cat([leaf, leaf]))


def first_windows(settings: MetaTraining, horizons: list[int], generator: torch.Generator) -> Tensor:
    """Truncations that each training has left, cut at random so that they don't all restart together."""
    return torch.tensor([int(torch.randint(1, horizon // settings.truncation + 1, (), generator=generator))
                         for horizon in horizons])


def restarted(problem: Problem, trainings: Trainings, windows_left: Tensor,
              generator: torch.Generator) -> tuple[Trainings, Tensor]:
    """Those with no window left begin anew, in both halves where there are two."""
    rows = (windows_left == 0).nonzero().squeeze(-1)
    if not len(rows):
        return trainings, windows_left
    horizons = [draw_horizon(problem.settings, generator) for _ in rows]
    fresh, num_tasks = fresh_trainings(problem, horizons, generator), len(windows_left)
    windows_left = windows_left.index_copy(0, rows, torch.tensor(horizons) // problem.settings.truncation)
    for start in range(0, len(trainings.step), num_tasks):
        trainings = trainings.with_rows((rows + start).to(trainings.step.device), fresh)
    return trainings, windows_left
