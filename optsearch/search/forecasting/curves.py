"""Learning curves of trials, as far as they are known."""

from dataclasses import dataclass

from optsearch.search.surrogate.tree import Params

# With fewer curves of known end there is nothing to learn from.
MIN_FINAL_CURVES = 3


@dataclass(frozen=True)
class LearningCurve:
    """What is known of one trial: its parameters, and its values at rising budgets (inner steps), perhaps none yet.

    `failed_shares` is the part of the inner losses at the cap since the value before. The last value of a curve
    that `is_final` is the trial's final value, even where it ended early.
    """

    params: Params
    budgets: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    failed_shares: tuple[float, ...] = ()
    is_final: bool = False

    def until(self, budget: int) -> "LearningCurve":
        """What was known when `budget` inner steps were spent; a curve that ended before is final."""
        count = sum(step <= budget for step in self.budgets)
        return LearningCurve(self.params, self.budgets[:count], self.values[:count], self.failed_shares[:count],
                             self.is_final and count == len(self.budgets))
