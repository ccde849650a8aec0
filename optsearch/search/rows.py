"""Rows of a search space: a value, choices, a range, or groups that are switched on and off."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from optsearch.errors import SpaceError

BOUNDS = {"low", "high", "log", "step"}
NOTHING = ("none", 0)

Leaf = BaseDistribution | CategoricalChoiceType
Suggest = Callable[[str, BaseDistribution], Any]


@dataclass(frozen=True)
class Switches:
    """Groups that are there (True), are not (False), or may be; the row's value is a list of those that are."""

    groups: Mapping[str, Leaf]


Row = Leaf | Switches


def trial_suggest(trial: optuna.Trial | FrozenTrial) -> Suggest:
    """Suggestions by an Optuna trial."""
    return trial._suggest


def random_suggest(seed: int) -> Suggest:
    """Suggestions drawn at random, as Optuna's random sampler draws them, outside any study."""
    generator = numpy.random.default_rng(seed)

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[generator.integers(len(distribution.choices))]
        transform = _SearchSpaceTransform({name: distribution})
        return transform.untransform(generator.uniform(transform.bounds[:, 0], transform.bounds[:, 1]))[name]

    return suggest


def choose(suggest: Suggest, name: str, row: Row) -> Any:
    """A value of the row; `suggest(name, distribution)` chooses where there is a choice."""
    if isinstance(row, Switches):
        return [group for group, switch in row.groups.items() if choose(suggest, f"{name}.{group}", switch)]
    return suggest(name, row) if isinstance(row, BaseDistribution) else row


def nearest(value: Any, distribution: BaseDistribution) -> Any:
    """The value itself where it may be chosen, else the nearest number or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return min(max(value, distribution.low), distribution.high)


def leaves(name: str, row: Row) -> Iterator[tuple[str, Leaf]]:
    """The row by its dotted name; of switches, every one."""
    if isinstance(row, Switches):
        yield from ((f"{name}.{group}", switch) for group, switch in row.groups.items())
    else:
        yield name, row


def extremes(row: Row) -> tuple[Any, ...]:
    """All choices, or both ends of a range, or the value; of switches, the fewest and the most groups."""
    if isinstance(row, Switches):
        return ([group for group, switch in row.groups.items() if switch is True],
                [group for group, switch in row.groups.items() if switch is not False])
    if isinstance(row, CategoricalDistribution):
        return tuple(row.choices)
    if isinstance(row, (IntDistribution, FloatDistribution)):
        return row.low, row.high
    return (row,)


def may_be_nothing(row: Row) -> bool:
    """Whether the row can be "none", 0 or false."""
    return any(value in NOTHING for value in extremes(row))


def may_be_something(row: Row) -> bool:
    """Whether the row can be anything but "none", 0 and false."""
    return any(value not in NOTHING for value in extremes(row))


def parse_row(where: str, value: Any, *, is_switchable: bool = False) -> Row:
    """A row from its TOML value; raises `SpaceError`, which begins with `where`."""
    if isinstance(value, list):
        if not value or len(set(map(str, value))) < len(value):
            raise SpaceError(f"{where}: {value} is empty or repeats itself; expected different choices.")
        return CategoricalDistribution(value)
    if not isinstance(value, dict):
        return value
    return _switches(where, value) if is_switchable else _range(where, value)


def _switches(where: str, table: dict[str, Any]) -> Switches:
    groups: dict[str, Leaf] = {}
    for group, value in table.items():
        if not (isinstance(value, bool) or value in ([True, False], [False, True])):
            raise SpaceError(f"{where}.{group}: expected true, false or [true, false], not {value!r}.")
        groups[group] = value if isinstance(value, bool) else CategoricalDistribution(value)
    if True not in groups.values():
        raise SpaceError(f"{where}: no group is true, so there might be none at all; "
                         f"expected at least one of {', '.join(table) or 'them'} to be always there.")
    return Switches(groups)


def _range(where: str, table: dict[str, Any]) -> Row:
    if not {"low", "high"} <= set(table) or not set(table) <= BOUNDS:
        raise SpaceError(f"{where}: expected low and high, and perhaps log or step; got {', '.join(table)}.")
    if table["low"] > table["high"]:
        raise SpaceError(f"{where}: the range from {table['low']} to {table['high']} is empty; "
                         "low must not be above high.")
    is_int = isinstance(table["low"], int) and isinstance(table["high"], int)
    try:
        return IntDistribution(**table) if is_int else FloatDistribution(**table)
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from error
