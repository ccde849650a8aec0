"""What forecasts of curves with known ends teach about forecasts: how far to trust them, and how sure they may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from optsearch.search.forecasting.ranks import half_width

# Looks at other parts of the budget count less, by a normal curve of this deviation in the logarithm of the part.
BANDWIDTH = 0.5
MIN_LOOKS = 5
LEVEL = 0.9
NUM_ROUNDS = 10
# The part of the way back to the best value so far that counts as a deviation.
SPELL = 0.5


@dataclass(frozen=True)
class Rule:
    """How forecasts are corrected at one part of the budget.

    From the last value a forecast goes the share `ahead` of the way to the process's mean, and the share `back` of the
    way to the best value so far, to which many curves return after a bad spell.
    """

    ahead: float = 0.5
    back: float = 0.5
    widening: float = 2.0


@dataclass(frozen=True)
class Look:
    """Forecasts at one `part` of the budget, all `[n]`: `mean` and `deviation` of the process, the `last` value and the
    `best` so far.

    At part 0 no value is known, and both are the mean.
    """

    part: float
    mean: Tensor
    deviation: Tensor
    last: Tensor
    best: Tensor

    def take(self, rows: Tensor) -> "Look":
        return Look(self.part, *(each[rows] for each in (self.mean, self.deviation, self.last, self.best)))

    def corrected(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """Mean and deviation."""
        mean = self.last + rule.ahead * (self.mean - self.last) + rule.back * (self.best - self.last)
        return mean, rule.widening * self.spread

    @property
    def spread(self) -> Tensor:
        """A curve in a bad spell is less certain than its smooth parts look."""
        return (self.deviation.square() + (SPELL * (self.last - self.best)).square()).sqrt()


@dataclass(frozen=True)
class Outcome:
    """A look at curves number `numbers` `[n]`, and their `ends` `[n]`."""

    look: Look
    numbers: Tensor
    ends: Tensor

    def take(self, rows: Tensor) -> "Outcome":
        return Outcome(self.look.take(rows), self.numbers[rows], self.ends[rows])


@dataclass(frozen=True)
class Correction:
    """A rule for each of some parts of the budget."""

    rules: tuple[tuple[float, Rule], ...] = ()

    @staticmethod
    def learned(outcomes: Sequence[Outcome]) -> "Correction":
        """From forecasts that were made without knowing the ends."""
        useful = [each for each in outcomes if len(each.ends) >= MIN_LOOKS]
        return Correction(tuple((each.look.part, _rule(each.look.part, useful)) for each in useful))

    def at(self, part: float) -> Rule:
        """That of the nearest part there is one for; a guess, unsure of itself, if there is none."""
        apart = [(_distance(part, known), rule) for known, rule in self.rules]
        distance, rule = min(apart, key=lambda each: each[0], default=(inf, Rule()))
        return rule if distance < inf else Rule()


def _rule(part: float, outcomes: Sequence[Outcome]) -> Rule:
    near = [(each, weight) for each in outcomes if (weight := _weight(part, each.look.part)) > 1e-3]
    weights = torch.cat([torch.full_like(each.ends, weight) for each, weight in near])
    spread, rest, ahead, back = (torch.cat(parts) for parts in zip(*(
        (each.look.spread, each.ends - each.look.last, each.look.mean - each.look.last,
         each.look.best - each.look.last) for each, _ in near), strict=True))
    shares = _shares(rest, ahead, back, weights / spread) if part else (1.0, 0.0)
    errors = (rest - shares[0] * ahead - shares[1] * back).abs() / spread
    # One more for the curve to be forecast, as in conformal prediction (Lei et al. 2018,
    # https://arxiv.org/abs/1604.04173).
    count = max(len(each.ends) for each, _ in near)
    level = min(1.0, LEVEL * (1 + 1 / count))
    return Rule(*shares, float(_quantile(errors, weights, level)) / half_width(LEVEL))


def _shares(rest: Tensor, ahead: Tensor, back: Tensor, weights: Tensor) -> tuple[float, float]:
    """Those of the least weighted sum of absolute errors, so that a few late jumps don't decide."""
    first, second = Rule.ahead, Rule.back
    for _ in range(NUM_ROUNDS):
        first = _share(rest - second * back, ahead, weights)
        second = _share(rest - first * ahead, back, weights)
    return first, second


def _share(rest: Tensor, move: Tensor, weights: Tensor) -> float:
    """The best factor of `move`, a weighted median, held between 0 and 1."""
    used = move.abs() > 1e-9
    if not used.any():
        return 0.5
    found = _quantile(rest[used] / move[used], weights[used] * move[used].abs(), 0.5)
    return min(1.0, max(0.0, float(found)))


def _quantile(values: Tensor, weights: Tensor, level: float) -> Tensor:
    order = values.argsort()
    sums = weights[order].cumsum(0)
    return values[order][int(torch.searchsorted(sums, level * sums[-1]).clamp(max=len(values) - 1))]


def _weight(part: float, other: float) -> float:
    return 2.0 ** -((_distance(part, other) / BANDWIDTH) ** 2)


def _distance(part: float, other: float) -> float:
    if part == 0 or other == 0:
        return 0.0 if part == other else inf
    return abs(log(part / other))
