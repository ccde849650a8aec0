"""What the slots run: a point of the study's space becomes a job, its curve is kept, its files are uploaded."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from optsearch import evaluation, progress
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search import storage
from optsearch.search.costs import Cost
from optsearch.search.definition import StudyDefinition
from optsearch.search.objectives import Value, keep_design
from optsearch.search.places import Places
from optsearch.search.records import Records
from optsearch.search.recovery import ARTIFACT_IDS, OUTCOME, chain_of
from optsearch.search.rows import trial_suggest
from optsearch.search.samplers import cost_book, encoding_of, make_pruner, make_sampler
from optsearch.search.transfer import Source, source_of
from optsearch.search.trial import CURVE, INNER_CURVES, INNER_PICTURE, WEIGHTS, Job
from optsearch.seeds import seed_for
from optsearch.tasks import TaskFamily

ARTIFACTS = {WEIGHTS: "application/octet-stream", CURVE: "text/csv", INNER_CURVES: "text/csv",
             INNER_PICTURE: "image/png"}


def content_cache(records: Records) -> evaluation.Cache:
    """What hand-made and learned optimizers came to is measured once a database."""
    def cache(key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return records.measurement(key) or records.put_measurement(key, compute())

    return cache


def tuned_opponents(families: Sequence[TaskFamily], horizon: int, records: Records, *,
                    quiet: bool) -> list[list[float]]:
    """The tuned baseline's final losses on every family that gives a value, from the database or measured now."""
    torch.set_num_threads(1)
    finals: list[list[float]] = []
    with progress.meter("tuning AdamW + cosine", len(families), quiet=quiet) as meter:
        for family in families:
            against = evaluation.opponent(family, horizon, content_cache(records))
            finals.append(against.finals.tolist())
            meter.update(len(finals), family.name)
    return finals


def job_of(study_name: str, definition: StudyDefinition, trial: optuna.Trial | FrozenTrial) -> Job:
    """What the trial's parameters say; seed, place and opponents are the caller's."""
    space = definition.parsed_space()
    design, settings = space.suggest(trial_suggest(trial))
    return Job(
        design=design.to_config(), settings=asdict(replace(settings, horizon=definition.horizon)),
        tasks=list(definition.tasks), weights=list(definition.weights), sampling=definition.sampling,
        selected_on=list(definition.validation or definition.tasks), budget=definition.budget,
        num_points=definition.num_points, num_early=definition.num_early, seed=0, opponents=[], folder="",
        initial=definition.initial,
        provenance={"study": study_name, "trial": trial.number, "space": definition.space,
                    "space_hash": space.hash, "study_seed": definition.seed, "horizon": definition.horizon,
                    "held_out": list(definition.held_out), "families": definition.families})


@dataclass
class LearnedOptimizerObjective:
    """The objective of a study of learned optimizers; the value is log(relative loss), lower is better."""

    study_name: str
    url: str
    definition: StudyDefinition
    opponents: list[list[float]]
    records: Records
    entry: str = "optsearch.search.trial:train"
    slots: Iterator[int] = field(default_factory=count, repr=False)

    def study(self) -> optuna.Study:
        loaded = optuna.load_study(study_name=self.study_name, storage=storage.open_storage(self.url),
                                   pruner=self.pruner)
        # A restarted run must not draw what an earlier one drew, and two slots must differ.
        trials = loaded.get_trials(deepcopy=False)
        seed = seed_for(self.definition.seed, "sampler", len(trials), next(self.slots))
        cost_book(self.definition.space, self.definition.space_text).learn(trials)
        loaded.sampler = make_sampler(self.definition, seed, self.pruner, self.sources)
        return loaded

    @cached_property
    def pruner(self) -> optuna.pruners.BasePruner:
        """One for all slots of the process, so that what one learns from the trials is learned for all."""
        return make_pruner(self.definition, self.records)

    @cached_property
    def baselines(self) -> list[list[float]]:
        """The tuned baseline's curves in the trainings that `opponents` are the ends of."""
        return [evaluation.baseline_curve(family, self.definition.horizon, content_cache(self.records))
                for family, _ in zip(self.definition.selected_on, self.opponents, strict=False)]

    @cached_property
    def sources(self) -> list[Source]:
        """What the earlier studies, as far as they still exist, have come to when the first slot begins."""
        opened = storage.open_storage(self.url)
        names = set(optuna.get_all_study_names(opened))
        tree = encoding_of(self.definition.space, self.definition.space_text).tree
        return [source_of(optuna.load_study(study_name=name, storage=opened), tree)
                for name in self.definition.previous if name in names]

    def job(self, trial: optuna.Trial) -> dict[str, Any]:
        chain = chain_of(trial)
        job = job_of(self.study_name, self.definition, trial)
        keep_design(trial, job.design)
        definition = self.definition
        cost = Cost.kept(trial) or cost_book(definition.space, definition.space_text).cost(trial.params)
        definition.limits.check(trial, cost)
        job = replace(job, seed=seed_for(self.definition.seed, "trial", chain), opponents=self.opponents,
                      baselines=self.baselines)
        places = Places.of(self.url)
        return job.placed(places, places.trial_folder(self._study_id(trial), chain)).to_config()

    def fingerprint(self, job: dict[str, Any]) -> str:
        """Of what the design computes and how it is learned: the rest is the study's, or chance."""
        design = LearnedOptimizer.from_config(job["design"])
        content = json.dumps([design.fingerprint, job["settings"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def point(self, trial: optuna.Trial, message: dict[str, Any]) -> tuple[int, float]:
        self.records.put_point(self._study_id(trial), chain_of(trial), message["inner_steps"], message)
        return self.definition.step(message["point"]), message["value"]

    def finish(self, trial: optuna.Trial, result: dict[str, Any], outcome: TrialState) -> Value:
        places = Places.of(self.url)
        ids = {}
        for file in result["files"]:
            name = Path(file).name
            ids[name] = optuna.artifacts.upload_artifact(
                artifact_store=places.artifact_store(), file_path=file, study_or_trial=trial,
                mimetype=ARTIFACTS[name])
        trial.set_user_attr(ARTIFACT_IDS, ids)
        trial.set_user_attr(OUTCOME, result["outcome"])
        cost = Cost.kept(trial)
        return (result["value"], *astuple(cost)) if self.definition.pareto and cost else result["value"]

    @staticmethod
    def _study_id(trial: optuna.Trial) -> int:
        return trial.study._study_id
