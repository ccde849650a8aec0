"""The probability that a meta-training ends early, diverged or collapsed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.search.forecasting.curves import LearningCurve

NUM_NEWTON_STEPS = 25
# Of the weights, of which the first is a constant: there are few events, and no reason for large effects.
PRIOR_DEVIATIONS = (3.0, 2.0, 1.0, 1.0)
# As if so many curves more, half of them diverged, had been seen.
PRIOR_COUNT = 1.0


@dataclass(frozen=True)
class DivergenceModel:
    """Logistic regression on the share of failed inner losses, the gain so far and the part of the budget spent.

    Parameters of the design are left out: there are far more of them than events. `scale` is that of the values.
    """

    weights: Tensor
    centre: float
    budget: int
    scale: float

    @staticmethod
    def fit(curves: Sequence[LearningCurve], landmarks: Sequence[int], budget: int, scale: float) -> "DivergenceModel":
        """From curves that are final, each looked at when it had spent each landmark (inner steps) and was alive."""
        seen = [(curve.until(step), ended_early(curve, budget)) for curve in curves for step in landmarks
                if step < curve.budgets[-1]]
        events = sum(ended_early(curve, budget) for curve in curves)
        rate = torch.tensor((events + PRIOR_COUNT / 2) / (len(curves) + PRIOR_COUNT), dtype=torch.float64)
        unfitted = DivergenceModel(torch.zeros(len(PRIOR_DEVIATIONS)).double(), float(rate.logit()), budget, scale)
        if not events or not seen:
            return unfitted
        features = unfitted.features([curve for curve, _ in seen])
        labels = torch.tensor([label for _, label in seen], dtype=torch.float64)
        # The looks at one curve are no independent events.
        weights = _most_probable(features, labels, unfitted.centre, 1 / len(landmarks))
        return DivergenceModel(weights, unfitted.centre, budget, scale)

    def probability(self, curves: Sequence[LearningCurve]) -> Tensor:
        """`[n]`; 0 or 1 for a curve that is final."""
        guess = torch.sigmoid(self.centre + self.features(curves) @ self.weights)
        known = [float(ended_early(curve, self.budget)) if curve.is_final else float(each)
                 for curve, each in zip(curves, guess, strict=True)]
        return torch.tensor(known, dtype=torch.float64)

    def features(self, curves: Sequence[LearningCurve]) -> Tensor:
        """`[n, 4]`, all 0 but the constant for a curve without values."""
        return torch.tensor([self._row(curve) for curve in curves], dtype=torch.float64).reshape(-1, 4)

    def _row(self, curve: LearningCurve) -> tuple[float, ...]:
        if not curve.values:
            return 1.0, 0.0, 0.0, 0.0
        failed = sum(curve.failed_shares) / len(curve.values)
        gain = (curve.values[0] - curve.values[-1]) / self.scale
        return 1.0, failed, max(-3.0, min(3.0, gain)), curve.budgets[-1] / self.budget


def ended_early(curve: LearningCurve, budget: int) -> bool:
    """Whether a curve is final though it did not spend its budget, to within a point of the curve."""
    if not curve.is_final or not curve.budgets:
        return False
    gap = max((later - earlier for earlier, later in zip(curve.budgets, curve.budgets[1:], strict=False)), default=0)
    return curve.budgets[-1] + min(gap, budget // 20) / 2 < budget


def _most_probable(features: Tensor, labels: Tensor, centre: float, count: float) -> Tensor:
    """Weights by Newton's method, every label counted as `count` of one."""
    prior = torch.tensor(PRIOR_DEVIATIONS, dtype=torch.float64) ** -2
    weights = torch.zeros(features.shape[1], dtype=torch.float64)
    for _ in range(NUM_NEWTON_STEPS):
        guess = torch.sigmoid(centre + features @ weights)
        slope = count * features.T @ (labels - guess) - prior * weights
        bend = count * features.T @ ((guess * (1 - guess))[:, None] * features) + torch.diag(prior)
        step = torch.linalg.solve(bend, slope)
        weights = weights + step / max(1.0, float(step.norm()) / 2)
    return weights
