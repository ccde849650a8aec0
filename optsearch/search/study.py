"""Studies: made, run, listed, looked at, stopped, exported, deleted."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from optsearch.errors import FileError, StudyError, UsageError
from optsearch.export import Artifact
from optsearch.search import workers
from optsearch.search.definition import StudyDefinition
from optsearch.search.duplicates import is_duplicate
from optsearch.search.events import Events
from optsearch.search.objective import ARTIFACT_IDS, LearnedOptimizerObjective, tuned_opponents
from optsearch.search.places import Places
from optsearch.search.records import Records
from optsearch.search.recovery import FINISHED, chain_of
from optsearch.search.storage import open_storage, quietly, resolve_url, storage_errors
from optsearch.search.trial import WEIGHTS

METRIC = "log relative loss"


@dataclass(frozen=True)
class Store:
    """The studies in one database."""

    url: str

    @staticmethod
    def at(url: str | None = None) -> "Store":
        """At `url`, or `$OPTUNA_STORAGE`, or `sqlite:///studies/optsearch.db`."""
        return Store(resolve_url(url))

    @property
    def places(self) -> Places:
        return Places.of(self.url)

    @property
    def records(self) -> Records:
        return Records(self.url)

    def names(self) -> list[str]:
        with storage_errors(self.url):
            return sorted(optuna.get_all_study_names(open_storage(self.url)))

    def create(self, name: str, definition: StudyDefinition) -> optuna.Study:
        """Raises `StudyError` when there is one of that name."""
        storage = open_storage(self.url)
        with storage_errors(self.url), quietly():
            try:
                study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
            except optuna.exceptions.DuplicatedStudyError as error:
                raise StudyError(f"study `{name}` exists already in {self.url}. Go on with it (`optsearch study run "
                                 f"{name}`), delete it, or choose another name.") from error
            # A database gives the number of a deleted study to the next one.
            self.records.delete_study(study._study_id)
            self.places.delete(self.places.study_folder(study._study_id))
            study.set_metric_names([METRIC])
            definition.write(study)
        return study

    def load(self, name: str) -> optuna.Study:
        """Raises `StudyError` with the names that exist."""
        storage = open_storage(self.url)
        with storage_errors(self.url):
            try:
                return optuna.load_study(study_name=name, storage=storage)
            except KeyError as error:
                known = ", ".join(self.names()) or "none yet"
                raise StudyError(f"there is no study `{name}` in {self.url}. Studies: {known}. "
                                 "Make one with `optsearch study create`.") from error

    def stop(self, name: str) -> None:
        """No more trials are started; the running ones end by themselves."""
        with storage_errors(self.url):
            self.load(name).set_user_attr(workers.STOP, True)

    def delete(self, name: str) -> None:
        """The study, its curves, files and artifacts."""
        study = self.load(name)
        with storage_errors(self.url):
            ids = [identifier for trial in study.get_trials(deepcopy=False)
                   for identifier in trial.user_attrs.get(ARTIFACT_IDS, {}).values()]
            self.records.delete_study(study._study_id)
            optuna.delete_study(study_name=name, storage=study._storage)
        for identifier in ids:
            (self.places.artifacts / identifier).unlink(missing_ok=True)
        self.places.delete(self.places.study_folder(study._study_id))

    def run(self, name: str, slots: Sequence[str], num_trials: int, *, quiet: bool = False) -> Events:
        """Run until the study has `num_trials` complete or pruned trials; see `workers.run_slots`.

        Raises `StudyError` when the space has changed since the study was made.
        """
        study = self.load(name)
        definition = StudyDefinition.of(study)
        definition.check_unchanged()
        check_devices(slots)
        with storage_errors(self.url):
            study.set_user_attr(workers.STOP, False)
        records = self.records
        opponents = tuned_opponents(definition, records, quiet=quiet)
        objective = LearnedOptimizerObjective(name, self.url, definition, opponents, records)
        self._clean(study)
        with closing(workers.run_slots(objective, slots, num_trials=num_trials)) as events:
            for event in events:
                yield event
                if event.kind == "finished":
                    self._clean(study)

    def _clean(self, study: optuna.Study) -> None:
        """Checkpoints are of no use once their trial has finished."""
        with storage_errors(self.url):
            finished = study.get_trials(deepcopy=False, states=FINISHED)
        for trial in finished:
            self.places.delete(self.places.trial_folder(study._study_id, chain_of(trial)))


def check_devices(slots: Sequence[str]) -> None:
    """Raise `UsageError` for a device that this machine does not have."""
    num_gpus = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{index}" for index in range(num_gpus))]
    for device in slots:
        if device not in known:
            raise UsageError(f"this machine has no device `{device}`. It has: {', '.join(known)}.")


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial of the lowest value; `StudyError` when there is none yet."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise StudyError(f"study `{study.study_name}` has no complete trial yet. "
                         f"Run `optsearch study run {study.study_name}` first.")
    return min(complete, key=lambda trial: trial.value if trial.value is not None else float("inf"))


def artifact(store: Store, study: optuna.Study, number: int | None = None) -> Artifact:
    """The learned optimizer of one trial, by default the best."""
    if number is None:
        trial = best_trial(study)
    else:
        by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
        if number not in by_number:
            raise StudyError(f"study `{study.study_name}` has no trial {number}; it has {len(by_number)} trials.")
        trial = by_number[number]
    identifier = trial.user_attrs.get(ARTIFACT_IDS, {}).get(WEIGHTS)
    if identifier is None:
        raise StudyError(f"trial {trial.number} has no weights; it is {trial.state.name}. "
                         "Only complete and pruned trials have.")
    path = store.places.artifacts / identifier
    if not path.exists():
        raise FileError(f"{path}, the weights of trial {trial.number}, is gone. "
                        "Run this where the study's files are, or choose another trial.")
    return Artifact.load(path)


def summary(study: optuna.Study) -> dict[str, Any]:
    """Counts of trials by state, and the best value; duplicates are counted apart from those that failed."""
    everything = study.get_trials(deepcopy=False)
    trials = [trial for trial in everything if not is_duplicate(trial)]
    counts = {state.name.lower(): sum(trial.state is state for trial in trials) for state in TrialState}
    values = [trial.value for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return {"name": study.study_name, **counts, "duplicate": len(everything) - len(trials),
            "best_value": min(values, default=None)}


def export(store: Store, name: str, path: Path, number: int | None = None) -> Artifact:
    """Write the learned optimizer of a trial (by default the best) to `path`."""
    study = store.load(name)
    found, counts = artifact(store, study, number), summary(study)
    # What finding it has cost belongs to what is said of it.
    cost = {"num_trials": counts["complete"] + counts["pruned"], "num_pruned": counts["pruned"]}
    found = replace(found, provenance=found.provenance | cost)
    found.save(path)
    return found
