"""An exported optimizer beside its opponents on many families, a family and horizon at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from optsearch import evaluation, progress
from optsearch.errors import UsageError
from optsearch.evaluation import BASELINE, LEARNED, OPPONENTS, TUNED_LEARNED, Contender, Result
from optsearch.export import Artifact
from optsearch.search import parallel
from optsearch.search.objective import content_cache
from optsearch.search.places import database_exists
from optsearch.search.records import Records
from optsearch.search.storage import resolve_url
from optsearch.tasks import families, families_of, suites

DEFAULT_HORIZON = 200
# Half and double the horizon, and far beyond it.
FURTHER_RATIOS = (0.5, 1.0, 2.0, 5.0)
NUM_SUITE_SEEDS = 5
ALL, OWN = "all", "study"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which file is compared with whom, on what; `horizon` 0 is the study's own.

    `opponents` are names of `OPPONENTS` beside the tuned baseline, met at the horizon itself; at the other
    `horizon_ratios` there is the baseline alone. `beside` are other learned optimizers that are met everywhere, called
    by their files' names. `tunes_learning_rate` adds the optimizer with its learning rate tuned as the baseline's is.
    Raises `UsageError` or `TaskError` for names that don't exist, or that would mean two.
    """

    path: Path
    tasks: tuple[str, ...]
    opponents: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    horizon: int = 0
    horizon_ratios: tuple[float, ...] = (1.0,)
    first_seed: int = 0
    num_seeds: int = evaluation.NUM_REPORT_SEEDS
    tunes_learning_rate: bool = False
    url: str | None = None

    def __post_init__(self) -> None:
        for name in self.opponents:
            if name not in OPPONENTS:
                raise UsageError(f"there is no opponent `{name}`. Opponents: {', '.join(OPPONENTS)}, or all.")
        names = [BASELINE, LEARNED, TUNED_LEARNED, *self.opponents, *(path.stem for path in self.beside)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"two contenders would be called `{twice[0]}`. Rename a file.")
        families_of(self.tasks)

    def jobs(self, horizon: int) -> list[tuple[str, int]]:
        """Families and horizons; the longest first, so that no worker is left alone with one in the end."""
        names = [f"{task}#{index}" for task in self.tasks for index in range(len(families(task)))]
        horizons = sorted({max(1, round(horizon * ratio)) for ratio in self.horizon_ratios}, reverse=True)
        return [(name, each) for each in horizons for name in names]

    def contenders(self, artifact: Artifact, domain: str, *, is_at_horizon: bool) -> list[Contender]:
        weights = artifact.weights_in(domain)
        found = [evaluation.learned(artifact.design, weights)]
        if self.tunes_learning_rate:
            found.append(evaluation.learned_tuned(artifact.design, weights))
        for path in self.beside:
            other = Artifact.load(path)
            found.append(evaluation.learned(other.design, other.weights_in(domain), path.stem))
        return found + ([evaluation.hand_made(name) for name in self.opponents] if is_at_horizon else [])


def ask(path: Path, *, tasks: Sequence[str] = (), suite: str | None = None, opponents: Sequence[str] = (),
        num_seeds: int | None = None, **rest: Any) -> Asked:
    """What is compared where not all is said: with the tasks of a `suite` also every opponent and more horizons.

    `suite` is a domain, "standard" for those of all, or "study" for what its own study held out, which is also meant
    where there are no tasks. `opponents` may be "all". `rest` are fields of `Asked`. Raises as that does.
    """
    held_out = suites.suite(suite) if suite and suite != OWN else ()
    names = [*tasks, *held_out] or tasks_for(path)
    opponents = opponents or ([ALL] if suite else [])
    return Asked(path=path, tasks=tuple(names), opponents=tuple(OPPONENTS) if ALL in opponents else tuple(opponents),
                 horizon_ratios=FURTHER_RATIOS if suite else (1.0,),
                 num_seeds=num_seeds or (NUM_SUITE_SEEDS if suite else Asked.num_seeds), **rest)


def measure(asked: Asked, num_workers: int = 1, *, quiet: bool = False) -> list[Result]:
    """All results; with a database, what was measured before is not measured again."""
    horizon = horizon_of(asked, Artifact.load(asked.path))
    jobs = asked.jobs(horizon)
    results = []
    with progress.meter("comparing", len(jobs), quiet=quiet) as meter:
        if not _is_kept(asked.url):
            meter.say(f"There is no database at {resolve_url(asked.url)}: an interrupted run will begin again. A study "
                      "makes one; --storage names another.")
        for result in parallel.each(partial(_result, asked, horizon), jobs, num_workers):
            results.append(result)
            meter.update(len(results), f"{result.family}, {result.horizon} steps")
    return sorted(results, key=lambda result: (result.family, result.horizon))


def horizon_of(asked: Asked, artifact: Artifact) -> int:
    """The horizon asked for, or the one that the optimizer was meta-trained for."""
    return asked.horizon or int(artifact.provenance.get("horizon", DEFAULT_HORIZON))


def _result(asked: Asked, main_horizon: int, job: tuple[str, int]) -> Result:
    torch.set_num_threads(1)
    (task, _, index), horizon = job[0].rpartition("#"), job[1]
    setup = evaluation.report_setup(families(task)[int(index)], horizon, asked.first_seed, asked.num_seeds)
    contenders = asked.contenders(Artifact.load(asked.path), setup.family.domain, is_at_horizon=horizon == main_horizon)
    return evaluation.compete(contenders, setup, _cache(asked.url))


def _cache(url: str | None) -> evaluation.Cache:
    return content_cache(Records(url)) if _is_kept(url) else evaluation.uncached


def _is_kept(url: str | None) -> bool:
    return database_exists(resolve_url(url))


def tasks_for(path: Path) -> tuple[str, ...]:
    """What the study of an exported optimizer held out, or else learned on; `UsageError` where that is not known."""
    provenance = Artifact.load(path).provenance
    found = provenance.get("held_out") or provenance.get("tasks")
    if not found:
        raise UsageError(f"{path} does not say what it was meta-trained on. Give --task or --suite.")
    return tuple(found)
