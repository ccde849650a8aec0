"""Searchers against each other on a table of learning curves: every run is kept, none is made twice."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy

from optsearch import progress
from optsearch.bench.design_table import DesignTable
from optsearch.bench.files import write_whole
from optsearch.bench.regret import (
    Regret,
    Scale,
    average_ranks,
    mean_of,
    quantiles,
    regret_of,
    times_until,
    trial_equivalents,
)
from optsearch.bench.replay import Problem, problems
from optsearch.bench.searchers import METHODS, available, method_named
from optsearch.bench.spending import Spending
from optsearch.errors import FileError, UsageError
from optsearch.search.parallel import each
from optsearch.seeds import seed_for

Row = dict[str, Any]
DEFAULT_TABLE = Path("reports/design_table/table.json.gz")
REFERENCE = "random"
# Counts up when runs of before no longer say what they would now.
PROTOCOL = 3
NUM_RANDOM = 5000
QUICK_DESIGNS = 20
QUICK_METHODS = ("tpe", "gp")
# Keys of the predictor's audit, and what they are here; trials are pruned from a hundredth of the budget on.
PERCENT = {"0.1": "10", "0.25": "25", "0.5": "50"}
PRUNED_FROM = "0.01"
IDENTITY = ("protocol", "table", "family", "method", "seed", "num_trials")
_fitted: dict[str, list[Problem]] = {}


@dataclass(frozen=True)
class Comparison:
    """Which methods search, each from so many seeds, for so many full trials' worth of inner steps a run.

    Costly ones end after `num_costly`.
    `num_random` designs say, with the table's and all that are found, how good and how bad a design can be. The
    predictor is audited on the first `num_audited` designs of the table.
    """

    table: Path = DEFAULT_TABLE
    methods: tuple[str, ...] = tuple(METHODS)
    num_seeds: int = 20
    num_trials: int = 100
    num_costly: int = 30
    num_random: int = NUM_RANDOM
    num_audited: int = 1000

    def __post_init__(self) -> None:
        for method in self.methods:
            method_named(method)
        if REFERENCE not in self.methods:
            raise UsageError(f"the methods must include {REFERENCE}, which the others are held against; "
                             f"got {', '.join(self.methods) or 'none'}.")

    def limit(self, method: str) -> int:
        """Full trials' worth of inner steps of a run."""
        return min(self.num_trials, self.num_costly) if method_named(method).is_costly else self.num_trials

    def runs(self, digest: str, families: Sequence[str]) -> Iterator[Row]:
        """Seeds first, so that what is stopped has all methods."""
        for seed in range(self.num_seeds):
            for method in dict.fromkeys(self.methods):
                for family in families:
                    yield dict(zip(IDENTITY, (PROTOCOL, digest, family, method, seed, self.limit(method)),
                                   strict=True))


def chosen(methods: Sequence[str] | None) -> tuple[str, ...]:
    """All methods, or those named, after the one that they are held against."""
    return tuple(available()) if not methods else tuple(dict.fromkeys([REFERENCE, *methods]))


def quick(table: Path, methods: Sequence[str] | None) -> Comparison:
    """What takes less than a minute, and says that everything works but not who is best."""
    return Comparison(table, chosen(methods or QUICK_METHODS), num_seeds=2, num_trials=12, num_random=300,
                      num_audited=QUICK_DESIGNS)


