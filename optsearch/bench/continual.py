"""What is forgotten when one domain is learned after another, and what that costs the later ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from optsearch.adaptation import Keeping, kept
from optsearch.bench.files import write_whole
from optsearch.bench.judging import Judge, Results
from optsearch.evaluation.metrics import Interval, bootstrap
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import LearnedOptimizer, named_design
from optsearch.seeds import seed_for
from optsearch.tables import Table
from optsearch.tasks import families_of
from optsearch.trees import Tree

Row = dict[str, Any]
NAIVE = "naive"
# Strength and share were found from seed 100, which is none of those that are reported.
METHODS: Mapping[str, Keeping | None] = {
    NAIVE: None, "ewc": Keeping("ewc"), "replay": Keeping("replay"), "progressive": Keeping("progressive")}
# Of naive forgetting, what the best method may be left with.
ALLOWED = 0.25


@dataclass(frozen=True)
class Comparison:
    """Every method learns `tasks`, each of another domain, one after the other, for `budget` inner steps each.

    Where a seed's methods part, after the first task, they have the same weights.
    """

    design: str = "adamw_mlp"
    tasks: Sequence[str] = ("siren_image", "digits_mlp", "tabular_mlp")
    horizon: int = 100
    budget: int = 40_000
    num_seeds: int = 3

    def asked(self) -> list[Row]:
        """Seeds first, so that one that is stopped has all methods."""
        return [{"design": self.design, "tasks": list(self.tasks), "horizon": self.horizon, "budget": self.budget,
                 "seed": seed, "method": method, "keeping": keeping.to_config() if keeping else {}}
                for seed in range(self.num_seeds) for method, keeping in METHODS.items()]


def compare(comparison: Comparison, directory: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """A row for each method and seed; what `directory` has already is not run again.

    Its `values` are log(relative loss) on each task's test rows, after each task that was learned.
    """
    return Results(directory / "continual.json").hold(
        comparison.asked(), _Learner(directory / "continual"), num_workers, quiet=quiet)


@dataclass(frozen=True)
class _Learner:
    """Learns one task after the other; what all methods of a seed begin with is kept in `folder`."""

    folder: Path

    def __call__(self, row: Row) -> Row:
        design, weights = self._first(row)
        values = [_values(row, design, weights)]
        for index in range(1, len(row["tasks"])):
            plan = replace(_plan(row, index), optimizer=design, initial=weights)
            if row["keeping"]:
                plan = kept(plan, Keeping(**row["keeping"]), families_of(row["tasks"][:index]))
            design, weights = plan.optimizer, _learned(plan)
            values.append(_values(row, design, weights))
        return {"values": values, "flops_per_parameter": round(design.costs().flops_per_parameter)}

    def _first(self, row: Row) -> tuple[LearnedOptimizer, Tree]:
        path = self.folder / "-".join(f"{row[name]}" for name in ("design", "horizon", "budget", "seed"))
        path = path.with_name(f"{path.name}-{row['tasks'][0]}.safetensors")
        if not path.exists():
            plan = _plan(row, 0)
            self.folder.mkdir(parents=True, exist_ok=True)
            Artifact(plan.optimizer, _learned(plan), {"tasks": row["tasks"][:1]}).save(path)
        found = Artifact.load(path)
        return found.design, found.weights


def _plan(row: Row, index: int) -> Plan:
    return Plan(named_design(row["design"]), families_of([row["tasks"][index]]), MetaTraining(horizon=row["horizon"]),
                row["budget"], 2, seed_for(row["seed"], "continual", index))


def _learned(plan: Plan) -> Tree:
    for point in meta_train(plan):
        weights = point.weights
    return weights


def _values(row: Row, design: LearnedOptimizer, weights: Tree) -> Row:
    """The mean over a task's families."""
    found = {task: list(_judge(row["horizon"]).log_losses(design, weights, [task]).values()) for task in row["tasks"]}
    return {task: sum(values) / len(values) for task, values in found.items()}


@cache
def _judge(horizon: int) -> Judge:
    """One a process, since it tunes an opponent for every family."""
    return Judge(horizon)


