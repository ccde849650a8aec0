"""What a study's trials tell a model: values where they ended, forecasts where they were stopped, points under way."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.surrogate.bridging import bridged
from optsearch.search.surrogate.tree import Params, TreeSpace

# As many characters as every database takes in one attribute of a trial.
CHUNK = 2045
KEY = "optsearch:relative_params"

Forecasts = Callable[[Study], Mapping[int, tuple[float, float]]]


@dataclass(frozen=True)
class History:
    """Points with their values, lower is better, and standard deviations, 0 where measured; points under way.

    `share` is the part of a whole trial that half of the points were trained for at most.
    """

    points: tuple[Params, ...]
    values: tuple[float, ...]
    deviations: tuple[float, ...]
    pending: tuple[Params, ...]
    tried: tuple[Params, ...]
    share: float = 1.0

    @property
    def best_first(self) -> list[Params]:
        return [self.points[index] for index in numpy.argsort(self.values, kind="stable")]


def history(study: Study, tree: TreeSpace, current: int, forecasts: Forecasts | None = None) -> History:
    """What all trials but number `current` tell about points of the tree.

    Failed ones and those that are no such points say nothing. A trial that was stopped has the mean and deviation
    that `forecasts` gives its number; where it gives none at all, those of `bridged`. What was tried again with the
    same parameters counts once. Infinite values count as the worst, or best, finite one.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != current]
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    known = known_values(study, trials, forecasts)
    found = {trial.number: point for trial in trials if (point := _point(tree, trial)) is not None}
    numbers = [number for number in sorted(known) if number in found]
    return History(tuple(found[number] for number in numbers),
                   finite([sign * known[number][0] for number in numbers]),
                   tuple(known[number][1] for number in numbers),
                   tuple(found[trial.number] for trial in trials
                         if trial.state is TrialState.RUNNING and trial.number in found),
                   tuple(found.values()), _typical_share([trial for trial in trials if trial.number in known]))


def announce(study: Study, trial: FrozenTrial, params: Params) -> None:
    """Tell other processes what a trial is about to ask."""
    text = json.dumps(params)
    for index in range(0, len(text), CHUNK):
        study._storage.set_trial_system_attr(trial._trial_id, f"{KEY}:{index // CHUNK}", text[index:index + CHUNK])


def announced(trial: FrozenTrial) -> Params:
    """What a trial asked or is about to ask."""
    chunks: list[str] = []
    while chunk := trial.system_attrs.get(f"{KEY}:{len(chunks)}"):
        chunks.append(chunk)
    try:
        return {**json.loads("".join(chunks) or "{}"), **trial.params}
    except json.JSONDecodeError:
        # It is being written.
        return trial.params


def known_values(study: Study, trials: Sequence[FrozenTrial],
                 forecasts: Forecasts | None) -> dict[int, tuple[float, float]]:
    """Value and deviation by number."""
    ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    known = {trial.number: (trial.value, 0.0) for trial in ended if trial.value is not None}
    # What was paused and went on stands there again, as another trial.
    newest = {json.dumps(trial.params, sort_keys=True): trial for trial in trials
              if trial.state in (TrialState.PRUNED, TrialState.COMPLETE)}
    stopped = [trial for trial in newest.values() if trial.state is TrialState.PRUNED]
    said = forecasts(study) if forecasts and stopped else {}
    guesses = {trial.number: said[trial.number] for trial in stopped if trial.number in said} if said else \
        bridged(stopped, ended)
    return {number: each for number, each in (known | guesses).items() if not any(numpy.isnan(each))}


def _typical_share(trials: Sequence[FrozenTrial]) -> float:
    """The median of the last steps ÷ the farthest; 1 without steps."""
    steps = [trial.last_step for trial in trials if trial.last_step]
    return float(numpy.median(steps)) / max(steps) if steps else 1.0


def _point(tree: TreeSpace, trial: FrozenTrial) -> Params | None:
    """The parameters of a trial that the tree has; None where it has none, or a value that the tree does not."""
    if trial.state in (TrialState.FAIL, TrialState.WAITING):
        return None
    point = {name: value for name, value in announced(trial).items() if name in tree.distributions}
    return point if point and all(tree.has(name, value) for name, value in point.items()) else None


def finite(values: Sequence[float]) -> tuple[float, ...]:
    finite = [value for value in values if numpy.isfinite(value)] or [0.0]
    return tuple(min(max(finite), max(min(finite), value)) for value in values)
