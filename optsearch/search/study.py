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
from optsearch.meta_training import MetaTraining
from optsearch.search import workers
from optsearch.search.attachments import file_ids
from optsearch.search.configs import ended_chains, num_spent, paused_chains
from optsearch.search.definition import StudyDefinition
from optsearch.search.duplicates import OVER_LIMIT, is_duplicate, is_skipped
from optsearch.search.events import Events
from optsearch.search.objective import LearnedOptimizerObjective, tuned_opponents
from optsearch.search.objectives import end_of, front_of, has_front, is_feasible
from optsearch.search.places import Places
from optsearch.search.records import Records
from optsearch.search.recovery import ARTIFACT_IDS, PAUSED
from optsearch.search.stopping import UntilWorthless
from optsearch.search.storage import open_storage, quietly, resolve_url, storage_errors
from optsearch.search.thawing import make_schedule
from optsearch.search.trial import WEIGHTS

# What a race between finalists left: see `search/finals.py`.
FINALS = "finals"


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
        """Raises `StudyError` when there is one of that name, or none of a name that it is to learn from.

        Of the artifact that trials begin with, a file, the study keeps a copy; the first trial has its design, where
        the space has that.
        """
        storage = open_storage(self.url)
        for previous in definition.previous:
            self.load(previous)
        if definition.initial:
            definition = replace(definition, initial=self.places.keep_initial(Path(definition.initial)))
        with storage_errors(self.url), quietly():
            try:
                study = optuna.create_study(study_name=name, storage=storage,
                                            directions=["minimize"] * len(definition.metrics))
            except optuna.exceptions.DuplicatedStudyError as error:
                raise StudyError(f"study `{name}` exists already in {self.url}. Go on with it (`optsearch study run "
                                 f"{name}`), delete it, or choose another name.") from error
            # A database gives the number of a deleted study to the next one.
            self.records.delete_study(study._study_id)
            self.places.delete(self.places.study_folder(study._study_id))
            study.set_metric_names(list(definition.metrics))
            definition.write(study)
            if definition.initial:
                self._enqueue(study, definition)
        return study

    def _enqueue(self, study: optuna.Study, definition: StudyDefinition) -> None:
        """Let the design that trials begin with be the first."""
        artifact = Artifact.load(self.places.initial(definition.initial))
        settings = MetaTraining.from_config(artifact.provenance.get("meta_training", {}))
        point = definition.parsed_space().point_of(artifact.design, settings)
        if point is not None:
            study.enqueue_trial(point)

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

    def missing(self, name: str) -> list[str]:
        """The studies that this one was to learn from and that have been deleted since."""
        known = self.names()
        return [previous for previous in StudyDefinition.of(self.load(name)).previous if previous not in known]

    def change_stop_gain(self, name: str, bound: float) -> None:
        """From now on, also for workers that run; see `StudyDefinition`."""
        with storage_errors(self.url):
            study = self.load(name)
            replace(StudyDefinition.of(study), stop_gain=bound).write(study)

    def delete(self, name: str) -> None:
        """The study, its curves, files and artifacts."""
        study = self.load(name)
        with storage_errors(self.url):
            ids = [identifier for files in file_ids(study).values() for identifier in files.values()]
            self.records.delete_study(study._study_id)
            optuna.delete_study(study_name=name, storage=study._storage)
        for identifier in ids:
            (self.places.artifacts / identifier).unlink(missing_ok=True)
        self.places.delete(self.places.study_folder(study._study_id))

    def run(self, name: str, slots: Sequence[str], num_trials: int, *, quiet: bool = False) -> Events:
        """Run until the study has `num_trials` complete or pruned trials; see `workers.run_slots`.

        With freeze-thaw, until it has spent the inner steps of that many whole trials; see `thawing.Thawing`. Or until
        it ends by itself; see `stopping.ended`. Raises `StudyError` when the space has changed since the study was
        made.
        """
        study = self.load(name)
        definition = StudyDefinition.of(study)
        definition.check_unchanged()
        check_devices(slots)
        with storage_errors(self.url):
            study.set_user_attr(workers.STOP, False)
        records = self.records
        opponents = tuned_opponents(definition.selected_on, definition.horizon, records, quiet=quiet)
        objective = LearnedOptimizerObjective(name, self.url, definition, opponents, records)
        self._clean(study)
        schedule = UntilWorthless(make_schedule(definition, records))
        with closing(workers.run_slots(objective, slots, num_trials=num_trials, schedule=schedule)) as events:
            for event in events:
                yield event
                if event.kind in ("finished", "failed"):
                    self._clean(study)

    def _clean(self, study: optuna.Study) -> None:
        """Checkpoints are of no use once nothing will go on from them."""
        with storage_errors(self.url):
            ended = ended_chains(study)
        for chain in ended:
            self.places.delete(self.places.trial_folder(study._study_id, chain))