def compare(comparison: Comparison, path: Path | None, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """The runs that were asked for, from `path` where it has them; a kill loses nothing done."""
    digest, found = _load(comparison.table)
    kept = {_identity(row): row for row in (read(path) if path else [])}
    asked = list(comparison.runs(digest, [problem.family for problem in found]))
    waiting = [(str(comparison.table), row) for row in asked if _identity(row) not in kept]
    with progress.meter("bench search", max(1, len(waiting)), quiet=quiet) as meter:
        for done, row in enumerate(each(_run, waiting, num_workers)):
            kept[_identity(row)] = row
            if path:
                write_whole(path, (json.dumps({"runs": list(kept.values())}, allow_nan=False) + "\n").encode())
            meter.update(done + 1, f"{row['method']} on {row['family']}")
    return [kept[_identity(row)] for row in asked]


def read(path: Path) -> list[Row]:
    """The runs in a file, none where there is no file yet."""
    try:
        rows = json.loads(path.read_text())["runs"] if path.exists() else []
        return [row for row in rows if all(name in row for name in (*IDENTITY, "trace"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} holds no runs of `optsearch bench search`. Choose another folder with --output, "
                        "or move it away.") from error


def summary(comparison: Comparison, rows: Sequence[Row]) -> dict[str, Any]:
    """What the runs say: plain data, all that the page shows."""
    _, found = _load(comparison.table)
    scales = {problem.family: scale_of(problem, rows, comparison.num_random) for problem in found}
    regrets = pooled(rows, scales)
    unclocked = pooled(rows, scales, counts_seconds=False)
    times = times_until(comparison.num_trials)
    limits = {name: comparison.limit(name) for name in regrets}
    table = found[0].table
    return {
        "trial_equivalents": _counts(regrets, limits),
        "trial_equivalents_without_time": _counts(unclocked, limits),
        "budgets": times.round(2).tolist(),
        "regret": {name: [_until(limits[name], times, each.round(5).tolist()) for each in
                          quantiles(numpy.array([one.at(times) for one in seeds]))] for name, seeds in regrets.items()},
        "rank": {name: _until(min(limits.values()), times, ranks.round(3).tolist())
                 for name, ranks in average_ranks(regrets, times).items()},
        "limits": limits,
        "seconds_per_trial": {name: round(_median(row["seconds"] / row["num_trials_asked"] for row in rows
                                                  if row["method"] == name), 3) for name in regrets},
        "trials": {name: _median(row["num_trials_asked"] for row in rows if row["method"] == name)
                   for name in regrets},
        "families": {problem.family: asdict(scales[problem.family]) | asdict(problem.quality)
                     | {"steps_per_second": round(problem.steps_per_second, 1)} for problem in found},
        "predictor": _audit(table, comparison.num_audited),
        "table": {"path": str(comparison.table), "curves": len(table.curves), "budget": table.budgets[-1],
                  "designs": len({curve.design for curve in table.curves})},
        "seeds": comparison.num_seeds}


def pooled(rows: Sequence[Row], scales: Mapping[str, Scale], *, counts_seconds: bool = True) -> dict[str, list[Regret]]:
    """A regret a method and seed: the mean over the families."""
    runs: dict[str, dict[int, list[Regret]]] = {}
    for row in rows:
        regret = regret_of(row, scales[row["family"]], counts_seconds=counts_seconds)
        runs.setdefault(row["method"], {}).setdefault(row["seed"], []).append(regret)
    return {name: [mean_of(seeds[seed]) for seed in sorted(seeds)] for name, seeds in runs.items()}


def scale_of(problem: Problem, rows: Sequence[Row], num_random: int) -> Scale:
    """From the ends of the table's designs and of random ones, and all incumbents of the runs."""
    points = problem.tree.sample(seed_for(0, "bench search", "random"), num_random)
    points += [problem.table.designs[curve.design] for curve in problem.table.of(problem.family)]
    ends = problem.expected(points)[:, -1]
    found = [value for row in rows if row["family"] == problem.family for _, _, value in row["trace"]]
    return Scale(float(min(ends.min(), *found)), float(ends.max()))


def _audit(table: DesignTable, most: int) -> dict[str, Any]:
    """How well ends are forecast of the first designs, at most so many; means over the families."""
    from optsearch.bench.prediction import audit_table

    found = audit_table(replace(table, curves=tuple(curve for curve in table.curves if curve.design < most)))["mean"]
    by_part = {name: {PERCENT[part]: round(value, 4) for part, value in found[name].items()}
               for name in ("tau", "last_value_tau")}
    return by_part | {"coverage_90": round(fmean(found["coverage_90"].values()), 4),
                      **{name: round(found[name][PRUNED_FROM], 4) for name in ("false_prune", "compute_saved")}}


def _counts(regrets: Mapping[str, Sequence[Regret]], limits: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 2) for key, value in asdict(count).items()}
            for name, count in trial_equivalents(regrets, REFERENCE, limits).items()}


def _until(limit: float, times: Iterable[float], values: Sequence[float]) -> list[float | None]:
    """None after the limit."""
    return [value if time <= limit * (1 + 1e-9) else None for time, value in zip(times, values, strict=True)]


def _median(values: Iterator[float]) -> float:
    return float(numpy.median(list(values)))


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in IDENTITY)


def _load(path: Path) -> tuple[str, list[Problem]]:
    """The table's digest and its problems, which are fitted once a process."""
    table = DesignTable.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digest, _problems(digest, table)


def _problems(digest: str, table: DesignTable) -> list[Problem]:
    if digest not in _fitted:
        _fitted[digest] = problems(table)
    return _fitted[digest]


def _run(entry: tuple[str, Row]) -> Row:
    """One search, as plain data."""
    path, row = entry
    _, found = _load(Path(path))
    (problem,) = [each for each in found if each.family == row["family"]]
    # Fitting the problem is no time of the searcher.
    problem.expected([problem.table.designs[0]])
    spending = Spending(problem, row["num_trials"])
    method_named(row["method"]).search(spending, seed_for(row["seed"], "bench search", row["family"]) % 2**32)
    return row | {
        "budget": problem.budget, "steps_per_second": problem.steps_per_second, "steps": spending.steps,
        "seconds": round(spending.seconds, 3), "num_trials_asked": len(spending.resting),
        "trace": [[point.steps, round(point.seconds, 3), round(point.value, 4)] for point in spending.trace]}
