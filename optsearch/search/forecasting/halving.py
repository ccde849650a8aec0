"""Successive halving with pauses, which needs no forecasts."""

from collections.abc import Sequence
from dataclasses import dataclass

from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.standing import last, spent, value_at

NEARLY = 0.85


@dataclass(frozen=True)
class Halving:
    """The best 1 / `reduction` at each rung go on (Li et al. 2020, https://arxiv.org/abs/1810.05934).

    Rungs are `num_rungs` powers of 1 / `reduction` of the `budget`, in inner steps, and count as reached a little
    before: values are measured where they are, and the next place may be far.

    One curve in `patience` goes to the highest rung whatever its values: some designs look worst until late, and
    their kind would never be seen there. Hyperband (Li et al. 2018, https://arxiv.org/abs/1603.06560) hedges alike.
    """

    budget: int
    reduction: int = 3
    num_rungs: int = 4
    patience: int = 16

    def goes_on(self, curves: Sequence[LearningCurve], index: int) -> bool:
        """Whether a curve that has just got a point is between two rungs, or ahead."""
        curve = curves[index]
        before = curve.budgets[-2] if len(curve.budgets) > 1 else 0
        return self.rung(spent(curve)) == self.rung(before) or self.is_ahead(curves, index)

    def is_ahead(self, curves: Sequence[LearningCurve], index: int) -> bool:
        """Whether a curve is to be patient with, or among the best of all that have come to its rung.

        What has ended early counts too.
        """
        rung = self.rung(spent(curves[index]))
        if index % self.patience == 0 and rung < self.rung(self.budget):
            return True
        values = [value_at(curve, rung) for curve in curves
                  if curve.values and (curve.is_final or spent(curve) >= rung)]
        own = value_at(curves[index], rung)
        return sum(value < own for value in values) < len(values) // self.reduction

    def promoted(self, curves: Sequence[LearningCurve], resting: Sequence[int]) -> int | None:
        """The one of `resting` that goes on: the best of the highest rung of those that are ahead, None if none is."""
        ahead = [index for index in resting if self.is_ahead(curves, index)]
        return self.best(curves, ahead) if ahead else None

    def best(self, curves: Sequence[LearningCurve], indexes: Sequence[int]) -> int:
        """The lowest value of the highest rung."""
        return min(indexes, key=lambda index: (-self.rung(spent(curves[index])), last(curves[index])))

    def rung(self, steps: int) -> float:
        """The highest rung at or below so many inner steps, 0 for none."""
        rungs = (NEARLY * self.budget / self.reduction ** power for power in range(1, self.num_rungs + 1))
        return next((rung for rung in rungs if rung <= steps), 0.0)
