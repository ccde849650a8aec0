"""What a trial is; studies of several objectives, of which the first is its value, and how they look with one alone."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Protocol, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.costs import Cost
from optsearch.search.processes import Message
from optsearch.search.records import Records
from optsearch.search.recovery import chain_of

# Chain -> step -> value.
Curves = Mapping[int, Mapping[int, float]]
DESIGN = "optsearch:design"
# In a study of several objectives, one of each.
Value = float | Sequence[float] | None


def is_number(value: Value) -> bool:
    """Whether it is a value, or several, that Optuna takes."""
    return value is not None and not any(map(math.isnan, value if isinstance(value, Sequence) else [value]))


class Objective(Protocol):
    """What a trial is."""

    @property
    def entry(self) -> str:
        """The function that trains, as "package.module:function"; see `TrialProcess`."""

    def study(self) -> optuna.Study:
        """A study of its own for each slot, with a sampler seeded like no other."""

    def job(self, trial: optuna.Trial) -> Message:
        """Suggest the parameters and say what to train; the worker adds `device`.

        May raise `optuna.TrialPruned` for a trial that isn't worth running.
        """

    def fingerprint(self, job: Message) -> str:
        """The same for two jobs that differ in nothing but chance, of which one is enough."""

    def point(self, trial: optuna.Trial, message: Message) -> tuple[int, float]:
        """Keep one point of the learning curve; the step and value to report.

        A trial that was resumed sends points a second time.
        """

    def finish(self, trial: optuna.Trial, result: Message, outcome: TrialState) -> Value:
        """Keep attributes and artifacts, which a finished trial takes no more; the trial's value, or values.

        The value of a trial whose `outcome` is `PRUNED` is its last report.
        """


def has_front(study: optuna.Study) -> bool:
    """Whether it has several objectives."""
    return len(study.directions) > 1


def keep_design(trial: optuna.Trial, config: Mapping[str, Any]) -> None:
    """Keep a design, as plain data, with its trial: where the dashboard's page doesn't print it on one long line."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, DESIGN, dict(config))


def design_of(trial: FrozenTrial) -> dict[str, Any]:
    """What was kept by `keep_design`, or by studies before there was such a thing; empty where nothing was."""
    return trial.system_attrs.get(DESIGN) or trial.user_attrs.get("design", {})


def value_of(trial: FrozenTrial) -> float | None:
    """The first objective's value."""
    return trial.values[0] if trial.values else None


def end_of(trial: FrozenTrial) -> float:
    """The value of a complete trial, infinite where it has none."""
    value = value_of(trial)
    return math.inf if value is None else value


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether it keeps all limits that are known of it."""
    return all(excess <= 0 for excess in trial.constraints.values())


def front_of(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials within the limits that no other is better than in all objectives, the best value first."""
    return sorted(study.best_trials, key=lambda trial: (trial.values[0], trial.number))


def report(trial: optuna.Trial, value: float, step: int) -> None:
    """One point of a learning curve, which Optuna takes only in studies of one objective."""
    if not has_front(trial.study):
        trial.report(value, step)


def is_weak(trial: optuna.Trial) -> bool:
    """Whether the study's pruner stops the trial; Optuna's `should_prune` wouldn't ask it about several objectives."""
    study = trial.study
    return study.pruner.prune(study, study._storage.get_trial(trial._trial_id))


class OneObjective(optuna.Study):
    """A study as if it had one of its objectives only, to be read by what knows no others.

    Trials have the values of that objective alone, and for intermediate values those of `curves`. Those for which
    `is_seen` is false are left out.
    """

    def __init__(self, study: optuna.Study, index: int = 0, curves: Curves | None = None,
                 is_seen: Callable[[FrozenTrial], bool] = lambda trial: True) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self.index, self.curves, self.is_seen = index, curves or {}, is_seen
        self._directions = [study.directions[index]]

    def _get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None,
                    use_cache: bool = False) -> list[FrozenTrial]:
        # Optuna's own readers come here too.
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [self.seen(trial) for trial in trials if self.is_seen(trial)]

    def seen(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial as this view shows it."""
        shown = copy(trial)
        shown.values = None if trial.values is None else [trial.values[self.index]]
        shown.intermediate_values = dict(self.curves.get(chain_of(trial), trial.intermediate_values))
        return shown


def quality_of(study: optuna.Study, records: Records, step_of: Callable[[int], int]) -> optuna.Study:
    """The study with a trial's value as its only objective; `step_of` says at which step a point's number is."""
    if not has_front(study):
        return study
    curves = {chain: {step_of(point["point"]): point["value"] for point in curve.values()}
              for chain, curve in records.curves(study._study_id).items()}
    return OneObjective(study, curves=curves)


def rivals_of(study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
    """Of a study as `quality_of` shows it, the trials that cost no more than `trial` in any respect."""
    cost, view = Cost.kept(trial), cast(OneObjective, study)
    return OneObjective(view, curves=view.curves, is_seen=partial(_costs_no_more, cost))


def _costs_no_more(cost: Cost | None, other: FrozenTrial) -> bool:
    known = Cost.kept(other)
    return cost is None or (known is not None and known.is_within(cost))
