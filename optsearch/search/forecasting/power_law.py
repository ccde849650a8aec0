"""Forecasts from a curve alone: its last value, and a power law through it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optsearch.search.forecasting.curves import LearningCurve

MIN_POINTS = 4
# Of the decay; a power of 0 would be a logarithm.
POWERS = torch.logspace(-1.3, 0.5, 200, dtype=torch.float64)
# As if one more point had this squared residual, so that three points on a line are no certainty.
PRIOR_VARIANCE = 1e-4


def last_value(curves: Sequence[LearningCurve], budget: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation `[n]` of the final values where curves go on as a random walk; nan without a value."""
    found = [_walk(curve, budget) for curve in curves]
    return _columns(found)


def power_law(curves: Sequence[LearningCurve], budget: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation `[n]` of the final values by y = a + b t^-c with b ≥ 0, nan without a value.

    For every c the best a and b are least squares; the forecasts for all c are mixed by their likelihood (pow3 of
    Domhan et al. 2015, https://www.ijcai.org/Proceedings/15/Papers/487.pdf). Short curves: `last_value`.
    """
    return _columns([_power_law(curve, budget) if len(curve.values) >= MIN_POINTS else _walk(curve, budget)
                     for curve in curves])


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _walk(curve: LearningCurve, budget: int) -> tuple[float, float]:
    if not curve.values:
        return float("nan"), float("nan")
    values = torch.tensor(curve.values, dtype=torch.float64)
    steps = torch.tensor(curve.budgets, dtype=torch.float64).log()
    if len(values) == 1:
        return float(values[-1]), PRIOR_VARIANCE ** 0.5
    rate = (values.diff().square().sum() + PRIOR_VARIANCE) / (steps[-1] - steps[0])
    rest = (torch.tensor(float(budget)).log() - steps[-1]).clamp(min=0)
    return float(values[-1]), float((rate * rest + PRIOR_VARIANCE).sqrt())


def _power_law(curve: LearningCurve, budget: int) -> tuple[float, float]:
    values = torch.tensor(curve.values, dtype=torch.float64)
    steps = torch.tensor(curve.budgets, dtype=torch.float64) / budget
    falls = steps[None] ** -POWERS[:, None]
    centred, residual = falls - falls.mean(1, keepdim=True), values - values.mean()
    spread = centred.square().sum(1)
    slope = ((centred @ residual) / spread).clamp(min=0)
    error = (residual - slope[:, None] * centred).square().sum(1) + PRIOR_VARIANCE
    # The fall has become 1 at the whole budget.
    means = values.mean() + slope * (1 - falls.mean(1))
    freedom = max(1, len(values) - 3)
    variances = error / freedom * (1 + 1 / len(values) + (1 - falls.mean(1)).square() / spread)
    weights = torch.softmax(-0.5 * freedom * error.log(), 0)
    mean = (weights * means).sum()
    return float(mean), float((weights * (variances + (means - mean).square())).sum().sqrt())
