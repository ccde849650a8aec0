"""Which parameters mattered: PED-ANOVA of Optuna, which knows that parameters are not always active."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.objectives import end_of
from optsearch.search.storage import quietly

MIN_TRIALS = 20
# What parameters should help with is to be among the best tenth, but at least among this many.
TOP, MIN_TOP = 0.1, 5
NUM_RESAMPLES = 40
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Importance:
    """Of one parameter, in parts of the sum over all; `low` and `high` are a bootstrap interval of 90 %.

    `is_clear` where it is more than 19 of 20 times with shuffled values. `num_active` trials had the parameter.
    """

    name: str
    value: float
    low: float
    high: float
    is_clear: bool
    num_active: int


@dataclass(frozen=True)
class Importances:
    """The most important first; none where there were fewer than `MIN_TRIALS` complete trials."""

    num_trials: int
    rows: tuple[Importance, ...] = ()


def importances(study: optuna.Study, seed: int = 0) -> Importances:
    """Of all parameters for reaching the best values (Watanabe et al., IJCAI 2023; its conditional form, KDD 2026).

    Within the trials where a parameter was active, the distribution of its values in the best is held against that in
    all. Complete trials alone count: where the others would have ended nobody knows.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
              if isfinite(end_of(trial))]
    if len(trials) < MIN_TRIALS:
        return Importances(len(trials))
    values = numpy.array([end_of(trial) for trial in trials])
    stream = numpy.random.default_rng(seed)
    found = _evaluated(trials, values)
    chosen = [stream.integers(len(trials), size=len(trials)) for _ in range(NUM_RESAMPLES)]
    resampled = [_shares(_evaluated([trials[index] for index in indices], values[indices])) for indices in chosen]
    shuffled = [_evaluated(trials, stream.permutation(values)) for _ in range(NUM_RESAMPLES)]
    rows = []
    for name, value in _shares(found).items():
        low, high = numpy.quantile([each.get(name, 0.0) for each in resampled],
                                   [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        chance = numpy.quantile([each.get(name, 0.0) for each in shuffled], 0.95)
        rows.append(Importance(name, value, float(low), float(high), bool(found[name] > chance),
                               sum(name in trial.params for trial in trials)))
    return Importances(len(trials), tuple(sorted(rows, key=lambda row: (-row.value, row.name))))


def _shares(found: Mapping[str, float]) -> dict[str, float]:
    total = sum(found.values()) or 1.0
    return {name: value / total for name, value in found.items()}


def _evaluated(trials: Sequence[FrozenTrial], values: NDArray[numpy.float64]) -> dict[str, float]:
    """Of a study with these parameters and values."""
    with quietly(), warnings.catch_warnings():
        # Few trials in a regime are said by the interval.
        warnings.simplefilter("ignore")
        study = optuna.create_study()
        study.add_trials([optuna.create_trial(params=trial.params, distributions=trial.distributions,
                                              value=float(value)) for trial, value in zip(trials, values, strict=True)])
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(TOP, MIN_TOP / len(trials)))
        return evaluator.evaluate(study)