def check_devices(slots: Sequence[str]) -> None:
    """Raise `UsageError` for a device that this machine does not have."""
    num_gpus = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{index}" for index in range(num_gpus))]
    for device in slots:
        if device not in known:
            raise UsageError(f"this machine has no device `{device}`. It has: {', '.join(known)}.")


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial of the lowest value within the study's limits; `StudyError` when there is none yet."""
    complete = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if is_feasible(trial)]
    if not complete:
        raise StudyError(f"study `{study.study_name}` has no complete trial within its limits yet. "
                         f"Run `optsearch study run {study.study_name}` first.")
    return min(complete, key=end_of)


def artifact(store: Store, study: optuna.Study, number: int | None = None) -> Artifact:
    """The learned optimizer of one trial; by default of the winner of the finalists, or else of the best.

    Finals in which the best trial did not take part, since it is newer, are out of date and don't count.
    """
    if number is None:
        trial = best_trial(study)
        finals = study.user_attrs.get(FINALS)
        if finals is not None and trial.number in finals["trials"]:
            return _finalist(store, study, finals)
    else:
        by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
        if number not in by_number:
            raise StudyError(f"study `{study.study_name}` has no trial {number}; it has {len(by_number)} trials.")
        trial = by_number[number]
    identifier = trial.user_attrs.get(ARTIFACT_IDS, {}).get(WEIGHTS)
    if identifier is None:
        raise StudyError(f"trial {trial.number} has no weights; it is {trial.state.name}. "
                         "Only complete and pruned trials have.")
    return _loaded(store.places.artifacts / identifier, trial.number)


def _finalist(store: Store, study: optuna.Study, finals: dict[str, Any]) -> Artifact:
    """Under the names that it has in this study: another may have trained the same."""
    found = _loaded(store.places.artifacts / finals["weights"], finals["trial"])
    kept = {name: finals[name] for name in ("mean", "num_seeds", "statement")}
    names = {"study": study.study_name, "trial": finals["trial"], "value": finals["value"], FINALS: kept}
    return replace(found, provenance=found.provenance | names)


def _loaded(path: Path, number: int) -> Artifact:
    if not path.exists():
        raise FileError(f"{path}, the weights of trial {number}, is gone. "
                        "Run this where the study's files are, or choose another trial.")
    return Artifact.load(path)


def summary(study: optuna.Study) -> dict[str, Any]:
    """Counts of trials by state, and the best value; those that were skipped are counted apart from those that
    failed. In a study of several objectives, the numbers of the `front`, the best value first.

    `pruned` are those stopped for good; `paused` are the designs that may be continued, however often they have been.
    """
    everything = study.get_trials(deepcopy=False)
    trials = [trial for trial in everything if not is_skipped(trial)]
    counts = {state.name.lower(): sum(trial.state is state for trial in trials) for state in TrialState}
    counts["pruned"] -= sum(PAUSED in trial.user_attrs and trial.state is TrialState.PRUNED for trial in trials)
    values = [end_of(trial) for trial in trials if trial.state is TrialState.COMPLETE and is_feasible(trial)]
    front = {"front": [trial.number for trial in front_of(study)]} if has_front(study) else {}
    return {"name": study.study_name, **counts, **front, "duplicate": sum(map(is_duplicate, everything)),
            OVER_LIMIT: sum(OVER_LIMIT in trial.user_attrs for trial in everything),
            "paused": len(paused_chains(study)), "best_value": min(values, default=None)}


def num_done(study: optuna.Study) -> float:
    """Trials that count as done: finished ones, or with freeze-thaw as many as took all steps that were spent."""
    definition, counts = StudyDefinition.of(study), summary(study)
    if definition.scheduler == "freeze-thaw":
        return num_spent(study) / definition.budget
    return counts["complete"] + counts["pruned"]


def export(store: Store, name: str, path: Path, number: int | None = None) -> Artifact:
    """Write the learned optimizer of a trial to `path`, by default that of `artifact`."""
    study = store.load(name)
    found, counts = artifact(store, study, number), summary(study)
    # What finding it has cost belongs to what is said of it.
    cost = {"num_trials": counts["complete"] + counts["pruned"] + counts["paused"], "num_pruned": counts["pruned"],
            "study_inner_steps": num_spent(study) + study.user_attrs.get(FINALS, {}).get("inner_steps", 0)}
    front = {"num_front": len(front_of(study))} if number is None and has_front(study) else {}
    found = replace(found, provenance=found.provenance | cost | front)
    found.save(path)
    return found
