"""A table of learning curves as problems for searchers: every design of the space has an answer at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from optsearch.bench.design_table import DesignTable, full_length
from optsearch.errors import FileError
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.ranks import kendall
from optsearch.search.samplers import encoding_of
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import TreeSpace
from optsearch.seeds import seed_for

NUM_TREES = 100
NUM_SHAPES = 3
INACTIVE = -1.0
# Random designs whose predicted ends are spread as those of the table are.
NUM_RANDOM = 1000
# Of the repeated designs, those so near in their end say how much chance there is.
NUM_NEIGHBOURS = 8
NUM_FOLDS = 10
LEAST_DESIGNS = 10

Params = dict[str, Any]
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Quality:
    """How well ends are predicted of designs that were left out (ten folds), by rank (Kendall) and by variance.

    `repeat_correlation` is the rank correlation of two meta-trainings of the same designs: no prediction can be much
    better. None where fewer than two were repeated.
    """

    rank_correlation: float
    r2: float
    repeat_correlation: float | None


@dataclass(frozen=True)
class Problem:
    """One family of a table: `curve` is what a searcher sees of a design, `expected` what the design is worth.

    A design of the table has its own curve. Others have what extremely randomised trees (Geurts et al. 2006) that
    were fitted on the table say - a model of another kind than those of the searchers - and on it half the difference
    of two meta-trainings of one tabulated design of a like end, drawn by the parameters. A mean of trees is too flat,
    so the ends of random designs are spread as those of the table, in the same order, and on beyond its best.
    """

    table: DesignTable = field(repr=False)
    family: str

    def __post_init__(self) -> None:
        if len(self._curves) < LEAST_DESIGNS:
            raise FileError(f"the table has {len(self._curves)} designs on {self.family}; expected at least "
                            f"{LEAST_DESIGNS}. Go on with `optsearch bench table`.")

    @property
    def budget(self) -> int:
        """Inner steps of a whole trial."""
        return self.table.budgets[-1]

    @property
    def encoding(self) -> Encoding:
        """Of the table's space, as searchers use it."""
        return encoding_of(self.table.space, self.table.space_text)

    @property
    def tree(self) -> TreeSpace:
        return self.encoding.tree

    @cached_property
    def steps_per_second(self) -> float:
        """Inner steps of meta-training, with measuring, that the table was made at."""
        curves = [curve for curve in self.table.curves if curve.family == self.family]
        steps = sum(self.table.budgets[len(curve.values) - 1] for curve in curves)
        return steps / max(1e-9, sum(curve.seconds for curve in curves))

    def curve(self, params: Params) -> LearningCurve:
        """One meta-training of the design, to its end."""
        if (index := self._places.get(_key(params))) is not None:
            known = self._curves[index]
            values, shares = known.values, known.failed_shares
        else:
            row = self._predicted([params])[0]
            draws = numpy.random.default_rng(seed_for(0, "replay", self.family, _key(params)))
            values = tuple(numpy.minimum(self._means(row[None])[0] + self._noise(row[0], draws), self._cap).tolist())
            shares = tuple(row[-len(self.table.budgets):].clip(0, 1).tolist())
            count = self._length(row[2 + NUM_SHAPES], draws)
            values, shares = values[:count], shares[:count]
        return LearningCurve(params, self.table.budgets[:len(values)], values, shares, is_final=True)

    def expected(self, points: Sequence[Params]) -> Array:
        """Values without chance `[points, budgets]`; a tabulated design's are the mean of its meta-trainings."""
        found = self._means(self._predicted(points))
        for row, point in zip(found, points, strict=True):
            if (index := self._places.get(_key(point))) is not None:
                row[:] = self._measured[index]
        return found

    @cached_property
    def quality(self) -> Quality:
        ends, folds = self._targets[:, 0], KFold(NUM_FOLDS, shuffle=True, random_state=0)
        left_out = cross_val_predict(_forest(), self._rows(self._designs), self._targets, cv=folds)[:, 0]
        pairs = self._repeats[:, :, -1]
        r2 = 1 - float(((left_out - ends) ** 2).mean() / ends.var())
        return Quality(_rank_correlation(left_out, ends), r2,
                       _rank_correlation(pairs[:, 0], pairs[:, 1]) if len(pairs) > 1 else None)

    @cached_property
    def _curves(self) -> list[Any]:
        return self.table.of(self.family)

    @cached_property
    def _designs(self) -> list[Params]:
        return [self.table.designs[curve.design] for curve in self._curves]

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {_key(params): index for index, params in enumerate(self._designs)}

    @cached_property
    def _values(self) -> Array:
        return numpy.array([full_length(curve, len(self.table.budgets)) for curve in self._curves])

    @cached_property
    def _repeats(self) -> Array:
        """Both curves of every repeated design `[designs, 2, budgets]`."""
        again = {curve.design: curve for curve in self.table.of(self.family, seed=1)}
        points = len(self.table.budgets)
        pairs = [(full_length(curve, points), full_length(again[curve.design], points)) for curve in self._curves
                 if curve.design in again]
        return numpy.array(pairs, dtype=float).reshape(len(pairs), 2, points)

    @cached_property
    def _measured(self) -> Array:
        """Means over the meta-trainings of each tabulated design `[designs, budgets]`."""
        found = self._values.copy()
        again = {curve.design for curve in self.table.of(self.family, seed=1)}
        found[[curve.design in again for curve in self._curves]] = self._repeats.mean(1)
        return found

    @cached_property
    def _cap(self) -> float:
        return float(self._values.max())

    @cached_property
    def _shapes(self) -> PCA:
        """What curves have beside a straight way from their first value to their last."""
        bent = self._values - _straight(self._values[:, 0], self._values[:, -1], len(self.table.budgets))
        return PCA(NUM_SHAPES, random_state=0).fit(bent)

    @cached_property
    def _targets(self) -> Array:
        """End, start, shape, whether it ended early, shares of failed trainings; what varies most counts most."""
        points = len(self.table.budgets)
        bent = self._values - _straight(self._values[:, 0], self._values[:, -1], points)
        early = [[float(len(curve.values) < points)] for curve in self._curves]
        shares = [[*curve.failed_shares, *[curve.failed_shares[-1]] * (points - len(curve.values))]
                  for curve in self._curves]
        return numpy.hstack([self._values[:, [-1]], self._values[:, [0]], self._shapes.transform(bent), early, shares])

    @cached_property
    def _encoding(self) -> Encoding:
        """Without graphs, which would say nothing more to trees."""
        return Encoding(self.tree)

    def _rows(self, points: Sequence[Params]) -> Array:
        rows = self._encoding.encode(points)
        units = torch.where(rows[:, self._encoding.active] > 0, rows[:, self._encoding.units], INACTIVE)
        found: Array = torch.cat([units, rows[:, self._encoding.choices]], 1).numpy()
        return found

    @cached_property
    def _fitted(self) -> ExtraTreesRegressor:
        return _forest().fit(self._rows(self._designs), self._targets)

    @cached_property
    def _knots(self) -> tuple[Array, Array]:
        """Predicted ends of random designs, and the ends of the table of the same rank."""
        random = self._fitted.predict(self._rows(self.tree.sample(seed_for(0, "replay"), NUM_RANDOM)))[:, 0]
        ends = numpy.sort(self._values[:, -1])
        return numpy.quantile(random, (numpy.arange(len(ends)) + 0.5) / len(ends)), ends

    def _predicted(self, points: Sequence[Params]) -> Array:
        """Rows as in `_targets`, with spread ends."""
        rows: Array = self._fitted.predict(self._rows(points))
        raw, ends = self._knots
        tenth = max(1, len(ends) // 10)
        slope = (ends[tenth] - ends[0]) / max(1e-9, raw[tenth] - raw[0])
        rows[:, 0] = numpy.interp(rows[:, 0], raw, ends) + slope * numpy.minimum(0.0, rows[:, 0] - raw[0])
        return rows

    def _means(self, rows: Array) -> Array:
        straight = _straight(rows[:, 1], rows[:, 0], len(self.table.budgets))
        bent = self._shapes.inverse_transform(rows[:, 2:2 + NUM_SHAPES])
        # The components know of the ends only what the table's curves, all 0 there, have taught them.
        bent[:, [0, -1]] = 0.0
        return numpy.minimum(straight + bent, self._cap)

    def _noise(self, end: float, draws: numpy.random.Generator) -> Array:
        if not len(self._repeats):
            return numpy.zeros(len(self.table.budgets))
        apart = abs(self._repeats[:, :, -1].mean(1) - end)
        one, other = self._repeats[draws.choice(numpy.argsort(apart, kind="stable")[:NUM_NEIGHBOURS])]
        # Half the difference leads from the mean to one of the two. Scaled up to the deviation of a single training, it
        # would be wrong where it matters: a bad spell's mirror image would be a luck that no training has.
        return draws.choice([-1.0, 1.0]) * (one - other) / 2

    def _length(self, chance: float, draws: numpy.random.Generator) -> int:
        """How many values there are: all, or as many as one of the table's that ended early."""
        points = len(self.table.budgets)
        early = [len(curve.values) for curve in self._curves if len(curve.values) < points]
        return int(draws.choice(early)) if early and draws.random() < chance else points


def problems(table: DesignTable) -> list[Problem]:
    """One a family."""
    return [Problem(table, family) for family in table.families]


def _rank_correlation(one: Array, other: Array) -> float:
    return kendall(torch.from_numpy(one), torch.from_numpy(other))


def _key(params: Params) -> str:
    return json.dumps(params, sort_keys=True)


def _straight(start: Array, end: Array, points: int) -> Array:
    return start[:, None] + (end - start)[:, None] * numpy.linspace(0.0, 1.0, points)


def _forest() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(NUM_TREES, max_features=0.5, random_state=0)
