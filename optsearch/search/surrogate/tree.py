"""Conditional spaces known beforehand: what may be asked, and what is, given the answers so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from optsearch.search.rows import Suggest, random_suggest, trial_suggest

# Parameters that so many random points don't meet are left to chance.
NUM_DRAWS = 2000

Params = dict[str, Any]


@dataclass(frozen=True)
class TreeSpace:
    """Every parameter with its distribution, and `walk(suggest)`, which asks for those that are active.

    What is asked may depend on earlier answers; a name must have the same distribution wherever it is asked.
    """

    walk: Callable[[Suggest], Any]
    distributions: Mapping[str, BaseDistribution]

    @staticmethod
    def of(walk: Callable[[Suggest], Any]) -> "TreeSpace":
        """The space that a function walks, an objective written with `suggest(name, distribution)` for instance."""
        found: dict[str, BaseDistribution] = {}
        draw = random_suggest(seed=0)

        def meet(name: str, distribution: BaseDistribution) -> Any:
            found.setdefault(name, distribution)
            return draw(name, distribution)

        for _ in range(NUM_DRAWS):
            walk(meet)
        return TreeSpace(walk, found)

    @staticmethod
    def flat(distributions: Mapping[str, BaseDistribution]) -> "TreeSpace":
        """The space in which every parameter is always active."""
        return TreeSpace(partial(_ask_all, distributions), distributions)

    def has(self, name: str, value: Any) -> bool:
        """Whether a parameter can have a value."""
        return name in self.distributions and _fits(self.distributions[name], value)

    def ask(self, trial: optuna.Trial) -> Any:
        """What the walk returns for the answers of a trial."""
        return self.walk(trial_suggest(trial))

    def complete(self, values: Mapping[str, Any], suggest: Suggest) -> Params:
        """One point: those of `values` that are active and fit, and for the rest what `suggest` says."""
        point: Params = {}

        def choose(name: str, distribution: BaseDistribution) -> Any:
            fits = name in values and _fits(distribution, values[name])
            point[name] = values[name] if fits else suggest(name, distribution)
            return point[name]

        self.walk(choose)
        return point

    def sample(self, seed: int, count: int) -> list[Params]:
        """Random points, as Optuna's random sampler draws them."""
        draw = random_suggest(seed)
        return [self.complete({}, draw) for _ in range(count)]


def _ask_all(distributions: Mapping[str, BaseDistribution], suggest: Suggest) -> None:
    for name, distribution in distributions.items():
        suggest(name, distribution)


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False
