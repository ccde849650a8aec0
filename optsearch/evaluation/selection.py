"""A trial's value: a learned optimizer against the tuned baseline, while searching."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.evaluation import metrics, runs
from optsearch.evaluation.contenders import BASELINE, hand_made
from optsearch.evaluation.measurements import DIGITS, SELECTION, Cache, measured, uncached
from optsearch.evaluation.runs import Runs, Setup
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

NUM_SELECTION_SEEDS = 6
NUM_CURVE_POINTS = 50
# A training may end at a loss of exactly 0, whose logarithm would outweigh every other family.
LEAST_RELATIVE_LOSS = 0.01


@dataclass(frozen=True)
class Opponent:
    """What a trial of the search is measured against: the tuned baseline's final losses on the selection seeds."""

    setup: Setup
    finals: Tensor


def selection_setup(family: TaskFamily, horizon: int) -> Setup:
    """What a trial's value is measured on: `meta` rows and a few seeds of their own."""
    return Setup(family, horizon, "meta", tuple(range(NUM_SELECTION_SEEDS)), SELECTION)


def opponent(family: TaskFamily, horizon: int, cache: Cache = uncached) -> Opponent:
    """The tuned baseline on the family's selection setup."""
    setup = selection_setup(family, horizon)
    return Opponent(setup, measured(hand_made(BASELINE), setup, cache).finals)


def baseline_curve(family: TaskFamily, horizon: int, cache: Cache = uncached) -> list[float]:
    """The tuned baseline's `curve` where a trial's value is measured."""
    return curve(measured(hand_made(BASELINE), selection_setup(family, horizon), cache).runs)


def curve(found: Runs) -> list[float]:
    """Mean training losses of at most `NUM_CURVE_POINTS` equal parts of the horizon, over all trainings."""
    losses = found.train.mean(1)
    parts = losses.tensor_split(min(len(losses), NUM_CURVE_POINTS))
    return [float(f"{float(part.mean()):.{DIGITS}g}") for part in parts]


def value_and_curves(optimizer: LearnedOptimizer, weights: Tree,
                     opponents: Sequence[Opponent]) -> tuple[float, list[list[float]]]:
    """The value, and the `curve` on every family in the trainings that it was measured on."""
    found = [_run(optimizer, {name: leaf[None] for name, leaf in weights.items()}, each) for each in opponents]
    relative = [_log_relative(each, against).mean(1) for each, against in zip(found, opponents, strict=True)]
    return float(torch.stack(relative).mean(0)), list(map(curve, found))


def value(optimizer: LearnedOptimizer, weights: Tree, opponents: Sequence[Opponent]) -> float:
    """Mean over families and seeds of log(relative loss): 0 ties with tuned AdamW, below 0 is better."""
    return value_and_curves(optimizer, weights, opponents)[0]


def values(optimizer: LearnedOptimizer, weights: Tree, opponents: Sequence[Opponent]) -> Tensor:
    """The values `[m]` of `m` sets of weights (leaves `[m, ...]`), all trained with side by side."""
    return torch.stack([log_relative_losses(optimizer, weights, each).mean(1) for each in opponents]).mean(0)


def log_relative_losses(optimizer: LearnedOptimizer, weights: Tree, against: Opponent) -> Tensor:
    """One value a set of weights and seed, `[m, seeds]`; finite, since losses are capped and so is what 0 is worth."""
    return _log_relative(_run(optimizer, weights, against), against)


def _run(optimizer: LearnedOptimizer, weights: Tree, against: Opponent) -> Runs:
    return runs.run(optimizer, weights, against.setup.of_the_end)


def _log_relative(found: Runs, against: Opponent) -> Tensor:
    finals = metrics.final_loss(found.measured).cpu()
    relative = finals.view(-1, len(against.finals)) / against.finals
    return relative.clamp(min=LEAST_RELATIVE_LOSS).log()
