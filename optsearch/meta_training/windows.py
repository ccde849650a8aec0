"""A stretch of inner steps of many trainings, and the meta-losses along it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, log, prod

import torch
from torch import Tensor

from optsearch.meta_training import captures, inner
from optsearch.meta_training.inner import Gradients, Trainings
from optsearch.meta_training.meta_losses import MetaLosses
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.steps import Steps
from optsearch.seeds import seed_for
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Shapes, Tree, prefixed, within

# Parameters of all trainings that are worked on at once: so many that calls don't count, so few that what a compiled
# step touches stays in the cache.
PART_SIZE = 1 << 18


@dataclass(frozen=True)
class Problem:
    """What stays the same over a meta-step: the inner steps of one family, the settings, the weights' shapes."""

    steps: Steps
    settings: MetaTraining
    shapes: Shapes


@dataclass(frozen=True)
class Batches:
    """The rows that each training sees: numbers `[num_steps, n, batch_size]`, and `[k, n, ...]` for `k` meta-losses."""

    family: TaskFamily
    inner_rows: Tensor
    meta_rows: Tensor

    def inner(self, index: int) -> Tree:
        return inner.rows_at(self.family, "inner", self.inner_rows[index])

    def meta(self, index: int) -> Tree:
        return inner.rows_at(self.family, "meta", self.meta_rows[index])

    def of(self, part: slice) -> "Batches":
        """Those of some of the trainings."""
        return Batches(self.family, self.inner_rows[:, part], self.meta_rows[:, part])

    def windows(self, count: int) -> "list[Batches]":
        """Those of `count` windows of equal length, one after the other."""
        return [Batches(self.family, *rows) for rows in zip(self.inner_rows.chunk(count), self.meta_rows.chunk(count),
                                                            strict=True)]


@dataclass(frozen=True)
class Unroll:
    """Where trainings came to and what was measured on the way; `visited` are the trainings before each step."""

    meta_losses: MetaLosses
    trainings: Trainings
    visited: tuple[Trainings, ...] = ()


@dataclass(frozen=True)
class Window:
    """`num_steps` inner steps of `num_tasks` tasks; trainings beyond that see the same batches again, in order."""

    problem: Problem
    num_steps: int
    num_tasks: int

    @torch.no_grad()
    def run(self, trainings: Trainings, weights: Tree, generator: torch.Generator) -> Unroll:
        """All trainings, a part after the other."""
        batches = self.draw(len(trainings.step), generator)
        unroll = self.replayed if captures.is_at_home(trainings.step) else self.unroll
        unrolls = [unroll(trainings.of(part), {name: leaf[part].contiguous() for name, leaf in weights.items()},
                          batches.of(part)) for part in self.parts(trainings)]
        return Unroll(MetaLosses.joined([unroll.meta_losses for unroll in unrolls]),
                      Trainings.joined([unroll.trainings for unroll in unrolls]))

    def draw(self, num_trainings: int, generator: torch.Generator) -> Batches:
        """The batches of `num_trainings`."""
        family, repeats = self.problem.steps.family, num_trainings // self.num_tasks
        inner_rows = inner.draw(family, "inner", (self.num_steps, self.num_tasks), generator)
        num_measured = sum(map(self.is_measured, range(self.num_steps)))
        meta_rows = inner.draw_meta(family, (num_measured, self.num_tasks), self.problem.settings.meta_batch_size,
                                    generator)
        return Batches(family, inner_rows.repeat(1, repeats, 1), meta_rows.repeat(1, repeats, 1))

    def parts(self, trainings: Trainings) -> Iterator[slice]:
        """Equal parts of the trainings: several where they are compiled for a CPU, else one."""
        count = size = len(trainings.step)
        if self.problem.steps.is_compiled and trainings.step.device.type == "cpu":
            num_parameters = sum(prod(leaf.shape[1:]) for leaf in trainings.params.values())
            size = max((each for each in range(1, count + 1)
                        if count % each == 0 and each * num_parameters <= PART_SIZE), default=1)
        return (slice(start, start + size) for start in range(0, count, size))

    def unroll(self, trainings: Trainings, weights: Tree, batches: Batches, *, remembers: bool = False,
               gradients: Gradients = "none") -> Unroll:
        """The steps of one part, with every place they came by where it `remembers`; `gradients` as in `inner.step`."""
        settings, steps = self.problem.settings, self.problem.steps
        losses: list[Tensor] = []
        progress, visited = [], []
        for index in range(self.num_steps):
            if remembers:
                visited.append(trainings)
            loss, trainings = steps.step(weights, trainings, batches.inner(index), gradients)
            if self.is_measured(index):
                losses.append(steps.losses(trainings, batches.meta(len(losses)))
                              if settings.meta_loss == "validation" else loss)
                progress.append((trainings.step / trainings.horizon).squeeze(-1))
        return Unroll(MetaLosses(torch.stack(losses), torch.stack(progress), steps.family.loss_cap,
                                 settings.late_emphasis), trainings, tuple(visited))

    def replayed(self, trainings: Trainings, weights: Tree, batches: Batches) -> Unroll:
        """As `unroll`, from truncation to truncation, each of which is captured once and replayed as one."""
        settings, steps = self.problem.settings, self.problem.steps
        window, losses, progress = replace(self, num_steps=settings.truncation), [], []
        key = (settings.truncation, settings.num_meta_losses, settings.meta_loss)
        for rows in batches.windows(self.num_steps // settings.truncation):
            found = steps.captures(key, window.of_tree, prefixed("trainings", trainings.to_tree())
                                   | prefixed("weights", weights) | {"inner": rows.inner_rows, "meta": rows.meta_rows})
            losses.append(found["losses"])
            progress.append(found["progress"])
            trainings = Trainings.from_tree(within("trainings", found))
        return Unroll(MetaLosses(torch.cat(losses), torch.cat(progress), steps.family.loss_cap,
                                 settings.late_emphasis), trainings)

    def of_tree(self, tree: Tree) -> Tree:
        """`unroll` with all that it takes and gives as trees."""
        unroll = self.unroll(Trainings.from_tree(within("trainings", tree)), within("weights", tree),
                             Batches(self.problem.steps.family, tree["inner"], tree["meta"]))
        return prefixed("trainings", unroll.trainings.to_tree()) | {
            "losses": unroll.meta_losses.losses, "progress": unroll.meta_losses.progress}

    def is_measured(self, index: int) -> bool:
        """Whether a meta-loss is taken after inner step `index`."""
        return (index + 1) % (self.problem.settings.truncation // self.problem.settings.num_meta_losses) == 0


def draw_horizon(settings: MetaTraining, generator: torch.Generator) -> int:
    """Log-uniform, in whole truncations."""
    low, high = log(settings.horizon * settings.min_horizon_ratio), log(settings.horizon)
    drawn = exp(low + (high - low) * float(torch.rand((), generator=generator)))
    return max(1, round(drawn / settings.truncation)) * settings.truncation


def fresh_trainings(problem: Problem, horizons: list[int], generator: torch.Generator) -> Trainings:
    """One training a horizon."""
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in horizons]
    generators = [torch.Generator().manual_seed(seed_for(seed, "training")) for seed in seeds]
    return inner.start(problem.steps.optimizer, problem.steps.family, generators, horizons)


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