def forgetting(rows: Sequence[Row], method: str) -> Interval:
    """How much higher the value on the first task is in the end than when it was just learned, over seeds."""
    return _interval([row["values"][-1][row["tasks"][0]] - row["values"][0][row["tasks"][0]]
                      for row in _of(rows, method)])


def value(rows: Sequence[Row], method: str, task: int, after: int) -> Interval:
    """On task number `task` after number `after` was learned, over seeds."""
    return _interval([row["values"][after][row["tasks"][task]] for row in _of(rows, method)])


def best(rows: Sequence[Row]) -> str:
    """The method with the lowest mean value over all tasks in the end: one that neither forgets nor fails to learn."""
    return min(METHODS, key=lambda method: sum(value(rows, method, task, -1).value
                                               for task in range(len(rows[0]["tasks"]))))


def tables(rows: Sequence[Row]) -> list[Table]:
    """What is forgotten, and what is learned."""
    tasks, naive = rows[0]["tasks"], forgetting(rows, NAIVE).value
    lost = [(method, _words(found), f"{torch.tensor(found.value).exp():.2f} x", f"{found.value / naive:+.0%}",
             f"{_of(rows, method)[0]['flops_per_parameter']}")
            for method in METHODS for found in [forgetting(rows, method)]]
    stages = [(method, *(_words(value(rows, method, task, after)) for task in range(1, len(tasks))
                         for after in dict.fromkeys((task, len(tasks) - 1))))
              for method in METHODS]
    heads = [f"{tasks[task]}, {'in the end' if after > task or after == len(tasks) - 1 else 'just learned'}"
             for task in range(1, len(tasks)) for after in dict.fromkeys((task, len(tasks) - 1))]
    ends = [(name, *(_words(value(rows, method, task, after)) for task in range(len(tasks))))
            for name, method, after in [("after the first task", NAIVE, 0), *((each, each, -1) for each in METHODS)]]
    note = "interquartile means over seeds (95 % bootstrap intervals). Lower is better"
    return [Table("What is forgotten", f"Value on {tasks[0]} in the end minus that when it was just learned, which was "
                  f"{_words(value(rows, NAIVE, 0, 0))}, as a difference, as a factor of the loss and as a share of "
                  f"naive's: {note}.",
                  ("method", "forgetting", "loss", "share of naive", "FLOPs a parameter in the end"), lost),
            Table("What is learned", f"Values on the later tasks: {note}.", ("method", *heads), stages),
            Table("What is had in the end", f"Values on all tasks, first where methods part: {note}.",
                  ("method", *tasks), ends)]


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """`continual.md`; returns what was written."""
    row, keepings = rows[0], {method: keeping for method, keeping in METHODS.items() if keeping}
    lines = ["# One domain after another, measured", "",
             f"Made by `optsearch bench continual`: `{row['design']}` is meta-trained at horizon {row['horizon']} on "
             f"{', then '.join(row['tasks'])}, {row['budget']:,} inner steps each, from "
             f"{len({row['seed'] for row in rows})} seeds. Values are log(relative loss) on test rows, 0 ties with "
             f"tuned AdamW + cosine. Methods part after the first task. Of a later task's budget, EWC (strength "
             f"{keepings['ewc'].strength:g}) spends a tenth on measuring what mattered and replay gives "
             f"{keepings['replay'].share:.0%} to old tasks; progressive adds {keepings['progressive'].num_units} units "
             "a layer a task, whose readout all tasks share: who keeps the first file for the first domain forgets "
             "nothing there, whatever the method. Strength and share were found from another seed, after a tenth of "
             "that strength and a share of 30% had forgotten everything here.", "",
             verdict(rows)]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    page = directory / "continual.md"
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page]


def verdict(rows: Sequence[Row]) -> str:
    """Who forgot at most a quarter of what naive forgot, and who is best over all tasks."""
    naive = forgetting(rows, NAIVE).value
    few = [method for method in METHODS if method != NAIVE and forgetting(rows, method).value <= ALLOWED * naive]
    said = f"{', '.join(few)}" if few else "No method"
    return (f"At most {ALLOWED:.0%} of what naive fine-tuning forgets: {said}. Lowest mean value over all tasks in the "
            f"end: {best(rows)}.")


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _interval(values: Sequence[float]) -> Interval:
    return bootstrap([torch.tensor(values)], 0)


def _words(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
