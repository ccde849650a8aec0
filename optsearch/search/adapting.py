"""An artifact goes on learning on tasks of somebody's own."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from optsearch import evaluation, progress
from optsearch.adaptation import FewShot, Keeping, tasks_behind
from optsearch.errors import UsageError
from optsearch.evaluation import Opponent
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining
from optsearch.search.objective import tuned_opponents
from optsearch.search.processes import TrialProcess
from optsearch.search.study import Store, check_devices
from optsearch.search.trial import Job
from optsearch.tasks import families_of, own_files

ENTRY = "optsearch.search.trial:train"
NUM_POINTS = 8


@dataclass(frozen=True)
class Adapted:
    """What came of it: values are log(relative loss) on the tasks' selection rows, before and after."""

    artifact: Artifact
    before: float
    after: float

    def to_config(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after, "inner_steps": self.artifact.provenance["inner_steps"],
                "tasks": self.artifact.provenance["tasks"], "outcome": self.artifact.provenance["outcome"]}


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """The artifact at `path` is meta-trained on `tasks` for `budget` more inner steps, as it was meta-trained before.

    Of what it was meta-trained with, `changes` says what is to be different: names and values of `MetaTraining`'s.
    With `few_shot` it becomes a start for later adaptations; `keep` says how what it learned before is kept. With
    `adapters` each domain of the tasks gets some, beside those that it has.
    """

    path: Path
    tasks: Sequence[str]
    budget: int
    changes: dict[str, Any]
    few_shot: FewShot | None = None
    keep: Keeping | None = None
    adapters: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.adapters and self.keep:
            raise UsageError("adapters and --keep don't go together: what adapters keep is only what differs between "
                             "domains. Leave out one of them.")

    def job(self, artifact: Artifact) -> Job:
        """Without a place; raises `DesignError` for settings that don't fit each other."""
        settings = MetaTraining.from_config(artifact.provenance.get("meta_training", {}) | self.changes)
        return Job(design=artifact.design.to_config(), settings=asdict(settings), tasks=list(self.tasks), weights=[],
                   sampling="uniform", selected_on=list(self.tasks), budget=self.budget, num_points=NUM_POINTS,
                   num_early=0, seed=self.seed, opponents=[], folder="", provenance={
                       "horizon": settings.horizon,
                       "families": {"tasks": [family.name for family in families_of(self.tasks)], "validation": []}},
                   few_shot=self.few_shot.to_config() if self.few_shot else {}, keep=self._keep(artifact),
                   adapters=self.adapters)

    def _keep(self, artifact: Artifact) -> dict[str, Any]:
        old = tasks_behind(artifact.provenance)
        if self.keep is None:
            return {}
        if not old:
            raise UsageError(f"{self.path} does not say which tasks it was learned on, so nothing of them can be kept. "
                             "Leave out --keep.")
        # What can't be kept is said here, before another process begins.
        self.keep.design_from(artifact.design)
        families_of(old)
        return self.keep.to_config() | {"tasks": old}


def adapt(store: Store, asked: Adapting, output: Path, device: str = "cpu", *, quiet: bool = False) -> Adapted:
    """Run it in a process of its own, and leave the artifact at `output`.

    After an interruption, or where that can't be written, the same goes on from its last checkpoint.
    """
    check_devices([device])
    artifact, records = Artifact.load(asked.path), store.records
    asked = replace(asked, tasks=tuple(dict.fromkeys(map(own_files.resolved, asked.tasks))))
    families, job = families_of(asked.tasks), asked.job(artifact)
    opponents = tuned_opponents(families, job.settings["horizon"], records, quiet=quiet)
    against = [Opponent(evaluation.selection_setup(family, job.settings["horizon"]), torch.tensor(finals))
               for family, finals in zip(families, opponents, strict=True)]
    before = fmean(evaluation.value(artifact.design, artifact.weights_in(each.setup.family.domain), [each])
                   for each in against)
    job = replace(job, opponents=opponents, initial=store.places.keep_initial(asked.path))
    folder = store.places.root / "running" / f"adapt-{job.fingerprint[:16]}"
    result = _trained(job.placed(store.places, folder), device, quiet=quiet)
    found = Artifact.load(Path(result["files"][0]))
    found.save(output)
    store.places.delete(folder)
    return Adapted(found, before, result["value"])


def _trained(job: Job, device: str, *, quiet: bool) -> dict[str, Any]:
    process = TrialProcess(ENTRY)
    with closing(process), progress.meter("inner steps", job.budget, quiet=quiet) as meter:
        run = process.run(job.to_config() | {"device": device})
        for message in run:
            meter.update(message["inner_steps"], f"value {message['value']:.3f}")
    return run.result
