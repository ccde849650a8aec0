"""A study's performance predictor, fitted anew as trials finish."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.forecasting.curves import MIN_FINAL_CURVES
from optsearch.search.forecasting.history import FailedShares, curve_of, curves_of, newest
from optsearch.search.processes import in_a_line
from optsearch.search.recovery import FINISHED

if TYPE_CHECKING:
    from optsearch.search.forecasting.curves import LearningCurve
    from optsearch.search.forecasting.predictor import Forecast, PerformancePredictor
    from optsearch.search.surrogate.encoding import Encoding

Fit = Callable[["Sequence[LearningCurve]", "Encoding", int, int], "PerformancePredictor"]
REFIT_PART = 20
# One lock for all, so that a forecaster stays plain data which can be copied and sent.
_busy = threading.RLock()


def fit_predictor(curves: "Sequence[LearningCurve]", encoding: "Encoding", budget: int,
                  seed: int) -> "PerformancePredictor":
    """The predictor of `optsearch.search.forecasting.predictor`."""
    from optsearch.search.forecasting.predictor import PerformancePredictor

    return PerformancePredictor.fit(curves, encoding, budget, seed)


@dataclass(frozen=True)
class Fitted:
    """What the first `count` finished trials taught; without a predictor they were too few, or there is a `problem`."""

    count: int
    predictor: "PerformancePredictor | None" = None
    is_trusted: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """A forecast and whether it is trusted; None where there is none yet, or where `problem` says why there is none."""

    forecast: "Forecast | None" = None
    is_trusted: bool = False
    problem: str = ""


@dataclass
class Forecaster:
    """Forecasts of the final values of a study's trials, whose `budget` is in inner steps.

    Slots may share one or have one each: what a predictor is fitted on depends on the study alone. `failed_shares` is
    asked with the study at every fit and forecast.
    """

    encoding: "Encoding"
    budget: int
    seed: int = 0
    failed_shares: Callable[[optuna.Study], FailedShares] = lambda study: {}
    fit: Fit = fit_predictor
    _fitted: dict[int, Fitted] = field(default_factory=dict, repr=False)

    def ask(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> Answer:
        """A forecast of each of `trials`."""
        shares = self.failed_shares(study)
        with _busy:
            fitted = self._newest(study, shares)
            if fitted.predictor is None:
                return Answer(problem=fitted.problem)
            try:
                forecast = fitted.predictor.forecast([curve_of(trial, shares) for trial in trials])
            except Exception as error:
                return Answer(problem=in_a_line(error))
        if not (forecast.mean.isfinite().all() and forecast.deviation.isfinite().all()):
            return Answer(problem="the forecast is not a number")
        return Answer(forecast, fitted.is_trusted)

    def ends_of_pruned(self, study: optuna.Study) -> dict[int, tuple[float, float]]:
        """For every pruned trial's number, mean and deviation of the value that it would have ended at.

        A trial that went on as another has none. Empty until the predictor is trusted.
        """
        pruned = [trial for trial in newest(study.get_trials(deepcopy=False)) if trial.state is TrialState.PRUNED]
        answer = self.ask(study, pruned) if pruned else Answer()
        if answer.forecast is None or not answer.is_trusted:
            return {}
        ends = zip(answer.forecast.mean.tolist(), answer.forecast.deviation.tolist(), strict=True)
        return {trial.number: end for trial, end in zip(pruned, ends, strict=True)}

    def _newest(self, study: optuna.Study, shares: FailedShares) -> Fitted:
        """The cached predictor, unless enough trials have finished since."""
        finished = [trial for trial in newest(study.get_trials(deepcopy=False)) if trial.state in FINISHED]
        count = num_fitted(len(finished))
        known = self._fitted.get(study._study_id)
        if known is None or known.count != count:
            finished.sort(key=lambda trial: (str(trial.datetime_complete), trial.number))
            known = self._fitted[study._study_id] = self._learn(finished[:count], shares)
        return known

    def _learn(self, trials: Sequence[FrozenTrial], shares: FailedShares) -> Fitted:
        curves = curves_of(trials, shares)
        if sum(curve.is_final for curve in curves) < MIN_FINAL_CURVES:
            return Fitted(len(trials))
        try:
            predictor = self.fit(curves, self.encoding, self.budget, self.seed)
            return Fitted(len(trials), predictor, predictor.trust.is_earned)
        except Exception as error:
            return Fitted(len(trials), problem=in_a_line(error))


def num_fitted(num_finished: int) -> int:
    """How many of the finished trials the predictor knows: it is fitted anew for every twentieth more.

    The same whenever a run was interrupted, unlike a count of those since the last fit.
    """
    count = 0
    while (following := count + max(1, count // REFIT_PART)) <= num_finished:
        count = following
    return count
