"""Learning curves as tensors of one scale, with few points each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.latent_kronecker import CurveBatch
from optsearch.search.surrogate.encoding import Encoding

NUM_POINTS = 12
# Standardised values are held to it, so that one exploded loss does not flatten all others.
LIMIT = 6.0
# A curve's own roughness counts as much as the typical one when it has so many points between others.
PRIOR_COUNT = 3
MIN_SPREAD = 1e-3


@dataclass(frozen=True)
class Scale:
    """What values and designs are measured in: `centre` and `spread` of the values, those of the designs' features,
    and the typical mean square of a curve's roughness."""

    centre: float
    spread: float
    origin: Tensor
    extent: float
    roughness: float

    @staticmethod
    def of(curves: Sequence[LearningCurve], encoding: Encoding) -> "Scale":
        """Of curves of which one at least has a value."""
        values = torch.tensor([value for curve in curves for value in curve.values], dtype=torch.float64)
        centre = float(values.median())
        # Of the values within reach, so that a few that exploded don't count.
        reach = 3 * (values - centre).abs().quantile(0.75)
        spread = max(MIN_SPREAD, float(values.clamp(centre - reach, centre + reach).std(correction=0)))
        rows = encoding.embedded(encoding.encode([curve.params for curve in curves]))
        origin = rows.mean(0)
        extent = float((rows - origin).square().sum(1).mean().sqrt())
        unset = Scale(centre, spread, origin, max(extent, MIN_SPREAD), 1e-4)
        sums = [_bends(unset.standard(thinned(curve))) for curve in curves]
        known = torch.tensor([total / count for total, count in sums if count], dtype=torch.float64)
        typical = max(1e-6, float(known.median())) if len(known) else unset.roughness
        return Scale(centre, spread, origin, max(extent, MIN_SPREAD), typical)

    def standard(self, curve: LearningCurve) -> list[float]:
        return [max(-LIMIT, min(LIMIT, (value - self.centre) / self.spread)) for value in curve.values]

    def batch(self, curves: Sequence[LearningCurve], encoding: Encoding, budget: int) -> CurveBatch:
        short = [thinned(curve) for curve in curves]
        fractions, values = torch.ones(2, len(short), NUM_POINTS, dtype=torch.float64)
        observed = torch.zeros(len(short), NUM_POINTS, dtype=torch.bool)
        roughness = torch.zeros(len(short), dtype=torch.float64)
        for row, curve in enumerate(short):
            count, standard = len(curve.values), self.standard(curve)
            fractions[row, :count] = torch.tensor(curve.budgets).double().clamp(max=budget) / budget
            values[row, :count] = torch.tensor(standard, dtype=torch.float64)
            observed[row, :count] = True
            total, bends = _bends(standard)
            roughness[row] = ((total + PRIOR_COUNT * self.roughness) / (bends + PRIOR_COUNT)) ** 0.5
        rows = encoding.encode([curve.params for curve in curves])
        designs = (encoding.embedded(rows) - self.origin) / self.extent
        return CurveBatch(designs, rows[:, encoding.graph], fractions, values, observed, roughness)


def cleaned(curve: LearningCurve) -> LearningCurve:
    """Without values that are not finite, and shares of them that are unknown."""
    kept = [(step, value, share if isfinite(share) else 1.0)
            for step, value, share in zip(curve.budgets, curve.values,
                                          curve.failed_shares or (0.0,) * len(curve.values), strict=True)
            if isfinite(value) and step > 0]
    budgets, values, shares = zip(*kept, strict=True) if kept else ((), (), ())
    return LearningCurve(curve.params, budgets, values, shares, curve.is_final)


def thinned(curve: LearningCurve) -> LearningCurve:
    """At most `NUM_POINTS` points, evenly in the logarithm of the budget as far as there are any, with both ends."""
    count = len(curve.values)
    if count <= NUM_POINTS:
        return curve
    steps = torch.tensor(curve.budgets).double().log()
    wanted = torch.linspace(float(steps[0]), float(steps[-1]), NUM_POINTS, dtype=torch.float64)
    kept = torch.cdist(wanted[:, None], steps[:, None]).argmin(1).unique().tolist()
    budgets, values, shares = (tuple(each[index] for index in kept)
                               for each in (curve.budgets, curve.values, curve.failed_shares))
    return replace(curve, budgets=budgets, values=values, failed_shares=shares)


def _bends(values: Sequence[float]) -> tuple[float, int]:
    """Sum and count of the squared distances of inner values from their neighbours' mean, as noise variances."""
    found = [(value - (before + after) / 2) ** 2 / 1.5
             for before, value, after in zip(values, values[1:], values[2:], strict=False)]
    return sum(found), len(found)
