"""Our own searcher on a replayed table: its sampler, its forecasts, and freeze-thaw, one trial at a time."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from optsearch.bench.spending import Spending
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.forecaster import Forecaster, fit_predictor
from optsearch.search.forecasting.freeze_thaw import FreezeThaw, new_designs
from optsearch.search.forecasting.standing import Standing
from optsearch.search.gp_sampler import ConditionalGPSampler
from optsearch.search.recovery import CONTINUES, successor
from optsearch.search.storage import quietly
from optsearch.seeds import seed_for

if TYPE_CHECKING:
    from optsearch.search.forecasting.predictor import PerformancePredictor


def sampler(spending: Spending, seed: int, forecaster: Forecaster | None) -> ConditionalGPSampler:
    """The sampler of studies."""
    encoding = spending.problem.encoding
    return ConditionalGPSampler(encoding.tree, to_graph=encoding.to_graph, seed=seed,
                                forecasts=forecaster.ends_of_pruned if forecaster else None)


def forecaster(spending: Spending, seed: int) -> Forecaster:
    """The forecasts of studies."""
    return Forecaster(spending.problem.encoding, spending.problem.budget, seed, lambda study: spending.failed_shares)


def freeze_thaw(spending: Spending, seed: int) -> None:
    """Until nothing more can be begun or continued with what is left."""
    problem, seed = spending.problem, seed_for(seed, "bench search") % 2**32
    with quietly():
        with spending.thinking():
            chooses = sampler(spending, seed, forecaster(spending, seed))
            study = optuna.create_study(study_name=str(seed), sampler=chooses)
        decisions = FreezeThaw(problem.budget, partial(_fit, spending, seed), partial(new_designs, problem.tree, seed))
        search = _Search(spending, study, decisions)
        while search.take_turn():
            pass


def _fit(spending: Spending, seed: int, curves: Sequence[LearningCurve]) -> "PerformancePredictor":
    return fit_predictor(curves, spending.problem.encoding, spending.problem.budget, seed)


class _Search:
    """All designs so far: their curves to the end, as far as they are known, and the trials that stand for them."""

    def __init__(self, spending: Spending, study: optuna.Study, decisions: FreezeThaw) -> None:
        self.spending, self.study, self.decisions = spending, study, decisions
        self.curves: list[LearningCurve] = []
        self.known: list[LearningCurve] = []
        self.trials: list[optuna.Trial] = []

    def take_turn(self) -> bool:
        """One stretch of training of one design, until it ends or is paused; False when the search is over."""
        with self.spending.thinking():
            if self.decisions.is_over(self._standing()):
                return False
            index = self.decisions.next(self._standing())
            trial = self._begin() if index is None else self._continue(index)
        index = len(self.curves) if index is None else index
        if index == len(self.curves):
            self.curves.append(curve := self.spending.problem.curve(trial.params))
            self.known.append(LearningCurve(trial.params))
            self.trials.append(trial)
            self.spending.failed_shares[index] = dict(zip(curve.budgets, curve.failed_shares, strict=True))
        while self._train(index):
            pass
        return True

    def _begin(self) -> optuna.Trial:
        trial = self.study.ask()
        self.spending.problem.tree.ask(trial)
        return trial

    def _continue(self, index: int) -> optuna.Trial:
        """A trial that was told of can't go on, but one like it can."""
        paused = self.study.get_trials(deepcopy=False)[self.trials[index].number]
        self.study.add_trial(successor(paused, {CONTINUES: paused.number}))
        self.trials[index] = self.study.ask()
        self.spending.problem.tree.ask(self.trials[index])
        return self.trials[index]

    def _train(self, index: int) -> bool:
        """To the next report; whether the design goes on."""
        curve, before = self.curves[index], max(self.known[index].budgets, default=0)
        step = min([*(step for step in self.spending.reports if step > before), curve.budgets[-1]])
        self.spending.train(before, step)
        self.known[index] = self.spending.seen(curve, step)
        with self.spending.thinking():
            self.trials[index].report(self.known[index].values[-1], step)
            goes_on = not self.known[index].is_final and self.decisions.goes_on(self._standing(index), index)
        if goes_on:
            return True
        self.spending.rest(index, self.known[index])
        with self.spending.thinking():
            if self.known[index].is_final:
                self.study.tell(self.trials[index], curve.values[-1])
            else:
                self.study.tell(self.trials[index], state=TrialState.PRUNED)
        return False

    def _standing(self, *running: int) -> Standing:
        left = round(self.spending.limit * self.spending.problem.budget) - self.spending.steps
        return Standing(tuple(self.known), frozenset(running), left)
