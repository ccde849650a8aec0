"""Which answers make a parameter active, told from random points of a conditional space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from optsearch.search.surrogate.tree import Params, TreeSpace
from optsearch.seeds import seed_for

# Points that conditions are told from, and as many others that they are held against.
NUM_POINTS = 2000
ABSENT = -1


@dataclass(frozen=True)
class Condition:
    """A categorical parameter is active and has one of these choices."""

    parent: str
    values: tuple[Any, ...]

    def holds(self, point: Params) -> bool:
        return self.parent in point and point[self.parent] in self.values


# All of them hold.
Conjunction = tuple[Condition, ...]


@dataclass(frozen=True)
class Activity:
    """When a parameter is active: when all conditions of any alternative hold.

    Where no such words were found, `is_exact` is false, and the one alternative without conditions says always.
    """

    alternatives: tuple[Conjunction, ...]
    is_exact: bool = True

    def holds(self, point: Params) -> bool:
        return any(all(condition.holds(point) for condition in one) for one in self.alternatives)


ALWAYS = Activity(((),), is_exact=False)


def activities(tree: TreeSpace, num_points: int = NUM_POINTS) -> Mapping[str, Activity]:
    """Every parameter's, none of them contradicted by as many other random points."""
    answers = _Answers.of(tree, tree.sample(seed_for(0, "conditions"), num_points))
    others = tree.sample(seed_for(0, "conditions", "others"), num_points)
    found = {}
    for name in tree.distributions:
        activity = answers.activity(name)
        is_right = all(activity.holds(point) == (name in point) for point in others)
        found[name] = activity if is_right else ALWAYS
    return found


@dataclass(frozen=True)
class _Answers:
    """Random points as numbers: where each parameter was asked, and which choice each categorical one was given.

    `places` is `[points, parameters]`, `choices` `[points, categorical parameters]`; `ABSENT` where inactive.
    """

    tree: TreeSpace
    places: NDArray[numpy.int64]
    choices: NDArray[numpy.int64]

    @staticmethod
    def of(tree: TreeSpace, points: Sequence[Params]) -> "_Answers":
        orders = [{name: place for place, name in enumerate(point)} for point in points]
        places = numpy.array([[order.get(name, ABSENT) for name in tree.distributions] for order in orders])
        choices = numpy.array([[distribution.choices.index(point[name]) if name in point else ABSENT
                                for name, distribution in _categorical(tree).items()] for point in points])
        return _Answers(tree, places, choices.reshape(len(points), -1))

    def activity(self, name: str) -> Activity:
        """Choices that are enough alone are set aside, until a conjunction says the rest."""
        active, left, found = self._is_active(name), numpy.ones(len(self.places), dtype=bool), []
        parents = self._asked_before(name)
        while (rest := self._conjunction(active, left, parents)) is None:
            enough = [self._enough(parent, active, left) for parent in parents]
            covered = [int((self._holds(parent, values) & left).sum()) for parent, values in
                       zip(parents, enough, strict=True)]
            if not max(covered, default=0):
                return ALWAYS
            best = int(numpy.argmax(covered))
            found.append({parents[best]: enough[best]})
            left &= ~self._holds(parents[best], enough[best])
        return Activity(tuple(self._in_words(one) for one in (*found, rest)))

    def _conjunction(self, active: NDArray[numpy.bool_], left: NDArray[numpy.bool_],
                     parents: Sequence[int]) -> dict[int, list[int]] | None:
        """The fewest conditions that hold in those points left where the parameter is active, and in no others."""
        conditions = {parent: numpy.unique(self.choices[active & left, parent]).tolist() for parent in parents}
        conditions = {parent: values for parent, values in conditions.items() if ABSENT not in values}

        def says_it(tried: Mapping[int, list[int]]) -> bool:
            holds = left.copy()
            for parent, values in tried.items():
                holds &= self._holds(parent, values)
            return bool((holds == (active & left)).all())

        if not says_it(conditions):
            return None
        # What was asked last is dropped first: others hang on the first questions, and short chains are plain.
        for parent in sorted(conditions, key=self._place, reverse=True):
            without = {other: values for other, values in conditions.items() if other != parent}
            if says_it(without):
                conditions = without
        return conditions

    def _enough(self, parent: int, active: NDArray[numpy.bool_], left: NDArray[numpy.bool_]) -> list[int]:
        """The parent's choices with which the parameter is always active."""
        without = set(numpy.unique(self.choices[left & ~active, parent]).tolist())
        return [value for value in numpy.unique(self.choices[left & active, parent]).tolist()
                if value not in without | {ABSENT}]

    def _holds(self, parent: int, values: Sequence[int]) -> NDArray[numpy.bool_]:
        return numpy.isin(self.choices[:, parent], values)

    def _is_active(self, name: str) -> NDArray[numpy.bool_]:
        found: NDArray[numpy.bool_] = self.places[:, list(self.tree.distributions).index(name)] != ABSENT
        return found

    def _place(self, parent: int) -> int:
        name = list(_categorical(self.tree))[parent]
        return int(self.places[:, list(self.tree.distributions).index(name)].max())

    def _asked_before(self, name: str) -> list[int]:
        """The categorical parameters that are asked before this one wherever both are."""
        names = list(self.tree.distributions)
        own = self.places[:, names.index(name)]
        found = []
        for index, parent in enumerate(_categorical(self.tree)):
            places = self.places[:, names.index(parent)]
            both = (own != ABSENT) & (places != ABSENT)
            if both.any() and (places < own)[both].all():
                found.append(index)
        return found

    def _in_words(self, conditions: Mapping[int, Sequence[int]]) -> Conjunction:
        parents = list(_categorical(self.tree).items())
        return tuple(Condition(parents[index][0], tuple(parents[index][1].choices[value] for value in values))
                     for index, values in conditions.items())


def _categorical(tree: TreeSpace) -> dict[str, CategoricalDistribution]:
    return {name: distribution for name, distribution in tree.distributions.items()
            if isinstance(distribution, CategoricalDistribution)}
