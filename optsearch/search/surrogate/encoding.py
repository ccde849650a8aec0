"""Points of a conditional space as rows of numbers, in which inactive parameters take no part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import pi
from typing import Any

import networkx
import torch
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from torch import Tensor

from optsearch.search.surrogate.graphs import NUM_BUCKETS, NUM_ROUNDS, graph_features
from optsearch.search.surrogate.tree import Params, TreeSpace

# Enough to tell parameters that always occur together from those that mostly do.
NUM_DRAWS = 500
# Drawing a graph takes milliseconds, its features take 3 kB.
MAX_GRAPHS = 4000

ToGraph = Callable[[Params], "networkx.DiGraph[str]"]


@dataclass(frozen=True)
class Encoding:
    """How points of a tree become rows `[columns]`, float64, and which columns belong together.

    Columns are, in this order: `units`, where every range's value lies in it, from 0 to 1 (0.5 where inactive);
    `active`, 1 for every range that is active; `choices`, one a choice, 1 where it was made; `graph`, the features of
    the graph that `to_graph` draws of a point, none without it; `source`, one where there are `num_sources` other
    studies that points may come from, numbered from 1.
    """

    tree: TreeSpace
    to_graph: ToGraph | None = None
    num_sources: int = 0
    _graphs: dict[tuple[tuple[str, Any], ...], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def ranges(self) -> tuple[str, ...]:
        """Names of the parameters that lie in a range."""
        return tuple(name for name, each in self._free if not isinstance(each, CategoricalDistribution))

    @cached_property
    def categories(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Names of the others with their choices."""
        return tuple((name, each.choices) for name, each in self._free if isinstance(each, CategoricalDistribution))

    @property
    def units(self) -> slice:
        return slice(0, len(self.ranges))

    @property
    def active(self) -> slice:
        return slice(len(self.ranges), 2 * len(self.ranges))

    @property
    def choices(self) -> slice:
        start = self.active.stop
        return slice(start, start + sum(len(choices) for _, choices in self.categories))

    @property
    def graph(self) -> slice:
        start = self.choices.stop
        return slice(start, start + (NUM_BUCKETS * (1 + NUM_ROUNDS) if self.to_graph else 0))

    @property
    def source(self) -> slice:
        return slice(self.graph.stop, self.graph.stop + bool(self.num_sources))

    def encode(self, points: Sequence[Params]) -> Tensor:
        """Rows `[points, columns]` of source 0; parameters and choices that the tree does not have are left out."""
        rows = self._encoded(points)
        if self.to_graph is not None:
            for row, point in zip(rows, points, strict=True):
                row[self.graph] = self._graph_row(point)
        return rows

    def encode_foreign(self, source: int, points: Sequence[Params],
                       graphs: Sequence["networkx.DiGraph[str] | None"]) -> Tensor:
        """Rows of what another study tried; without a graph a point is like no other in it."""
        rows = self._encoded(points)
        rows[:, self.source] = source
        if self.to_graph is not None:
            for row, graph in zip(rows, graphs, strict=True):
                row[self.graph] = 0.0 if graph is None else graph_features(graph)
        return rows

    def _encoded(self, points: Sequence[Params]) -> Tensor:
        """Without graphs."""
        rows = torch.zeros(len(points), self.source.stop, dtype=torch.float64)
        rows[:, self.units] = 0.5
        for row, point in zip(rows, points, strict=True):
            for index, name in enumerate(self.ranges):
                if name in point:
                    row[index] = self.unit(name, point[name])
                    row[self.active.start + index] = 1.0
            for name, start in self._starts.items():
                if name in point and point[name] in self._choices_of[name]:
                    row[start + self._choices_of[name].index(point[name])] = 1.0
        return rows

    def unit(self, name: str, value: Any) -> float:
        """Where a value lies in its range, from 0 to 1, on the range's own scale."""
        return float(min(1.0, max(0.0, self._transforms[name].transform({name: value})[0])))

    def value(self, name: str, unit: float) -> Any:
        """The value there."""
        return self._transforms[name].untransform(torch.tensor([unit], dtype=torch.float64).numpy())[name]

    def embedded(self, rows: Tensor) -> Tensor:
        """Rows without their graph as points `[..., features]` whose distance is that of the parameters.

        A range is a quarter of a circle around the origin, where all that is inactive lies (the arc kernel of Swersky
        et al. 2014, https://arxiv.org/abs/1409.4011): inactive parameters are alike, and as far from every active
        value as two choices are from each other. Differentiable in the units. `names` says whose each feature is.
        """
        angles, active = rows[..., self.units] * (pi / 2), rows[..., self.active]
        return torch.cat([active * angles.cos(), active * angles.sin(), rows[..., self.choices] * 0.5 ** 0.5], -1)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameter of each feature of `embedded`."""
        return (*self.ranges, *self.ranges, *(name for name, choices in self.categories for _ in choices))

    @cached_property
    def blocks(self) -> tuple[frozenset[str], ...]:
        """Parameters that are always active together, the largest block first."""
        found: dict[frozenset[int], set[str]] = {}
        for name, draws in self._draws_with.items():
            found.setdefault(draws, set()).add(name)
        return tuple(sorted(map(frozenset, found.values()), key=lambda block: (-len(block), min(block))))

    def implies(self, name: str, other: str) -> bool:
        """Whether `other` is active wherever `name` is."""
        return self._draws_with[name] <= self._draws_with[other]

    @cached_property
    def num_active(self) -> float:
        """How many parameters a random point has."""
        return sum(map(len, self._draws_with.values())) / NUM_DRAWS

    @cached_property
    def spread(self) -> float:
        """How far two random points lie apart in `embedded`: the mean square, divided by `num_active`."""
        points = self.embedded(Encoding(self.tree).encode(self._draws))
        return float(2 * points.var(0, correction=0).sum()) / self.num_active

    def columns_of(self, name: str) -> slice:
        """The columns whose sum is 1 where the parameter is active and 0 where it is not."""
        if name in self._starts:
            return slice(self._starts[name], self._starts[name] + len(self._choices_of[name]))
        start = self.active.start + self.ranges.index(name)
        return slice(start, start + 1)

    @cached_property
    def _free(self) -> list[tuple[str, BaseDistribution]]:
        return [(name, each) for name, each in self.tree.distributions.items() if not each.single()]

    @cached_property
    def _draws_with(self) -> Mapping[str, frozenset[int]]:
        """Of random points, those in which each parameter is active."""
        return {name: frozenset(index for index, point in enumerate(self._draws) if name in point)
                for name, _ in self._free}

    @cached_property
    def _draws(self) -> list[Params]:
        return self.tree.sample(seed=0, count=NUM_DRAWS)

    @cached_property
    def _transforms(self) -> Mapping[str, _SearchSpaceTransform]:
        return {name: _SearchSpaceTransform({name: self.tree.distributions[name]}, transform_0_1=True)
                for name in self.ranges}

    @cached_property
    def _choices_of(self) -> Mapping[str, tuple[Any, ...]]:
        return dict(self.categories)

    @cached_property
    def _starts(self) -> Mapping[str, int]:
        """The first column of each category."""
        found, start = {}, self.choices.start
        for name, choices in self.categories:
            found[name] = start
            start += len(choices)
        return found

    def _graph_row(self, point: Params) -> Tensor:
        assert self.to_graph is not None
        key = tuple(sorted(point.items()))
        known = self._graphs.pop(key, None)
        self._graphs[key] = features = graph_features(self.to_graph(point)) if known is None else known
        if len(self._graphs) > MAX_GRAPHS:
            # The one that was not asked for the longest time.
            self._graphs.pop(next(iter(self._graphs)), None)
        return features
