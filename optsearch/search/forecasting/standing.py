"""Where a search stands that pauses and continues what it trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from optsearch.search.forecasting.curves import LearningCurve


@dataclass(frozen=True)
class Standing:
    """The curves in the order of being started, which of them are `running`, and the inner steps that are `left`.

    `left` is what nobody has spent yet, of the whole search.
    """

    curves: Sequence[LearningCurve]
    running: frozenset[int]
    left: int

    @property
    def total(self) -> int:
        """Inner steps of the whole search."""
        return self.left + sum(map(spent, self.curves))

    def free(self, budget: int) -> int:
        """Inner steps that remain when all that runs has come to its end."""
        return self.left - sum(remaining(self.curves[index], budget) for index in self.running)

    def resting(self, budget: int) -> list[int]:
        """The paused curves that can still be brought to their end."""
        free = self.free(budget)
        return [index for index, curve in enumerate(self.curves)
                if index not in self.running and 0 < remaining(curve, budget) <= free]

    def paused(self, index: int) -> "Standing":
        """The same with one that doesn't run any more."""
        return replace(self, running=self.running - {index})


def spent(curve: LearningCurve) -> int:
    """Inner steps that a curve has taken."""
    return curve.budgets[-1] if curve.budgets else 0


def remaining(curve: LearningCurve, budget: int) -> int:
    """Inner steps from here to its end."""
    return 0 if curve.is_final else budget - spent(curve)


def last(curve: LearningCurve) -> float:
    """The newest value, infinite where there is none."""
    return curve.values[-1] if curve.values else inf


def value_at(curve: LearningCurve, steps: float) -> float:
    """The first value that took at least so many inner steps, or else the last one."""
    known = zip(curve.budgets, curve.values, strict=True)
    return next((value for budget, value in known if budget >= steps), last(curve))
