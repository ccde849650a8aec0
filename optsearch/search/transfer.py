"""What earlier studies tell a new one, whose space, tasks, horizon and budget may be others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy
import optuna
import torch
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from torch import Tensor

from optsearch.errors import DesignError
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.forecasting.history import newest
from optsearch.search.objectives import OneObjective, design_of
from optsearch.search.rows import random_suggest
from optsearch.search.surrogate.history import finite, known_values
from optsearch.search.surrogate.tree import Params, TreeSpace

if TYPE_CHECKING:
    import networkx

    from optsearch.search.surrogate.encoding import Encoding

# Of all sources together: every row makes suggestions slower, and the model learns from no more of the best.
MAX_ROWS = 100
NUM_POINTS = 4
# Where another study has shown what is good, fewer trials of the start are random.
SPREAD_PART = 4


@dataclass(frozen=True)
class Source:
    """What another study tried: the parameters that the new tree has too, graphs of designs, values, deviations.

    Values are lower the better, on a scale of their own. Deviations are 0 where measured. A graph is None where it is
    not known.
    """

    points: tuple[Params, ...]
    graphs: "tuple[networkx.DiGraph[str] | None, ...]"
    values: tuple[float, ...]
    deviations: tuple[float, ...]

    @property
    def best_first(self) -> list[int]:
        return [int(index) for index in numpy.argsort(self.values, kind="stable")]

    def capped(self, count: int) -> "Source":
        """At most `count` trials: half of them the best, the others evenly from there to the worst."""
        if len(self.values) <= count:
            return self
        order, best = self.best_first, count // 2
        places = numpy.linspace(best, len(order) - 1, count - best).round().astype(int)
        return self._only([*order[:best], *(order[place] for place in places)])

    def _only(self, chosen: Sequence[int]) -> "Source":
        return Source(tuple(self.points[index] for index in chosen), tuple(self.graphs[index] for index in chosen),
                      tuple(self.values[index] for index in chosen), tuple(self.deviations[index] for index in chosen))


def source_of(study: optuna.Study, tree: TreeSpace) -> Source:
    """What the ended trials of a study tell about the points of another tree.

    Pruned trials have their last value, and a deviation as `history` gives it. Of several values the first counts.
    Numbers outside a range of the tree count as its end; names that it lacks are left out. What the old space did not
    ask but the new one does comes from the design that the trial has kept.
    """
    study = OneObjective(study) if len(study.directions) > 1 else study
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    trials = newest(study.get_trials(deepcopy=False))
    known = known_values(study, trials, forecasts=None)
    trials = [trial for trial in trials if trial.number in known]
    designs = [design_of(trial) or None for trial in trials]
    return Source(tuple(_point(tree, trial.params, design) for trial, design in zip(trials, designs, strict=True)),
                  tuple(_graph(design) for design in designs),
                  finite([sign * known[trial.number][0] for trial in trials]),
                  tuple(known[trial.number][1] for trial in trials))


@dataclass(frozen=True)
class Inheritance:
    """What sources, perhaps none, give a study whose points an encoding with as many sources encodes."""

    encoding: "Encoding"
    sources: Sequence[Source]

    @cached_property
    def rows(self) -> Tensor:
        """At most `MAX_ROWS`, the sources numbered from 1."""
        return torch.cat([self.encoding.encode([]),
                          *(self.encoding.encode_foreign(number, source.points, _graphs(self.encoding, source))
                            for number, source in enumerate(self._capped, start=1))])

    @property
    def values(self) -> list[float]:
        """Of the rows."""
        return [value for source in self._capped for value in source.values]

    @property
    def deviations(self) -> list[float]:
        return [deviation for source in self._capped for deviation in source.deviations]

    @cached_property
    def points(self) -> list[Params]:
        """The best points of every source in turn that are points of the tree, `NUM_POINTS` in all.

        What the source did not ask is chosen at random, always alike.
        """
        tree, draw, found = self.encoding.tree, random_suggest(seed=0), list[Params]()
        best = [[source.points[index] for index in source.best_first if _fits(tree, source.points[index])]
                for source in self.sources]
        for point in (point for rank in zip_longest(*best) for point in rank if point is not None):
            completed = tree.complete(point, draw)
            found += [completed] if completed not in found else []
            if len(found) == NUM_POINTS:
                break
        return found

    def next_point(self, known: Sequence[Params]) -> Params | None:
        """The first of `points` that is not known."""
        return next((point for point in self.points if point not in known), None)

    def num_startup_trials(self, usual: int) -> int:
        """How many trials come before the model, of `usual` ones where there are no sources."""
        return len(self.points) + max(1, usual // SPREAD_PART) if self.sources else usual

    @cached_property
    def _capped(self) -> list[Source]:
        return [source.capped(MAX_ROWS // len(self.sources)) for source in self.sources]


def _fits(tree: TreeSpace, point: Params) -> bool:
    return bool(point) and all(tree.has(name, value) for name, value in point.items())


def _point(tree: TreeSpace, params: Mapping[str, Any], design: Any) -> Params:
    asked = _near(tree, params)
    if not isinstance(design, dict):
        return asked
    said = {name: value for name in tree.distributions if (value := _said(design, name)) is not None}
    values = _near(tree, said) | asked
    # A design has every field, also of what takes no part in it.
    return {name: values[name] for name in tree.complete(values, _fixed) if name in values} | asked


def _near(tree: TreeSpace, values: Mapping[str, Any]) -> Params:
    """Those whose names the tree has: numbers as near as they come in its ranges, choices also where it lacks them."""
    found: Params = {}
    for name, value in values.items():
        distribution = tree.distributions.get(name)
        if isinstance(distribution, CategoricalDistribution) or tree.has(name, value):
            found[name] = value
        elif isinstance(distribution, (IntDistribution, FloatDistribution)) and isinstance(value, (int, float)):
            transform = _SearchSpaceTransform({name: distribution})
            inside = min(distribution.high, max(distribution.low, value))
            found |= transform.untransform(transform.transform({name: inside}))
    return found


def _said(design: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """What a design has where a space asks `name`; None where it has nothing."""
    slot, *path = name.split(".")
    part = design.get(slot, {})
    if len(path) > 1 and path[0] not in part and path[0] == part.get("kind"):
        path = path[1:]
    value = part.get(path[0]) if path else None
    if not isinstance(value, list):
        return value if len(path) == 1 else None
    if len(path) == 2:
        return path[1] in value
    return value[0] if len(value) == 1 else None


def _graph(design: Any) -> "networkx.DiGraph[str] | None":
    """None for a design that was made by a version with other parts."""
    try:
        return LearnedOptimizer.from_config(design).graph() if isinstance(design, dict) else None
    except DesignError:
        return None


def _graphs(encoding: "Encoding", source: Source) -> "list[networkx.DiGraph[str] | None]":
    """The graphs, drawn where they were not known but the tree has the whole point."""
    found = list(source.graphs)
    for index, point in enumerate(source.points):
        if encoding.to_graph and found[index] is None and encoding.tree.complete(point, _fixed) == point:
            found[index] = encoding.to_graph(point)
    return found


def _fixed(name: str, distribution: BaseDistribution) -> Any:
    """Always the same value."""
    return random_suggest(seed=0)(name, distribution)
