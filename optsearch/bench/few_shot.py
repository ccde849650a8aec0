"""How far little meta-training gets: from starts learned on other domains, and from random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from optsearch import progress
from optsearch.adaptation import AdaptedEstimator, FewShot
from optsearch.bench.judging import Judge, Results
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.search.parallel import each
from optsearch.tasks import families_of
from optsearch.tasks.suites import roles
from optsearch.trees import Tree

Row = dict[str, Any]
# Starts see two domains; what they are adapted to is of others. Synthetic problems, whose best steps are far longer,
# make starts that blow up on real networks.
LEARNED_ON = tuple(task for domain in ("tabular", "scientific")
                   for task in (*roles(domain).meta_training, *roles(domain).validation))
FAMILIES = ("digits_mlp/64", "patches_mlp/24x2", "keywords_mlp/16x32", "pitch_mlp/8x32", "code_bag/8x16")
SCRATCH, SCRATCH_AS_ADAPTED, PLAIN = "scratch", "scratch, as adapted", "plain"
# With the default settings, and with those of adapting.
FROM_SCRATCH = (SCRATCH, SCRATCH_AS_ADAPTED)
METHODS = (PLAIN, "reptile", "first_order_maml", "maml", "anil")
# What plain starts are worth that took longer: learned once, they serve many.
LONGER = ("plain, longer", "plain, longest")
# Parts of a family's budget.
SCRATCH_PART, ADAPTING_PART = 0.3, 0.05
# Problems in other units are more problems: the starts see units up to so many times as large or small.
UNITS = 10.0
# Tasks that few-shot methods see at a time, and their steps: few, so that the budget allows for many meta-steps.
NUM_TASKS, NUM_STEPS, LEARNING_RATE = 2, 2, 1e-3
# What some thirty meta-steps need: long ones, of meta-gradients with little noise, none of which outweighs the rest.
ADAPTING: Mapping[str, float] = {"sigma": 0.03, "meta_lr": 6e-3, "max_meta_gradient": 5.0}


@dataclass(frozen=True)
class Comparison:
    """A start by each method from each seed, adapted to families of other domains one at a time.

    Budgets are inner steps: `start_budget` for a start, whatever the method, `longer_start_budgets` for those of
    `LONGER`; `budget` is what learning a family from
    scratch would be given, of which scratch and adaptation get their parts.
    """

    design: str = "adamw_mlp"
    learned_on: Sequence[str] = LEARNED_ON
    families: Sequence[str] = FAMILIES
    horizon: int = 100
    start_budget: int = 60_000
    longer_start_budgets: tuple[int, ...] = (240_000, 600_000)
    budget: int = 100_000
    num_seeds: int = 3

    def asked(self) -> list[Row]:
        """Seeds first, so that a stopped comparison has all methods."""
        return [{"design": self.design, "horizon": self.horizon, "seed": seed, "family": family,
                 "method": method, "start_inner_steps": self.steps_before(method),
                 "inner_steps": round(part * self.budget)}
                for seed in range(self.num_seeds) for family in self.families
                for method, part in [*((method, SCRATCH_PART) for method in FROM_SCRATCH),
                                     *((method, part) for method in (*METHODS, *LONGER)
                                       for part in (0.0, ADAPTING_PART))]]

    def steps_before(self, method: str) -> int:
        """Inner steps that the method's start takes."""
        if method in LONGER:
            return self.longer_start_budgets[LONGER.index(method)]
        return 0 if method in FROM_SCRATCH else self.start_budget


def compare(comparison: Comparison, directory: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """Every result, a row each with its value, log(relative loss); what `directory` has already is not run again."""
    starts = _Starts(comparison, directory / "few_shot_starts")
    waiting = [(method, seed) for seed in range(comparison.num_seeds) for method in (*METHODS, *LONGER)
               if not starts.path(method, seed).exists()]
    with progress.meter("starts", max(1, len(waiting)), quiet=quiet) as meter:
        for done, method in enumerate(each(starts.learn, waiting, num_workers), 1):
            meter.update(done, method)
    return Results(directory / "few_shot.json").hold(comparison.asked(), starts.adapted, num_workers, quiet=quiet)


@cache
def judge(horizon: int) -> Judge:
    """One a process, which tunes opponents once."""
    return Judge(horizon)


@dataclass(frozen=True)
class _Starts:
    """Artifacts in a folder, one a method and seed."""

    comparison: Comparison
    folder: Path

    def path(self, method: str, seed: int) -> Path:
        asked, steps = self.comparison, self.comparison.steps_before(method)
        return self.folder / f"{asked.design}-{asked.horizon}-{method}-{steps}-{seed}.safetensors"

    def learn(self, wanted: tuple[str, int]) -> str:
        torch.set_num_threads(1)
        method, seed = wanted
        plan = start_plan(self.comparison, method, seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        Artifact(plan.optimizer, _learned(plan), {}).save(self.path(method, seed))
        return method

    def adapted(self, row: Row) -> Row:
        """Plain meta-training, from a start or from random weights."""
        asked, seed, method = self.comparison, row["seed"], row["method"]
        design, families = named_design(asked.design), families_of([row["family"]])
        initial = None if method in FROM_SCRATCH else Artifact.load(self.path(method, seed)).weights
        plan = Plan(design, families, settings_of(asked, method), row["inner_steps"], 1, seed, initial=initial)
        weights = _learned(plan) if row["inner_steps"] else plan.first_weights()
        return {"value": judge(asked.horizon).log_losses(design, weights, [row["family"]])[row["family"]]}


def start_plan(comparison: Comparison, method: str, seed: int) -> Plan:
    """How a start is learned."""
    settings = MetaTraining(horizon=comparison.horizon, reparametrization=UNITS)
    plan = Plan(named_design(comparison.design), families_of(comparison.learned_on), settings,
                comparison.steps_before(method), 1, seed)
    if method in (PLAIN, *LONGER):
        return plan
    few_shot = FewShot(method, NUM_STEPS, LEARNING_RATE)  # type: ignore[arg-type]
    return replace(plan, settings=replace(settings, num_tasks=NUM_TASKS),
                   estimator=AdaptedEstimator(plan.chosen_estimator, few_shot))


def settings_of(comparison: Comparison, method: str) -> MetaTraining:
    """How a family is learned, from the method's start or from scratch."""
    changes = {} if method == SCRATCH else dict(ADAPTING)
    return MetaTraining.from_config({"horizon": comparison.horizon} | changes)


def _learned(plan: Plan) -> Tree:
    """Where the meta-training ends, even where it diverges."""
    return list(meta_train(plan))[-1].weights
