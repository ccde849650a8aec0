"""Whether what is meant for a domain is worth its place: the same meta-training with it and without."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from optsearch.bench.files import write_whole
from optsearch.bench.judging import Judge, Results
from optsearch.evaluation.metrics import Interval, bootstrap
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import AdamW, LearnedOptimizer, named_design
from optsearch.tables import Table
from optsearch.tasks import families_of

Row = dict[str, Any]
NAME = "specialists"
HORIZON, BUDGET, NUM_POINTS = 100, 30_000, 1
# Earlier ones chose what is compared.
FIRST_SEED = 3


@dataclass(frozen=True)
class Specialty:
    """Something that may suit a domain: groups that a rule or a controller sees.

    It is learned and judged on each of `tasks` alone, with `design` and what is added to it.
    """

    description: str
    tasks: tuple[str, ...]
    design: LearnedOptimizer
    groups: tuple[str, ...] = ()
    tensor_groups: tuple[str, ...] = ()

    def optimizer(self, *, has_it: bool) -> LearnedOptimizer:
        if not has_it:
            return self.design
        features, tensors = self.design.features, self.design.tensors
        return replace(self.design, features=replace(features, groups=(*features.groups, *self.groups)),
                       tensors=replace(tensors, groups=(*tensors.groups, *self.tensor_groups)))


_SMALL = named_design("adamw_mlp")
SPECIALTIES: dict[str, Specialty] = {
    # Without weight decay, which would hide it: rows that are never seen decay all the same.
    "rare rows": Specialty("a rule that sees how often each row and column has a gradient",
                           ("sparse_gradients", "code_bag/8x16"), replace(_SMALL, base=AdamW(weight_decay=0.0)),
                           groups=("line_use",)),
    "kinds": Specialty("a controller that sees each tensor's kind of layer and rank",
                       ("digits_vit/4x4-24x1", "code_bag/8x16"), named_design("adamw_lstm"),
                       tensor_groups=("kind", "rank")),
}


def asked(num_seeds: int) -> list[Row]:
    """Seeds first, so that a stopped comparison has both sides of everything."""
    return [{"specialty": name, "task": task, "has_it": has_it, "seed": seed, "budget": BUDGET, "horizon": HORIZON}
            for seed in range(FIRST_SEED, FIRST_SEED + num_seeds) for name, specialty in SPECIALTIES.items()
            for task in specialty.tasks for has_it in (False, True)]


def compare(num_seeds: int, directory: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """A row each meta-training, with log(relative loss) by family in `values`."""
    return Results(directory / f"{NAME}.json").hold(asked(num_seeds), _run, num_workers, quiet=quiet)


def _run(row: Row) -> Row:
    design = SPECIALTIES[row["specialty"]].optimizer(has_it=row["has_it"])
    plan = Plan(design, families_of([row["task"]]), MetaTraining(horizon=row["horizon"]), row["budget"], NUM_POINTS,
                row["seed"])
    *_, last = meta_train(plan)
    return {"values": _judge(row["horizon"]).log_losses(design, last.weights, [row["task"]])}


@cache
def _judge(horizon: int) -> Judge:
    """One a process, which tunes opponents once."""
    return Judge(horizon)


@dataclass(frozen=True)
class Gain:
    """Values without it and with it, and `change` from one to the other: below 0 it is a gain."""

    num_seeds: int
    without: Interval
    having: Interval
    change: Interval

    @staticmethod
    def of(rows: Sequence[Row]) -> "Gain":
        """From the seeds that both sides have."""
        found = [{row["seed"]: row["values"] for row in rows if row["has_it"] is has_it}
                 for has_it in (False, True)]
        seeds = sorted(set(found[0]) & set(found[1]))
        without, having = (torch.tensor([[by_seed[seed][family] for seed in seeds] for family in by_seed[seeds[0]]])
                           for by_seed in found)
        one, other, change = (bootstrap(list(values), 0) for values in (without, having, having - without))
        return Gain(len(seeds), one, other, change)


def tables(rows: Sequence[Row]) -> list[Table]:
    """One a specialty, those that both sides are there of."""
    note = ("Values are log(relative loss) against tuned AdamW + cosine, interquartile means over families and seeds "
            "with 95 % bootstrap intervals; below 0 in the last column it is a gain.")
    return [Table(f"{name}: {specialty.description}", note,
                  ("task", "seeds", "without it", "with it", "with it - without"), lines)
            for name, specialty in SPECIALTIES.items() if (lines := _lines(rows, name))]


def _lines(rows: Sequence[Row], name: str) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for task in SPECIALTIES[name].tasks:
        mine = [row for row in rows if (row["specialty"], row["task"]) == (name, task)]
        if {row["has_it"] for row in mine} == {False, True}:
            found = Gain.of(mine)
            lines.append((task, str(found.num_seeds), str(found.without), str(found.having), str(found.change)))
    return lines


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """`specialists.md`; returns what was written."""
    lines = ["# What is meant for a domain, measured", "",
             f"Made by `optsearch bench {NAME}`: designs meta-trained for {BUDGET:,} inner steps at horizon {HORIZON} "
             "with something that is meant for a domain and without it, from the same seeds; held against tuned AdamW "
             "on 10 trainings a family."]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    page = directory / f"{NAME}.md"
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page]
