"""The learning curves of a study's trials."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import optuna
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.duplicates import is_skipped
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.objectives import end_of
from optsearch.search.records import Records
from optsearch.search.recovery import chain_of

STARTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
# Chain -> step -> part of the inner losses at the cap.
FailedShares = Mapping[int, Mapping[int, float]]


def curves_of(history: optuna.Study | Sequence[FrozenTrial], failed_shares: FailedShares | None = None,
              ) -> list[LearningCurve]:
    """One curve a chain that runs, was pruned or is complete, in the order of the trials.

    Steps are inner steps. Duplicates and what failed are left out, and so is what ended without one finite value.
    """
    trials = history.get_trials(deepcopy=False) if isinstance(history, optuna.Study) else history
    curves = [curve_of(trial, failed_shares) for trial in newest(trials)]
    return [curve for curve in curves if curve.values or not curve.is_final]


def newest(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of every chain the trial that stands for it, where there is one that did not fail."""
    of_chain = {chain_of(trial): trial for trial in trials if trial.state in STARTED and not is_skipped(trial)}
    return sorted(of_chain.values(), key=lambda trial: trial.number)


def curve_of(trial: FrozenTrial, failed_shares: FailedShares | None = None) -> LearningCurve:
    """What is known of a trial; it is final only if the trial is complete.

    Values that are not finite are left out: a curve which ends at one ends early, as after a divergence. Where no
    failed share is known it is 0.
    """
    known = {step: value for step, value in sorted(trial.intermediate_values.items()) if isfinite(value)}
    is_final = trial.state is TrialState.COMPLETE
    if is_final and known and isfinite(end := end_of(trial)):
        known[max(known)] = end
    shares = (failed_shares or {}).get(chain_of(trial), {})
    return LearningCurve(trial.params, tuple(known), tuple(known.values()),
                         tuple(shares.get(step, 0.0) for step in known), is_final)


def recorded_shares(records: Records, study_id: int, step_of: Callable[[int], int]) -> FailedShares:
    """Failed shares from the recorded points; `step_of` says at which step a point's number was reported."""
    return {chain: {step_of(point["point"]): point["failed_share"] for point in curve.values()}
            for chain, curve in records.curves(study_id).items()}
