"""Designs against each other: each meta-trained for the same budget from several seeds, then measured on fresh ones."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from optsearch import evaluation, progress
from optsearch.bench.files import write_whole
from optsearch.errors import FileError
from optsearch.evaluation.measurements import PROTOCOL
from optsearch.meta_training import MetaTraining, Outcome, Plan, meta_train
from optsearch.optimizers import (
    DESIGNS,
    Controls,
    LearnedOptimizer,
    NoController,
    NoMemory,
    NoRule,
    Residual,
    named_design,
)
from optsearch.optimizers.layout import Layout
from optsearch.tasks import TaskFamily, families_of

Row = dict[str, Any]
NUM_POINTS = 4
RULE, CONTROLLER = "rule", "controller"
# One design of every family: per-parameter, recurrent, transformer, graph network, hybrid, Opt2Vec.
FAMILIES = ("adamw_mlp", "adamw_lstm", "adamw_transformer", "adamw_gnn", "adamw_trust", "opt2vec")
_baselines: dict[str, Row] = {}


@dataclass(frozen=True)
class Entry:
    """One meta-training of one named design, or of what is left of it without some of its parts."""

    design: str
    left_out: tuple[str, ...]
    task: str
    horizon: int
    budget: int
    seed: int

    @property
    def optimizer(self) -> LearnedOptimizer:
        return _optimizer(asdict(self))

    @property
    def key(self) -> Row:
        """What makes a result that of this entry: all that it depends on."""
        return asdict(self) | {"left_out": list(self.left_out), "fingerprint": self.optimizer.fingerprint,
                               "protocol": PROTOCOL}


def _optimizer(row: Row) -> LearnedOptimizer:
    return without(named_design(row["design"]), row["left_out"])


def without(design: LearnedOptimizer, parts: Sequence[str]) -> LearnedOptimizer:
    """The design without its rule, its controller or both."""
    if RULE in parts:
        design = replace(design, rule=NoRule(), mixing=Residual(), controls=replace(design.controls, context_size=0))
    if CONTROLLER in parts:
        design = replace(design, controller=NoController(), memory=NoMemory(), controls=Controls())
    return design


@dataclass(frozen=True)
class Contest:
    """Which designs are meta-trained on which tasks, each alone, for how many inner steps and from how many seeds.

    `ablates` adds each design that has a controller without it, unless that is another of the designs;
    `without_rules` leaves the rules of all out, so that controllers are alone with the base.
    """

    designs: tuple[str, ...]
    tasks: tuple[str, ...]
    horizon: int = 200
    budget: int = 150_000
    num_seeds: int = 3
    ablates: bool = False
    without_rules: bool = False

    def __post_init__(self) -> None:
        for task in self.tasks:
            families_of([task])
        for design in self.designs:
            named_design(design)

    def entries(self) -> Iterator[Entry]:
        """Seeds first, so that a contest that is stopped has all designs; with what is ablated last."""
        left_out = (RULE,) if self.without_rules else ()
        bare = [design for design in self.designs if self.ablates and named_design(design).has_controller]
        variants = [(name, left_out) for name in self.designs] + [(name, (*left_out, CONTROLLER)) for name in bare]
        for seed in range(self.num_seeds):
            for task in self.tasks:
                for design, parts in variants:
                    yield Entry(design, parts, task, self.horizon, self.budget, seed)


def hold(contest: Contest, path: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """All results that `path` has afterwards; what it has already is not run again, and a kill loses nothing done.

    Those of an earlier protocol stay until they are run again.
    """
    rows = read(path)
    known = {_identity(row) for row in rows if row.get("protocol") == PROTOCOL}
    asked = {_identity(entry.key): entry for entry in reversed(list(contest.entries()))}
    waiting = [entry for identity, entry in reversed(asked.items()) if identity not in known]
    with progress.meter("bench designs", max(1, len(waiting)), quiet=quiet) as meter:
        for done, (entry, row) in enumerate(_results(waiting, num_workers)):
            rows = [each for each in rows if _identity(each) != _identity(row)] + [row]
            _write(path, rows)
            meter.update(done + 1, f"{entry.design} on {entry.task}")
    return rows


def read(path: Path) -> list[Row]:
    """The results in a file, none where there is no file yet; those of designs that have changed since are left out."""
    try:
        rows = json.loads(path.read_text())["runs"] if path.exists() else []
        return [row for row in rows if row["design"] in DESIGNS and row["fingerprint"] == _optimizer(row).fingerprint]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} holds no results of `optsearch bench designs`. Choose another folder with "
                        "--output, or move it away.") from error


def _write(path: Path, rows: Sequence[Row]) -> None:
    write_whole(path, (json.dumps({"runs": rows}, indent=1, allow_nan=False) + "\n").encode())


def _identity(row: Row) -> tuple[Any, ...]:
    """The same for results that come from the same computation, whatever the design is called."""
    return tuple(row[name] for name in ("fingerprint", "task", "horizon", "budget", "seed"))


def _results(entries: Sequence[Entry], num_workers: int) -> Iterator[tuple[Entry, Row]]:
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, entry): entry for entry in entries}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def run(entry: Entry) -> Row:
    """Meta-train, and train with the result on test rows and fresh seeds; everything measured, as plain data."""
    torch.set_num_threads(1)
    design, families, started = entry.optimizer, families_of([entry.task]), time.monotonic()
    costs = design.costs(_layout(families[0]))
    plan = Plan(design, families, MetaTraining(horizon=entry.horizon), entry.budget, NUM_POINTS, entry.seed)
    # A design that loses its controller may have nothing left to learn.
    point = list(meta_train(plan))[-1] if costs.num_weights else None
    seconds = time.monotonic() - started
    contender = evaluation.learned(design, point.weights if point else {})
    results = [evaluation.compete([contender], evaluation.report_setup(family, entry.horizon), _cached)
               for family in families]
    return entry.key | {
        "outcome": ((point and point.outcome) or Outcome.COMPLETED).name,
        **{name: [round(value, 4) for result in results for value in getattr(result, name)(contender.name).tolist()]
           for name in ("relative_losses", "speedups", "train_speedups")},
        "num_failed": sum(result.measurements[contender.name].num_failed for result in results),
        "seconds": round(seconds, 1),
        "microseconds_per_inner_step": round(1e6 / point.inner_steps_per_second, 1) if point else None,
        "num_weights": costs.num_weights, "flops_per_parameter": round(costs.flops / costs.num_parameters, 1),
        "state_bytes_per_parameter": round(costs.state_bytes / costs.num_parameters, 1)}


def _cached(key: str, compute: Callable[[], Row]) -> Row:
    """Baselines are tuned once a process."""
    if key not in _baselines:
        _baselines[key] = compute()
    return _baselines[key]


def _layout(family: TaskFamily) -> Layout:
    generator = torch.Generator().manual_seed(0)
    return Layout.of(family.init(generator, family.sample(generator)))
