"""Whole inner trainings of one family, measured: the loss of every step, and the loss on a split along the way."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from optsearch.evaluation.metrics import window
from optsearch.meta_training import inner
from optsearch.meta_training.inner import InnerOptimizer, Trainings
from optsearch.seeds import generator
from optsearch.tasks.family import Split, TaskFamily
from optsearch.trees import Tree

NUM_MEASUREMENTS = 50


@dataclass(frozen=True)
class Runs:
    """Curves of `n` trainings: `train` `[horizon, n]` batch losses, `measured` `[num_measurements, n]` on a split.

    Losses are capped as the family says; the measurements are spread evenly and end at the horizon.
    """

    train: Tensor
    measured: Tensor

    def columns(self, part: slice) -> "Runs":
        return Runs(self.train[:, part], self.measured[:, part])


@dataclass(frozen=True)
class Setup:
    """What one optimizer is put to: a family, a horizon, a split, and the seeds of its inner trainings.

    A seed fixes task, initial params and batches, so two optimizers on one setup meet the same. Nothing is measured
    on the split before inner step `measured_from`: those losses are nan.
    """

    family: TaskFamily
    horizon: int
    split: Split
    seeds: tuple[int, ...]
    purpose: str
    measured_from: int = 0

    @property
    def every(self) -> int:
        """Inner steps from one measurement to the next, the last of which stands at the horizon."""
        return max(1, self.horizon // NUM_MEASUREMENTS)

    @property
    def of_the_end(self) -> "Setup":
        """The same, measured no more than the final loss asks for."""
        count = window(ceil(self.horizon / self.every))
        return replace(self, measured_from=self.horizon - 1 - (count - 1) * self.every)


@runtime_checkable
class Averaging(Protocol):
    """An optimizer that is judged at other params than those that it takes gradients at."""

    def evaluated(self, params: Tree, state: Tree) -> Tree:
        """The params to judge, for those of the training and the state beside them."""


def run(optimizer: InnerOptimizer, weights: Tree, setup: Setup) -> Runs:
    """Train once a seed for each of `m` sets of weights (leaves `[m, ...]`); columns run over sets, then seeds."""
    weights, trainings, rows = _started(optimizer, weights, setup)
    size = max(1, inner.MAX_ROWS // setup.family.batch_size)
    parts = [_run(optimizer, {name: leaf[part] for name, leaf in weights.items()}, setup, trainings.of(part),
                  rows[:, part])
             for part in (slice(start, start + size) for start in range(0, len(trainings.step), size))]
    return Runs(torch.cat([part.train for part in parts], 1), torch.cat([part.measured for part in parts], 1))


def _started(optimizer: InnerOptimizer, weights: Tree, setup: Setup) -> tuple[Tree, Trainings, Tensor]:
    """Weights and fresh trainings, one a set and seed, and the numbers of the rows that they will see."""
    # Where nothing is learned there is one set, of none.
    num_sets, num_seeds = len(next(iter(weights.values()), (None,))), len(setup.seeds)
    weights = {name: leaf.repeat_interleave(num_seeds, 0) for name, leaf in weights.items()}
    generators = [generator(seed, setup.purpose, setup.family.name) for seed in setup.seeds]
    trainings = inner.start(optimizer, setup.family, generators, [setup.horizon] * num_seeds)
    rows = torch.stack([inner.draw(setup.family, "inner", (setup.horizon,), seeded) for seeded in generators], 1)
    trainings = trainings.map(lambda leaf: leaf.repeat(num_sets, *[1] * (leaf.dim() - 1)))
    return weights, trainings, rows.repeat(1, num_sets, 1)


@torch.no_grad()
def _run(optimizer: InnerOptimizer, weights: Tree, setup: Setup, trainings: Trainings, rows: Tensor) -> Runs:
    train, measured = [], []
    for index in range(setup.horizon):
        batch = inner.rows_at(setup.family, "inner", rows[index])
        losses, trainings = inner.step(optimizer, setup.family, weights, trainings, batch)
        train.append(inner.capped(losses, setup.family.loss_cap))
        if (setup.horizon - index - 1) % setup.every:
            continue
        if index < setup.measured_from:
            measured.append(torch.full_like(train[-1], torch.nan))
            continue
        losses = inner.losses_on_split(setup.family, _judged(optimizer, trainings), setup.split)
        measured.append(inner.capped(losses, setup.family.loss_cap))
    return Runs(torch.stack(train), torch.stack(measured))


@dataclass
class Steady:
    """Trainings that go on step by step on one batch, for whoever wants to know how long a step takes."""

    optimizer: InnerOptimizer
    family: TaskFamily
    weights: Tree
    trainings: Trainings
    batch: Tree

    @staticmethod
    def start(optimizer: InnerOptimizer, weights: Tree, setup: Setup) -> "Steady":
        """One step ahead: the first call of an operation in a process costs more than all others."""
        weights, trainings, rows = _started(optimizer, weights, setup)
        steady = Steady(optimizer, setup.family, weights, trainings,
                        inner.rows_at(setup.family, "inner", rows[0]))
        steady.step()
        return steady

    @torch.no_grad()
    def step(self) -> None:
        _, self.trainings = inner.step(self.optimizer, self.family, self.weights, self.trainings, self.batch)


def _judged(optimizer: InnerOptimizer, trainings: Trainings) -> Trainings:
    if not isinstance(optimizer, Averaging):
        return trainings
    return replace(trainings, params=optimizer.evaluated(trainings.params, trainings.state))
