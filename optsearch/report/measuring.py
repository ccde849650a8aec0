"""An exported optimizer beside its opponents on many families, a family and horizon at a time."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from optsearch import evaluation, progress
from optsearch.errors import UsageError
from optsearch.evaluation import OPPONENTS, Contender, Result
from optsearch.export import Artifact
from optsearch.search import parallel
from optsearch.search.objective import content_cache
from optsearch.search.places import database_exists
from optsearch.search.records import Records
from optsearch.search.storage import resolve_url
from optsearch.tasks import families, families_of

DEFAULT_HORIZON = 200


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which file is compared with whom, on what; `horizon` 0 is the study's own.

    `opponents` are names of `OPPONENTS` beside the tuned baseline, met at the horizon itself; at the other
    `horizon_ratios` there is the baseline alone. `tunes_learning_rate` adds the optimizer with its learning rate
    tuned as the baseline's is. Raises `UsageError` or `TaskError` for names that don't exist.
    """

    path: Path
    tasks: tuple[str, ...]
    opponents: tuple[str, ...] = ()
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
        return found + ([evaluation.hand_made(name) for name in self.opponents] if is_at_horizon else [])


def measure(asked: Asked, num_workers: int = 1, *, quiet: bool = False) -> list[Result]:
    """All results; with a database, what was measured before is not measured again."""
    horizon = horizon_of(asked, Artifact.load(asked.path))
    jobs = asked.jobs(horizon)
    results = []
    with progress.meter("comparing", len(jobs), quiet=quiet) as meter:
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
    if not database_exists(resolve_url(url)):
        return evaluation.uncached
    return content_cache(Records(url))


def tasks_for(path: Path) -> tuple[str, ...]:
    """What the study of an exported optimizer held out, or else learned on; `UsageError` where that is not known."""
    provenance = Artifact.load(path).provenance
    found = provenance.get("held_out") or provenance.get("tasks")
    if not found:
        raise UsageError(f"{path} does not say what it was meta-trained on. Give --task or --suite.")
    return tuple(found)
