"""What a search of a replayed table has spent and found, the same for all methods."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil

from optsearch.bench.replay import Problem
from optsearch.search.forecasting.curves import LearningCurve

MOST_REPORTS = 12


@dataclass(frozen=True)
class Incumbent:
    """What could be exported once `steps` inner steps and `seconds` of the searcher's own time were spent.

    `value` is what its design is worth without chance.
    """

    steps: int
    seconds: float
    value: float


@dataclass
class Spending:
    """What one search has spent, at most about `limit` full trials' worth of inner steps, and what it has found.

    Of the designs that were trained to their end, the one with the lowest value, as the searcher saw it, is the
    incumbent, as the best complete trial is what a study exports. Training stops the clock: `thinking` is what takes
    seconds.
    """

    problem: Problem
    limit: float
    steps: int = 0
    seconds: float = 0.0
    trace: list[Incumbent] = field(default_factory=list)
    resting: dict[int, LearningCurve] = field(default_factory=dict)
    failed_shares: dict[int, dict[int, float]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether `limit` full trials' worth of inner steps are spent; the searcher's own time decides nothing."""
        return self.steps >= self.limit * self.problem.budget

    @property
    def reports(self) -> tuple[int, ...]:
        """The budgets at which a searcher sees a value."""
        every = ceil((len(self.problem.table.budgets) - 1) / MOST_REPORTS)
        return self.problem.table.budgets[::-1][::every][:MOST_REPORTS][::-1]

    def seen(self, curve: LearningCurve, step: int) -> LearningCurve:
        """What a searcher knows of a curve that was trained for `step` inner steps: its values at the reports."""
        kept = [index for index, budget in enumerate(curve.budgets)
                if budget <= step and (budget in self.reports or budget == curve.budgets[-1])]
        return LearningCurve(curve.params, tuple(curve.budgets[index] for index in kept),
                             tuple(curve.values[index] for index in kept),
                             tuple(curve.failed_shares[index] for index in kept),
                             curve.is_final and step >= curve.budgets[-1])

    @contextmanager
    def thinking(self) -> Iterator[None]:
        """Processor time of this process, so that what runs beside it doesn't count."""
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - started

    def train(self, before: int, until: int) -> None:
        """Go on with a design that has been trained for `before` inner steps."""
        self.steps += until - before

    def rest(self, design: int, known: LearningCurve) -> None:
        """A design that is, perhaps only for now, no longer trained."""
        self.resting[design] = known
        if not known.is_final:
            return
        best = min((curve for curve in self.resting.values() if curve.is_final), key=lambda curve: curve.values[-1])
        place = self.problem.table.budgets.index(best.budgets[-1])
        value = float(self.problem.expected([best.params])[0, place])
        if not self.trace or value != self.trace[-1].value:
            self.trace.append(Incumbent(self.steps, self.seconds, value))
