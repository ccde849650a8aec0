"""Timing contenders against each other: in turns, so that a machine that slows down slows down all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

Contender = Callable[[], object]
# Called with the part of the work that is done, 0..1.
Report = Callable[[float], None]

# A turn shorter than this would measure the clock and the first cache misses.
MIN_TURN_SECONDS = 0.03


@dataclass(frozen=True)
class Spread:
    """The median of several measurements and the two ends."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values))


def in_turns(contenders: Mapping[str, Contender], repetitions: int,
             report: Report = lambda part: None) -> dict[str, list[float]]:
    """Seconds a call by name, one measurement a round: every contender has its turn, then the next round begins.

    Each is called twice before: to compile and warm up, and to see how many calls make a turn long enough.
    """
    num_turns = len(contenders) * (repetitions + 1)
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    num_calls: dict[str, int] = {}
    for turn, (name, contender) in enumerate(contenders.items()):
        contender()
        num_calls[name] = max(1, ceil(MIN_TURN_SECONDS / _seconds(contender, 1)))
        report((turn + 1) / num_turns)
    for turn, (name, contender) in enumerate(list(contenders.items()) * repetitions, len(contenders)):
        measured[name].append(_seconds(contender, num_calls[name]))
        report((turn + 1) / num_turns)
    return measured


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median over rounds of one contender's seconds ÷ another's in the same round."""
    return median(above / below for above, below in zip(numerator, denominator, strict=True))


def _seconds(contender: Contender, num_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(num_calls):
        contender()
    return (time.perf_counter() - started) / num_calls
