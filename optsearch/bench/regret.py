"""How good searches are: normalised regret and rank against budget, and how many trials they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

Array = NDArray[numpy.float64]
# Half of all seeds lie between.
LOW, HIGH = 0.25, 0.75


@dataclass(frozen=True)
class Scale:
    """The lowest and the highest value of a family that are known: regrets 0 and 1."""

    best: float
    worst: float

    def regret(self, value: float) -> float:
        """Normalised regret, at most 1."""
        return min(1.0, (value - self.best) / (self.worst - self.best))


@dataclass(frozen=True)
class Regret:
    """A regret over time, in full trials' worth of inner steps: `values[i]` from `times[i]` on, 1 before the first."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, times: Sequence[float] | Array) -> Array:
        place = numpy.searchsorted(self.times, times, side="right")
        return numpy.array([1.0, *self.values])[place]

    def time_to(self, target: float) -> float:
        """When it comes to `target` and stays at or below it; infinite where it does not."""
        above = [index for index, value in enumerate(self.values) if value > target]
        following = above[-1] + 1 if above else 0
        return self.times[following] if following < len(self.times) else float("inf")


@dataclass(frozen=True)
class Count:
    """Trial equivalents over seeds: median and quartiles; seeds that don't come there in time count as its end."""

    median: float
    low: float
    high: float
    num_censored: int
    num_seeds: int


def mean_of(regrets: Sequence[Regret]) -> Regret:
    """The mean of several regrets at every time at which one of them changes."""
    times = sorted({time for regret in regrets for time in regret.times})
    values = numpy.mean([regret.at(times) for regret in regrets], axis=0)
    return Regret(tuple(times), tuple(values.tolist()))


def quantiles(values: Array) -> Array:
    """Low, median and high over the first axis."""
    found: Array = numpy.quantile(values, (LOW, 0.5, HIGH), axis=0)
    return found


def trial_equivalents(regrets: Mapping[str, Sequence[Regret]], reference: str,
                      limits: Mapping[str, float]) -> dict[str, Count]:
    """When each method's seeds, until its limit, are where the median seed of `reference` is at its own."""
    target = float(numpy.median([regret.at([limits[reference]])[0] for regret in regrets[reference]]))
    found = {}
    for name, seeds in regrets.items():
        times, limit = numpy.array([regret.time_to(target) for regret in seeds]), limits[name]
        low, median, high = quantiles(times.clip(max=limit)).tolist()
        found[name] = Count(median, low, high, int((times > limit).sum()), len(seeds))
    return found


def average_ranks(regrets: Mapping[str, Sequence[Regret]], times: Sequence[float] | Array) -> dict[str, Array]:
    """Mean rank of each method among all, 1 the best, ties shared; the n-th seeds of all are ranked together."""
    values = numpy.array([[regret.at(times) for regret in seeds] for seeds in regrets.values()])
    lower = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return dict(zip(regrets, (lower + (equal + 1) / 2).mean(1), strict=True))


def times_until(cap: float, count: int = 41) -> Array:
    """Log-spaced from one trial to the cap."""
    return numpy.geomspace(1.0, cap, count)


def regret_of(row: Mapping[str, Any], scale: Scale, *, counts_seconds: bool = True) -> Regret:
    """Of one run as `bench search` keeps it; the searcher's own seconds are inner steps not made meanwhile."""
    rate = row["steps_per_second"] if counts_seconds else 0.0
    return Regret(tuple((steps + seconds * rate) / row["budget"] for steps, seconds, _ in row["trace"]),
                  tuple(scale.regret(value) for _, _, value in row["trace"]))
