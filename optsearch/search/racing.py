"""A race: every round gives each candidate a value, and whoever is clearly behind the leader leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy
from scipy.special import stdtrit

from optsearch.errors import UsageError

# Of two values nobody knows how much they vary by chance.
FIRST_LOOK = 3


@dataclass(frozen=True)
class Rules:
    """When candidates leave a race, and when it ends.

    The best candidate leaves with a probability of at most 1 - `confidence`, over all comparisons of a race and all
    looks at it. `margin` is a difference in value that is none to the user. Raises `UsageError` for rules that no
    race can be held by.
    """

    confidence: float = 0.95
    max_rounds: int = 8
    margin: float = 0.01

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"the confidence must be at least 0.5 and below 1, not {self.confidence}. "
                             "Usual is 0.95.")
        if self.max_rounds < FIRST_LOOK:
            raise UsageError(f"a race needs at least {FIRST_LOOK} seeds, not {self.max_rounds}: fewer don't show how "
                             "much values vary by chance.")
        if self.margin < 0:
            raise UsageError(f"the margin must not be below 0, but is {self.margin}.")

    def error(self, num_rounds: int) -> float:
        """What the look after so many rounds may spend of the whole error, 1 - `confidence`.

        The sum over looks grows with the rounds that they have seen, as in the linear spending function of Lan and
        DeMets (1983, https://doi.org/10.1093/biomet/70.3.659).
        """
        before = num_rounds - 1 if num_rounds > FIRST_LOOK else 0
        return (1 - self.confidence) * (num_rounds - before) / self.max_rounds


@dataclass(frozen=True)
class Estimate:
    """A mean with a confidence interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float], error: float) -> "Estimate":
        """Student's interval, which misses the mean of normal values with probability `error`."""
        found = numpy.asarray(values)
        half = stdtrit(len(found) - 1, 1 - error / 2) * found.std(ddof=1) / sqrt(len(found))
        mean = float(found.mean())
        return Estimate(mean, mean - float(half), mean + float(half))

    def to_config(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Race:
    """Values so far, a row a candidate, lower is better; and how far each was `behind` the leader at the last look.

    Whoever has `left` has fewer values than the others. Intervals of `behind` hold for all candidates and looks
    together, so a candidate leaves exactly when its own lies above 0.
    """

    rules: Rules
    values: tuple[tuple[float, ...], ...]
    behind: tuple[Estimate | None, ...]
    left: frozenset[int] = frozenset()

    @staticmethod
    def of(num_candidates: int, rules: Rules) -> "Race":
        return Race(rules, ((),) * num_candidates, (None,) * num_candidates)

    @property
    def num_rounds(self) -> int:
        return max(map(len, self.values))

    @property
    def racing(self) -> list[int]:
        """The candidates that are still in the race."""
        return [index for index in range(len(self.values)) if index not in self.left]

    @property
    def leader(self) -> int:
        """The one in the race with the lowest mean."""
        return min(self.racing, key=lambda index: sum(self.values[index]))

    @property
    def order(self) -> list[int]:
        """From first to last: those that stayed longer are ahead, then those with a lower mean."""
        return sorted(range(len(self.values)), key=lambda index: (
            index in self.left, -len(self.values[index]), float(numpy.mean(self.values[index]))))

    @property
    def is_within_margin(self) -> bool:
        """Whether nobody left in the race is ahead of the leader by the margin or more."""
        gaps = [self.behind[index] for index in self.racing if index != self.leader]
        return all(gap is not None and gap.low > -self.rules.margin for gap in gaps)

    @property
    def is_over(self) -> bool:
        return self.num_rounds >= FIRST_LOOK and (self.num_rounds >= self.rules.max_rounds or self.is_within_margin)

    def after(self, values: Mapping[int, float]) -> "Race":
        """One round later: `values` has one for each that is still racing, all of the same seed."""
        grown = tuple((*row, values[index]) if index not in self.left else row
                      for index, row in enumerate(self.values))
        race = replace(self, values=grown)
        return race if race.num_rounds < FIRST_LOOK else race._looked_at()

    def _looked_at(self) -> "Race":
        """Holm's step-down test (1979, https://www.jstor.org/stable/4615733) of paired differences to the leader."""
        leader = numpy.asarray(self.values[self.leader])
        gaps = {index: numpy.asarray(self.values[index]) - leader for index in self.racing if index != self.leader}
        behind = list(self.behind)
        behind[self.leader] = None
        left = set(self.left)
        num_left, stay = len(gaps), False
        for index in sorted(gaps, key=lambda index: -_statistic(gaps[index])):
            gap = Estimate.of(gaps[index], self.rules.error(self.num_rounds) / num_left)
            behind[index] = gap
            # From the first that stays on all stay, and are compared at its level.
            stay = stay or gap.low <= 0
            if not stay:
                left.add(index)
                num_left -= 1
        return replace(self, behind=tuple(behind), left=frozenset(left))


def _statistic(differences: numpy.ndarray) -> float:
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    return mean / deviation if deviation > 0 else inf if mean > 0 else 0.0
