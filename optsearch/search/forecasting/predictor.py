"""The distribution of a trial's final value, from its design and its curve so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, nan
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from optsearch.errors import UsageError
from optsearch.search.forecasting.batches import MIN_SPREAD, Scale, cleaned
from optsearch.search.forecasting.correction import Correction, Look, Outcome
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.divergence import DivergenceModel, ended_early
from optsearch.search.forecasting.latent_kronecker import CurveBatch, LatentKronecker, Shared
from optsearch.search.forecasting.ranks import coverage, kendall
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import Params

# Parts of the budget at which forecasts are held against known ends, a third apart; the fifth is among them.
LANDMARKS = tuple(0.2 * 1.35 ** power for power in range(-9, 6))
TRUSTED_AT = 0.2
MIN_CURVES = 10
NUM_FOLDS = 5
GOOD_CORRELATION = 0.3
MIN_COVERAGE = 0.7


@dataclass(frozen=True)
class Forecast:
    """Of the final values of n curves, each a normal distribution unless the trial diverges; all `[n]`.

    `mean` and `deviation` are of the value that will be measured, its noise included, given that the trial does not
    diverge; `divergence` is the probability that it ends early, diverged or collapsed.
    """

    mean: Tensor
    deviation: Tensor
    divergence: Tensor

    def quantile(self, probability: float) -> Tensor:
        """`[n]`, of a trial that does not diverge."""
        level = torch.special.ndtri(torch.tensor(probability, dtype=torch.float64))
        return self.mean + level * self.deviation

    def probability_below(self, value: float) -> Tensor:
        """`[n]`; what diverges is never below."""
        return (1 - self.divergence) * torch.special.ndtr((value - self.mean) / self.deviation)


@dataclass(frozen=True)
class Trust:
    """How forecasts of curves with known ends came out, each made from the others and from its own first fifth.

    Rank correlations are Kendall's, of the forecast and of the last value with the end; `coverage_90` is the part of
    the ends in the intervals meant to hold 90 % of them. nan without curves.
    """

    rank_correlation: float
    last_value_correlation: float
    coverage_90: float
    num_curves: int

    @property
    def is_earned(self) -> bool:
        """Enough curves, ranks at least as good as the last value's, or good and not certainly worse, and intervals
        that are not far too narrow."""
        # Of a rank correlation where there is none (Kendall 1938), and so an upper bound where there is one.
        error = (2 * (2 * self.num_curves + 5) / (9 * self.num_curves * max(1, self.num_curves - 1))) ** 0.5 \
            if self.num_curves else 0.0
        ranks = self.rank_correlation >= GOOD_CORRELATION and \
            self.rank_correlation >= self.last_value_correlation - error
        return self.num_curves >= MIN_CURVES and ranks and self.coverage_90 >= MIN_COVERAGE


@dataclass(frozen=True)
class Learned:
    """The process of all curves that had a value, which are `curves`, in the scale of values and designs."""

    curves: Sequence[LearningCurve]
    encoding: Encoding
    budget: int
    scale: Scale
    process: LatentKronecker

    @staticmethod
    def of(curves: Sequence[LearningCurve], encoding: Encoding, budget: int, seed: int) -> "Learned":
        scale = Scale.of(curves, encoding)
        process = LatentKronecker.fit(scale.batch(curves, encoding, budget), seed)
        return Learned(curves, encoding, budget, scale, process)

    @cached_property
    def left_out(self) -> Shared:
        """What the other curves say of each."""
        return self.process.without_own()

    @cached_property
    def rows(self) -> Mapping[tuple[tuple[str, Any], ...], int]:
        return {_key(curve.params): row for row, curve in enumerate(self.curves)}

    def part(self, curve: LearningCurve) -> float:
        """Of the budget, spent when the last value was measured; 0 without a value."""
        return curve.budgets[-1] / self.budget if curve.values else 0.0

    def looks(self, curves: Sequence[LearningCurve]) -> Look:
        """At what curves like these are likely to end at; a trial that was learned from does not count twice."""
        batch = self.scale.batch(curves, self.encoding, self.budget)
        shared = self.process.of_designs(batch)
        rows = torch.tensor([self.rows.get(_key(curve.params), -1) for curve in curves])
        is_known = rows >= 0
        shared.mean[is_known] = self.left_out.mean[rows[is_known]]
        shared.covariance[is_known] = self.left_out.covariance[rows[is_known]]
        return self.look(batch, shared, curves)

    def look(self, batch: CurveBatch, shared: Shared, curves: Sequence[LearningCurve]) -> Look:
        mean, variance = self.process.final(shared, batch)
        mean = self.scale.centre + self.scale.spread * mean
        last, best = ([find(curve.values) if curve.values else float(guess)
                       for curve, guess in zip(curves, mean, strict=True)] for find in (itemgetter(-1), min))
        return Look(self.part(max(curves, key=self.part)), mean, self.scale.spread * variance.sqrt(),
                    torch.tensor(last).double(), torch.tensor(best).double())

    def outcome(self, part: float, rows: Sequence[int]) -> Outcome:
        """Leave-one-out forecasts with this part of the budget spent, of the curves number `rows` and known end."""
        cut = [self.curves[row].until(round(part * self.budget)) for row in rows]
        kept = [index for index, curve in enumerate(cut) if curve.values or part == 0]
        seen, numbers = [cut[index] for index in kept], [rows[index] for index in kept]
        ends = torch.tensor([self.curves[row].values[-1] for row in numbers]).double()
        batch = self.scale.batch(seen, self.encoding, self.budget)
        shared = Shared(self.left_out.mean[numbers], self.left_out.covariance[numbers])
        return Outcome(replace(self.look(batch, shared, seen), part=part), torch.tensor(numbers), ends)


@dataclass(frozen=True)
class PerformancePredictor:
    """A latent Kronecker process of all curves, corrected by how its leave-one-out forecasts came out."""

    learned: Learned
    correction: Correction
    divergence: DivergenceModel
    trust: Trust

    @staticmethod
    def fit(curves: Sequence[LearningCurve], encoding: Encoding, budget: int, seed: int = 0) -> "PerformancePredictor":
        """From curves of trials whose whole budget is `budget` inner steps; those without values teach nothing.

        Raises `UsageError` where none has a finite value.
        """
        known = [clean for curve in curves if (clean := cleaned(curve)).values]
        if not known:
            raise UsageError(f"none of {len(curves)} curves has a finite value, but a predictor learns from one at "
                             "least. Fit it when a trial has reported.")
        learned = Learned.of(known, encoding, budget, seed)
        final = [row for row, curve in enumerate(known) if curve.is_final and not ended_early(curve, budget)]
        outcomes = [learned.outcome(part, final) for part in (0.0, *LANDMARKS)
                    if any(known[row].until(round(part * budget)).values or part == 0 for row in final)]
        divergence = DivergenceModel.fit([curve for curve in known if curve.is_final],
                                         [round(part * budget) for part in LANDMARKS], budget, learned.scale.spread)
        return PerformancePredictor(learned, Correction.learned(outcomes), divergence, _trust(outcomes, len(final)))

    def forecast(self, curves: Sequence[LearningCurve]) -> Forecast:
        """Of any curves, those fitted on or not; from the design alone where a curve has no values.

        A curve that is final is its last value.
        """
        if not curves:
            return Forecast(*torch.zeros(3, 0, dtype=torch.float64))
        known = [cleaned(curve) for curve in curves]
        looks = self.learned.looks(known)
        mean, deviation = torch.zeros(2, len(known), dtype=torch.float64)
        for row, curve in enumerate(known):
            if curve.values and curve.is_final:
                mean[row], deviation[row] = curve.values[-1], MIN_SPREAD * self.learned.scale.spread
            else:
                rule = self.correction.at(self.learned.part(curve))
                mean[row], deviation[row] = (each[0] for each in looks.take(torch.tensor([row])).corrected(rule))
        return Forecast(mean, deviation, self.divergence.probability(known))


def _trust(outcomes: Sequence[Outcome], num_curves: int) -> Trust:
    """At the landmark for it; what corrects a curve's forecast is learned from the curves of other folds."""
    found = [each for each in outcomes if each.look.part and len(each.ends)]
    if not found:
        return Trust(nan, nan, nan, num_curves)
    tested = min(found, key=lambda each: abs(log(each.look.part / TRUSTED_AT)))
    mean, deviation = torch.zeros(2, len(tested.ends), dtype=torch.float64)
    for fold in range(NUM_FOLDS):
        correction = Correction.learned([each.take(each.numbers % NUM_FOLDS != fold) for each in outcomes])
        inside = tested.numbers % NUM_FOLDS == fold
        mean[inside], deviation[inside] = tested.take(inside).look.corrected(correction.at(tested.look.part))
    return Trust(kendall(mean, tested.ends), kendall(tested.look.last, tested.ends),
                 coverage(tested.ends, mean, deviation, 0.9), num_curves)


def _key(params: Params) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))
