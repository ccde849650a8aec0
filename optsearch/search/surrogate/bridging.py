"""What trials that were stopped would have ended at, from what others changed on the same way."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf

import numpy
from optuna.trial import FrozenTrial, TrialState

# What a stretch does is known as if from so many more curves, on which it changed nothing but by chance: by the
# `UNSURE` part of how far curves are apart there.
PRIOR_COUNT = 4
UNSURE = 1 / 3
# In medians; a curve that explodes should not make all others look uncertain.
FAR = 3.0

Course = Mapping[float, float]


def bridged(stopped: Sequence[FrozenTrial], ended: Sequence[FrozenTrial]) -> dict[int, tuple[float, float]]:
    """Mean and deviation of the end of each stopped trial that has reported, by its number.

    Its last value, moved by what the others that went on typically changed on each stretch from one place where
    trials were stopped to the next, as a random walk of which every stretch has its own deviation. So what only came
    half the way tells about that half.
    """
    courses = {trial.number: _course(trial) for trial in (*stopped, *ended)}
    last = {trial.number: max(courses[trial.number]) for trial in stopped if courses[trial.number]}
    places = [*sorted(set(last.values())), inf]
    found, mean, variance = {}, 0.0, 0.0
    for place, following in reversed([*pairwise(places)]):
        move, spread = _stretch(list(courses.values()), place, following)
        mean, variance = mean + move, variance + spread
        found.update({number: (courses[number][step] + mean, variance ** 0.5)
                      for number, step in last.items() if step == place})
    return found


def _course(trial: FrozenTrial) -> Course:
    """Finite values by step; the end is at infinity."""
    known = {float(step): value for step, value in trial.intermediate_values.items()}
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        known[inf] = trial.value
    return {step: value for step, value in known.items() if numpy.isfinite(value)}


def _stretch(courses: Sequence[Course], start: float, end: float) -> tuple[float, float]:
    """Mean and variance of what a curve changes between two steps."""
    here, there = ({index: value for index, course in enumerate(courses) if (value := _at(course, step)) is not None}
                   for step in (start, end))
    moves = numpy.array([there[index] - before for index, before in here.items() if index in there])
    prior = PRIOR_COUNT * (UNSURE * max(_apart(here), _apart(there))) ** 2
    if not len(moves):
        return 0.0, prior / PRIOR_COUNT
    middle = numpy.median(moves)
    squares = (moves - middle) ** 2
    total = numpy.minimum(squares, FAR ** 2 * numpy.median(squares)).sum() + prior
    count = len(moves) + PRIOR_COUNT
    return float(middle * len(moves) / count), float(total / count)


def _apart(values: Mapping[int, float]) -> float:
    """The middle half of the values lies so far apart."""
    low, high = numpy.quantile(list(values.values()), (0.25, 0.75)) if values else (0.0, 0.0)
    return float(high - low)


def _at(course: Course, step: float) -> float | None:
    """The last value at or before a step, where the course has come that far."""
    known = [each for each in course if each <= step]
    return course[max(known)] if known and max(course) >= step else None
