"""Whole inner trainings of one family, measured: the loss of every step, and the loss on a split along the way."""

from dataclasses import dataclass

import torch
from torch import Tensor

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

    A seed fixes task, initial params and batches, so two optimizers on one setup meet the same.
    """

    family: TaskFamily
    horizon: int
    split: Split
    seeds: tuple[int, ...]
    purpose: str


def run(optimizer: InnerOptimizer, weights: Tree, setup: Setup) -> Runs:
    """Train once a seed for each of `m` sets of weights (leaves `[m, ...]`); columns run over sets, then seeds."""
    # Where nothing is learned there is one set, of none.
    num_sets, num_seeds = len(next(iter(weights.values()), (None,))), len(setup.seeds)
    weights = {name: leaf.repeat_interleave(num_seeds, 0) for name, leaf in weights.items()}
    generators = [generator(seed, setup.purpose, setup.family.name) for seed in setup.seeds]
    trainings = inner.start(optimizer, setup.family, generators, [setup.horizon] * num_seeds)
    rows = torch.stack([inner.draw(setup.family, "inner", (setup.horizon,), seeded) for seeded in generators], 1)
    trainings = trainings.map(lambda leaf: leaf.repeat(num_sets, *[1] * (leaf.dim() - 1)))
    return _run(optimizer, weights, setup, trainings, rows.repeat(1, num_sets, 1))


@torch.no_grad()
def _run(optimizer: InnerOptimizer, weights: Tree, setup: Setup, trainings: Trainings, rows: Tensor) -> Runs:
    train, measured = [], []
    every = max(1, setup.horizon // NUM_MEASUREMENTS)
    for index in range(setup.horizon):
        batch = inner.rows_at(setup.family, "inner", rows[index])
        losses, trainings = inner.step(optimizer, setup.family, weights, trainings, batch)
        train.append(inner.capped(losses, setup.family.loss_cap))
        if (setup.horizon - index - 1) % every == 0:
            losses = inner.losses_on_split(setup.family, trainings, setup.split)
            measured.append(inner.capped(losses, setup.family.loss_cap))
    return Runs(torch.stack(train), torch.stack(measured))
