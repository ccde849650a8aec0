"""Contenders side by side on fresh seeds and test rows, and where they stand."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsearch.evaluation import metrics, runs
from optsearch.evaluation.contenders import BASELINE, Contender, hand_made
from optsearch.evaluation.measurements import REPORT, Cache, Measurement, measured, uncached
from optsearch.evaluation.metrics import Interval
from optsearch.evaluation.runs import Setup
from optsearch.tasks.family import TaskFamily

NUM_REPORT_SEEDS = 16
NUM_ROUNDS, STEPS_PER_ROUND = 5, 6


def report_setup(family: TaskFamily, horizon: int, first_seed: int = 0, num_seeds: int = NUM_REPORT_SEEDS) -> Setup:
    """Fresh seeds, and test rows that neither meta-training nor selection has seen."""
    return Setup(family, horizon, "test", tuple(range(first_seed, first_seed + num_seeds)), REPORT)


@dataclass(frozen=True)
class Result:
    """All contenders on one family at one horizon; the tuned baseline is always among them.

    `seconds_ratios` are the times of one training step relative to the baseline's, taken in turns.
    """

    family: str
    num_parameters: int
    horizon: int
    measurements: Mapping[str, Measurement]
    seconds_ratios: Mapping[str, float]

    @property
    def baseline(self) -> Measurement:
        return self.measurements[BASELINE]

    def relative_losses(self, name: str, over: str = BASELINE) -> Tensor:
        """Final losses ÷ those of another, by default the baseline's, with the same seed, `[seeds]`."""
        return self.measurements[name].finals / self.measurements[over].finals

    def speedups(self, name: str, over: str = BASELINE) -> Tensor:
        """To the other's final loss on the measured split."""
        return metrics.speedup(self.measurements[name].runs.measured, self.measurements[over].runs.measured)

    def train_speedups(self, name: str, over: str = BASELINE) -> Tensor:
        """To the other's final training loss."""
        return metrics.speedup(self.measurements[name].runs.train, self.measurements[over].runs.train)

    def to_config(self) -> dict[str, Any]:
        """What is worth reading of every contender, without the curves."""
        return {"family": self.family, "horizon": self.horizon, "contenders": {
            name: {"relative_losses": _rounded(self.relative_losses(name)), "speedups": _rounded(self.speedups(name)),
                   "train_speedups": _rounded(self.train_speedups(name)), "final_losses": _rounded(found.finals),
                   "num_failed": found.num_failed, "seconds_ratio": round(self.seconds_ratios[name], 3),
                   **vars(found.tuned)} for name, found in self.measurements.items()}}


def compete(contenders: Sequence[Contender], setup: Setup, cache: Cache = uncached) -> Result:
    """Measure the baseline and every contender on the setup's seeds; see `report_setup`."""
    everyone = {each.name: each for each in (hand_made(BASELINE), *contenders)}
    return Result(setup.family.name, setup.family.num_parameters, setup.horizon,
                  {name: measured(each, setup, cache) for name, each in everyone.items()},
                  seconds_ratios(everyone, setup))


def seconds_ratios(contenders: Mapping[str, Contender], setup: Setup) -> dict[str, float]:
    """Medians over rounds of the time of a step of each, side by side, relative to the baseline's."""
    started = {name: runs.Steady.start(each.optimizer, each.weights_at(each.learning_rates[:1], setup), setup)
               for name, each in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(NUM_ROUNDS):
        for name, steady in started.items():
            begun = time.perf_counter()
            for _ in range(STEPS_PER_ROUND):
                steady.step()
            times[name].append(time.perf_counter() - begun)
    return {name: float((torch.tensor(mine) / torch.tensor(times[BASELINE])).median())
            for name, mine in times.items()}


@dataclass(frozen=True)
class Standing:
    """Where one contender stands over several results: interquartile means with intervals bootstrapped over seeds.

    `seconds_ratio` is a median over families; `num_at_edge` counts families whose best learning rate was at the edge
    of the grid.
    """

    name: str
    relative_loss: Interval
    speedup: Interval
    train_speedup: Interval
    seconds_ratio: float
    num_failed: int
    num_trainings: int
    num_tried: int
    num_at_edge: int

    def to_config(self) -> dict[str, Any]:
        return {name: entry.to_config() if isinstance(entry, Interval) else entry
                for name, entry in vars(self).items()}


def standing(results: Sequence[Result], name: str) -> Standing:
    """Families count alike, whatever their losses."""
    relative_loss, speedup, train_speedup = (
        metrics.bootstrap([getattr(result, quantity)(name) for result in results], seed=0)
        for quantity in ("relative_losses", "speedups", "train_speedups"))
    mine = [result.measurements[name] for result in results]
    ratios = torch.tensor([result.seconds_ratios[name] for result in results])
    return Standing(name, relative_loss, speedup, train_speedup, round(float(ratios.median()), 3),
                    sum(each.num_failed for each in mine), sum(len(each.finals) for each in mine),
                    max(each.tuned.num_tried for each in mine), sum(not each.tuned.is_interior for each in mine))


@dataclass(frozen=True)
class Duel:
    """One contender over another: interquartile means with intervals, and families on which it is better.

    `worst` is the largest relative loss of a family, the interquartile mean over its seeds. `seconds_ratio` is the time
    of a training step, model included, the median over families.
    """

    name: str
    over: str
    relative_loss: Interval
    speedup: Interval
    train_speedup: Interval
    num_better: int
    num_families: int
    worst: float
    worst_family: str
    seconds_ratio: float

    def to_config(self) -> dict[str, Any]:
        return {name: entry.to_config() if isinstance(entry, Interval) else entry
                for name, entry in vars(self).items()}


def duel(results: Sequence[Result], name: str, over: str) -> Duel:
    """Families count alike."""
    relative_loss, speedup, train_speedup = (
        metrics.bootstrap([getattr(result, quantity)(name, over) for result in results], seed=0)
        for quantity in ("relative_losses", "speedups", "train_speedups"))
    losses = {result.family: float(metrics.interquartile_mean(result.relative_losses(name, over)))
              for result in results}
    worst = max(losses, key=losses.__getitem__)
    ratios = torch.tensor([result.seconds_ratios[name] / result.seconds_ratios[over] for result in results])
    return Duel(name, over, relative_loss, speedup, train_speedup, sum(loss < 1 for loss in losses.values()),
                len(losses), round(losses[worst], 4), worst, round(float(ratios.median()), 3))


def profile(results: Sequence[Result], name: str, ratios: Sequence[float]) -> list[float]:
    """A performance profile: the part of all trainings that end within each ratio of the baseline's loss."""
    found = torch.cat([result.relative_losses(name) for result in results])
    return [float((found <= ratio).float().mean()) for ratio in ratios]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
