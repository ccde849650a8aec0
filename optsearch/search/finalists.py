"""Finalists: the best trials of a study, or of several, meta-trained again until it is known which is best.

The best of many trials is partly the luckiest. A race gives every finalist new seeds, and seeds to those only that
may still be the best; the trials' own values decide nothing any more.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from optsearch import progress
from optsearch.errors import StudyError, UsageError
from optsearch.search.definition import StudyDefinition
from optsearch.search.duplicates import FINGERPRINT
from optsearch.search.final_training import Crew, Final, FinalJob, baseline, meta_seed
from optsearch.search.finals import Candidate, Finals
from optsearch.search.objective import content_cache, job_of, tuned_opponents
from optsearch.search.objectives import end_of, is_feasible
from optsearch.search.racing import FIRST_LOOK, Race, Rules
from optsearch.search.study import FINALS, Store, check_devices
from optsearch.tasks import TaskFamily, families_of

# What two studies must share for their winners to be compared.
SHARED = ("tasks", "weights", "sampling", "validation", "files", "horizon", "budget")


@dataclass(frozen=True)
class Asked:
    """The studies, how many of the best of each take part, and the rules."""

    names: tuple[str, ...]
    num_each: int = 4
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise UsageError(f"a study is named twice: {', '.join(self.names)}. Name each once.")


def hold(store: Store, asked: Asked, slots: Sequence[str], *, quiet: bool = False) -> Finals:
    """Race the best complete trials of the studies; what was trained before, also by a killed call, stays.

    The outcome is kept with each study for `export`. Raises `StudyError` where there is nothing to compare, and
    `TrialError` for a training that fails.
    """
    check_devices(slots)
    studies = [store.load(name) for name in asked.names]
    definitions = [StudyDefinition.of(study) for study in studies]
    for definition in definitions:
        definition.check_unchanged()
    _check_alike(asked.names, definitions)
    opponents = tuned_opponents(definitions[0].selected_on, definitions[0].horizon, store.records, quiet=quiet)
    candidates = tuple(replace(found, job=replace(found.job, opponents=opponents))
                       for found in _distinct(_best(studies, definitions, asked.num_each)))
    if len(candidates) < 2:
        raise StudyError(f"a race needs at least 2 different complete trials, but of {' and '.join(asked.names)} "
                         f"{len(candidates)} can take part. Run more trials, or choose a larger --top.")
    with closing(Crew(slots)) as crew:
        hall = _Hall(store, candidates, definitions[0].selected_on, crew, quiet)
        finals = hall.race(asked.rules)
    for study in studies:
        if (kept := finals.of_study(study.study_name)) is not None:
            study.set_user_attr(FINALS, kept)
    return finals


def _check_alike(names: Sequence[str], definitions: Sequence[StudyDefinition]) -> None:
    for name, other in zip(names[1:], definitions[1:], strict=True):
        for entry in SHARED:
            mine, theirs = getattr(definitions[0], entry), getattr(other, entry)
            if mine != theirs:
                raise StudyError(f"{names[0]} and {name} can't be compared: {entry} is {mine} and {theirs}. "
                                 "Choose studies that differ in how they search alone.")


def _best(studies: Sequence[optuna.Study], definitions: Sequence[StudyDefinition],
          num_each: int) -> Iterator[tuple[str, Candidate]]:
    """The best of every study with their fingerprints."""
    for study, definition in zip(studies, definitions, strict=True):
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ranked = sorted((end_of(trial), trial.number, trial) for trial in complete if is_feasible(trial))
        for value, number, trial in ranked[:num_each]:
            job = job_of(study.study_name, definition, trial)
            own = f"{study.study_name} {number}"
            yield trial.user_attrs.get(FINGERPRINT, own), Candidate(study.study_name, number, value, job)


def _distinct(candidates: Iterable[tuple[str, Candidate]]) -> list[Candidate]:
    """The first of those that would be trained alike."""
    found: dict[str, Candidate] = {}
    for fingerprint, candidate in candidates:
        found.setdefault(fingerprint, candidate)
    return list(found.values())


@dataclass(frozen=True)
class _Hall:
    """Where a race is held: it has the trainings made that its rounds need."""

    store: Store
    candidates: tuple[Candidate, ...]
    families: tuple[TaskFamily, ...]
    crew: Crew
    quiet: bool

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of all families that a result depends on."""
        return [family.fingerprint for family in (*families_of(self.candidates[0].job.tasks), *self.families)]

    def race(self, rules: Rules) -> Finals:
        race = Race.of(len(self.candidates), rules)
        finals: list[list[Final]] = [[] for _ in self.candidates]
        while not race.is_over:
            numbers = range(race.num_rounds, max(FIRST_LOOK, race.num_rounds + 1))
            jobs = {(index, number): job for number in numbers for index, job in self._jobs(race.racing, number)}
            label = f"seed {numbers[-1] + 1} of at most {rules.max_rounds}, {len(race.racing)} candidates"
            found = self._finals({job.key: job for job in jobs.values()}, label)
            for number in numbers:
                here = {index: found[jobs[index, number].key] for index in race.racing}
                for index, final in here.items():
                    finals[index].append(final)
                race = race.after({index: final.value for index, final in here.items()})
        return Finals(self.candidates, race, tuple(map(tuple, finals)))

    def _jobs(self, racing: Sequence[int], number: int) -> Iterator[tuple[int, FinalJob]]:
        torch.set_num_threads(1)
        horizon = self.candidates[0].job.settings["horizon"]
        opponents = baseline(self.families, horizon, number, content_cache(self.store.records))
        for index in racing:
            job = replace(self.candidates[index].job, seed=meta_seed(number))
            yield index, FinalJob(job, number, opponents, self.fingerprints)

    def _finals(self, jobs: Mapping[str, FinalJob], label: str) -> dict[str, Final]:
        """From the database, or trained now."""
        records = self.store.records
        known = {key: content for key in jobs if (content := records.measurement(key)) is not None}
        missing = {key: self._placed(key, job) for key, job in jobs.items() if key not in known}
        parts = dict.fromkeys(missing, 0.0)
        with (progress.meter(label, len(missing), quiet=self.quiet or not missing) as meter,
              closing(self.crew.train(missing)) as trainings):
            for news in trainings:
                parts[news.key] = news.part
                if news.result:
                    job = missing[news.key]
                    known[news.key] = self._kept(news.key, job, news.result)
                    where, value = job.job.provenance, Final(**known[news.key]).value
                    meter.say(f"trial {where['trial']} of {where['study']}, seed {job.number + 1}: value {value:.4f}")
                meter.update(sum(parts.values()))
        return {key: Final(**content) for key, content in known.items()}

    def _placed(self, key: str, job: FinalJob) -> FinalJob:
        places = self.store.places
        return replace(job, job=job.job.placed(places, places.root / "running" / key))

    def _kept(self, key: str, job: FinalJob, result: dict[str, Any]) -> dict[str, Any]:
        """The weights first: who finds the record finds them too."""
        places, name = self.store.places, f"{key.replace('/', '-')}.safetensors"
        places.artifacts.mkdir(parents=True, exist_ok=True)
        files = [Path(file) for file in result.pop("files")]
        os.replace(files[0], places.artifacts / name)
        content = self.store.records.put_measurement(key, result | {"weights": name})
        places.delete(Path(job.job.folder))
        return content
