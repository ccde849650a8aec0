"""A conditional space as other packages' searchers are told of it, in plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.bench.conditions import Activity, activities
from optsearch.search.samplers import encoding_of
from optsearch.search.surrogate.tree import Params

Numerical = FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """Parameters as peers know them: choices and steps by number, those with one value left out."""

    distributions: Mapping[str, BaseDistribution]
    activities: Mapping[str, Activity]

    def described(self) -> list[dict[str, Any]]:
        """Plain data, a parameter each."""
        return [{"name": name, **_kind(distribution), "alternatives": self._alternatives(name)}
                for name, distribution in self.distributions.items() if not distribution.single()]

    def values(self, params: Mapping[str, Any]) -> Params:
        """A peer's parameters in our terms."""
        return {name: _value(self.distributions[name], answer) for name, answer in params.items()}

    def _alternatives(self, name: str) -> list[list[dict[str, Any]]]:
        return [[{"parent": condition.parent, "values": [self._number(condition.parent, value)
                                                         for value in condition.values]}
                 for condition in one if not self.distributions[condition.parent].single()]
                for one in self.activities[name].alternatives]

    def _number(self, name: str, value: Any) -> int:
        return int(self.distributions[name].to_internal_repr(value))


@cache
def space_of(name: str, text: str) -> Space:
    """Of a search space; takes seconds, once."""
    tree = encoding_of(name, text).tree
    return Space(tree.distributions, activities(tree))


def _kind(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"kind": "choice", "count": len(distribution.choices)}
    assert isinstance(distribution, Numerical)
    if _has_steps(distribution):
        count = round((distribution.high - distribution.low) / (distribution.step or 1))
        return {"kind": "int", "low": 0, "high": count, "log": False}
    kind = "float" if isinstance(distribution, FloatDistribution) else "int"
    return {"kind": kind, "low": distribution.low, "high": distribution.high, "log": distribution.log}


def _value(distribution: BaseDistribution, answer: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[answer]
    assert isinstance(distribution, Numerical)
    if _has_steps(distribution):
        answer = distribution.low + answer * (distribution.step or 1)
    kind = float if isinstance(distribution, FloatDistribution) else int
    # Rounding may carry an answer just out of the range.
    return kind(min(max(answer, distribution.low), distribution.high))


def _has_steps(distribution: Numerical) -> bool:
    return distribution.step not in ({None} if isinstance(distribution, FloatDistribution) else {1})
