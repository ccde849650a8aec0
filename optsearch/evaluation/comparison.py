"""A learned optimizer against the tuned baseline: a trial's value while searching, a headline at the end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from optsearch.evaluation import baseline as baselines
from optsearch.evaluation import metrics, runs
from optsearch.evaluation.baseline import Baseline
from optsearch.evaluation.metrics import Interval
from optsearch.evaluation.runs import Runs, Setup
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

# Purposes keep the seeds apart: what is tuned or selected on is never what is reported.
TUNING, SELECTION, REPORT = "tuning", "selection", "report"
NUM_TUNING_SEEDS = 5
NUM_SELECTION_SEEDS = 6
NUM_REPORT_SEEDS = 16

Cache = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]


def uncached(key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A cache that keeps nothing."""
    return compute()


def tuned_baseline(family: TaskFamily, horizon: int, cache: Cache = uncached) -> Baseline:
    """The baseline of a family at a horizon, tuned on `meta` rows with seeds used for nothing else."""
    setup = Setup(family, horizon, "meta", tuple(range(NUM_TUNING_SEEDS)), TUNING)
    key = f"adamw-cosine/{family.name}/{horizon}/{NUM_TUNING_SEEDS}"
    return Baseline.from_config(cache(key, lambda: baselines.tune(setup).to_config()))


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
    tuned = tuned_baseline(family, horizon, cache)
    key = f"adamw-cosine/{family.name}/{horizon}/{NUM_SELECTION_SEEDS}/finals"
    content = cache(key, lambda: {"finals": metrics.final_loss(baselines.run(tuned, setup).measured).tolist()})
    return Opponent(setup, torch.tensor(content["finals"]))


def value(optimizer: LearnedOptimizer, weights: Tree, opponents: Sequence[Opponent]) -> float:
    """Mean over families and seeds of log(relative loss): 0 ties with tuned AdamW, below 0 is better."""
    return float(torch.stack([log_relative_losses(optimizer, weights, each).mean() for each in opponents]).mean())


def log_relative_losses(optimizer: LearnedOptimizer, weights: Tree, against: Opponent) -> Tensor:
    """One value a seed; finite, since losses are capped."""
    measured = runs.run(optimizer, {name: leaf[None] for name, leaf in weights.items()}, against.setup).measured
    return (metrics.final_loss(measured).cpu() / against.finals).log()


@dataclass(frozen=True)
class FamilyReport:
    """Both optimizers' runs on one family, one column a seed, and the seconds that one training took."""

    baseline: Baseline
    learned_runs: Runs
    baseline_runs: Runs
    num_failed: int
    learned_seconds: float
    baseline_seconds: float

    @property
    def relative_losses(self) -> Tensor:
        return metrics.final_loss(self.learned_runs.measured) / metrics.final_loss(self.baseline_runs.measured)

    @property
    def speedups(self) -> Tensor:
        return metrics.speedup(self.learned_runs.measured, metrics.final_loss(self.baseline_runs.measured))

    @property
    def train_speedups(self) -> Tensor:
        return metrics.speedup(self.learned_runs.train, metrics.final_loss(self.baseline_runs.train))


@dataclass(frozen=True)
class Comparison:
    """The headline: interquartile means over families and seeds with intervals bootstrapped over seeds."""

    relative_loss: Interval
    speedup: Interval
    train_speedup: Interval
    num_failed: int
    families: tuple[FamilyReport, ...]

    def to_config(self) -> dict[str, Any]:
        return {"relative_loss": self.relative_loss.to_config(), "speedup": self.speedup.to_config(),
                "train_speedup": self.train_speedup.to_config(), "num_failed": self.num_failed,
                "families": {report.baseline.family: {
                    "relative_loss": round(float(metrics.interquartile_mean(report.relative_losses)), 4),
                    "baseline_lr": report.baseline.learning_rate,
                    "baseline_lr_is_interior": report.baseline.is_interior,
                    "seconds_ratio": round(report.learned_seconds / report.baseline_seconds, 2),
                } for report in self.families}}


def compared(reports: Sequence[FamilyReport]) -> Comparison:
    """The headline of several families' reports."""
    relative_loss, speedup, train_speedup = (
        metrics.bootstrap([getattr(report, quantity).cpu() for report in reports], seed=0)
        for quantity in ("relative_losses", "speedups", "train_speedups"))
    return Comparison(relative_loss, speedup, train_speedup, sum(report.num_failed for report in reports),
                      tuple(reports))


def report_setups(families: Sequence[TaskFamily], horizon: int, first_seed: int = 0) -> tuple[Setup, ...]:
    """Fresh seeds, and test rows that neither meta-training nor selection has seen."""
    seeds = tuple(range(first_seed, first_seed + NUM_REPORT_SEEDS))
    return tuple(Setup(family, horizon, "test", seeds, REPORT) for family in families)


def report(optimizer: LearnedOptimizer, weights: Tree, setup: Setup, cache: Cache = uncached) -> FamilyReport:
    """Train with both on the setup's seeds; see `report_setups`."""
    tuned = tuned_baseline(setup.family, setup.horizon, cache)
    # A short run each first: the first call of an operation in a process costs more than all others.
    short = replace(setup, horizon=2)
    batched = {name: leaf[None] for name, leaf in weights.items()}
    baselines.run(tuned, short)
    runs.run(optimizer, batched, short)
    moments = [time.perf_counter()]
    baseline_runs = baselines.run(tuned, setup)
    moments.append(time.perf_counter())
    learned_runs = runs.run(optimizer, batched, setup)
    moments.append(time.perf_counter())
    seconds = [(end - start) / len(setup.seeds) for start, end in pairwise(moments)]
    num_failed = int((metrics.final_loss(learned_runs.measured) >= setup.family.loss_cap).sum())
    return FamilyReport(tuned, learned_runs, baseline_runs, num_failed,
                        learned_seconds=seconds[1], baseline_seconds=seconds[0])
