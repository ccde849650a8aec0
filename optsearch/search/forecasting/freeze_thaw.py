"""Freeze-thaw: whether the next stretch of training goes to a new design or to one that is paused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from optsearch.search.forecasting.curves import MIN_FINAL_CURVES, LearningCurve
from optsearch.search.forecasting.halving import Halving
from optsearch.search.forecasting.standing import Standing, last, remaining
from optsearch.search.rows import random_suggest
from optsearch.search.surrogate.tree import Params, TreeSpace
from optsearch.seeds import seed_for

if TYPE_CHECKING:
    from optsearch.search.forecasting.predictor import Forecast, Trust

# A sampler's next suggestion is not known before it is asked: it is taken to be as good as the best of so many.
GROUP_SIZE, NUM_GROUPS = 16, 4
NUM_PARENTS, NUM_MUTATIONS = 8, 2
# The predictor is fitted anew when there are so many times as many values.
GROWTH = 1.25


class Predictor(Protocol):
    """What is needed of a `PerformancePredictor`."""

    def forecast(self, curves: Sequence[LearningCurve]) -> "Forecast": ...

    @property
    def trust(self) -> "Trust": ...


Fit = Callable[[Sequence[LearningCurve]], Predictor]
# A curve's parameters and how many values it has.
Key = tuple[frozenset[tuple[str, Any]], int]
Draw = Callable[[Sequence[LearningCurve]], Sequence[Params]]


@dataclass(frozen=True)
class Rules:
    """How freeze-thaw behaves where forecasts don't say.

    The last part `finishing` of all steps goes to designs that are paused. A design is paused only for something that
    is worth `hysteresis` times as much.
    """

    finishing: float = 0.1
    hysteresis: float = 1.5


@dataclass
class FreezeThaw:
    """Decisions of freeze-thaw Bayesian optimisation (Swersky et al. 2014, https://arxiv.org/abs/1406.3896).

    A design is worth what training it to its `budget` is expected to improve on the best end, per inner step that it
    still takes. Until the predictor that `fit` gives has earned trust, and wherever it fails, `Halving` decides.
    Nothing is begun that could not be ended with what is left. `draw` gives points as new ones might be, as
    `new_designs` does. For one thread at a time.
    """

    budget: int
    fit: Fit
    draw: Draw
    rules: Rules = Rules()
    _fitted: "_Fitted | None" = field(default=None, repr=False)

    def is_over(self, standing: Standing) -> bool:
        """Whether nothing can be begun or continued, at least until something that runs is paused."""
        return standing.free(self.budget) < self.budget and not standing.resting(self.budget)

    def next(self, standing: Standing) -> int | None:
        """The paused curve to continue, None for a new design; asked only where it isn't over."""
        resting = standing.resting(self.budget)
        if not resting:
            return None
        worths = self._worths(standing, resting)
        if worths is None:
            return self._halved(standing, resting)
        best = max(range(len(resting)), key=worths.paused.__getitem__)
        return None if worths.new is not None and worths.new > worths.paused[best] else resting[best]

    def goes_on(self, standing: Standing, index: int) -> bool:
        """Whether a running curve that has just got a point is trained further, or paused."""
        now = standing.paused(index)
        resting = now.resting(self.budget)
        if index not in resting:
            return True
        worths = self._worths(now, resting)
        if worths is None:
            return self._halving.goes_on(now.curves, index) or self._halved(now, resting) == index
        rival = max([*worths.paused, worths.new or 0.0])
        return rival <= self.rules.hysteresis * worths.paused[resting.index(index)]

    def _worths(self, standing: Standing, resting: Sequence[int]) -> "_Worths | None":
        """None without a predictor that is trusted and works."""
        fitted = self._trusted(standing.curves)
        if fitted is None:
            return None
        try:
            paused = self._worth(fitted, standing, [standing.curves[index] for index in resting])
            if not self._may_begin(standing):
                return _Worths(paused.tolist())
            fitted.new = fitted.new or [LearningCurve(params) for params in self.draw(standing.curves)]
            new = self._worth(fitted, standing, fitted.new).reshape(NUM_GROUPS, -1)
            return _Worths(paused.tolist(), new.amax(1).mean().item())
        # A search that can't forecast goes on without.
        except Exception:
            return None

    def _worth(self, fitted: "_Fitted", standing: Standing, curves: Sequence[LearningCurve]) -> Tensor:
        best = min(last(curve) for curve in standing.curves if curve.is_final)
        steps = torch.tensor([remaining(curve, self.budget) for curve in curves], dtype=torch.float64)
        return worth(fitted.forecast(curves), best, steps).nan_to_num(0.0)

    def _may_begin(self, standing: Standing) -> bool:
        """Whether there is room for a new design, and it isn't time to finish what is paused."""
        is_late = standing.left <= self.rules.finishing * standing.total
        has_room = standing.free(self.budget) >= self.budget
        return has_room and not (is_late and standing.resting(self.budget))

    @property
    def _halving(self) -> Halving:
        return Halving(self.budget)

    def _halved(self, standing: Standing, resting: Sequence[int]) -> int | None:
        found = self._halving.promoted(standing.curves, resting)
        if found is None and not self._may_begin(standing):
            return self._halving.best(standing.curves, resting)
        return found

    def _trusted(self, curves: Sequence[LearningCurve]) -> "_Fitted | None":
        """With a predictor that has earned trust; fitted anew when there is enough more to learn from."""
        if sum(curve.is_final for curve in curves) < MIN_FINAL_CURVES:
            return None
        count = sum(len(curve.values) for curve in curves)
        if self._fitted is None or not self._fitted.count <= count < GROWTH * self._fitted.count:
            self._fitted = _Fitted(count, self._learned(curves))
        return self._fitted if self._fitted.trusted else None

    def _learned(self, curves: Sequence[LearningCurve]) -> Predictor | None:
        try:
            predictor = self.fit(curves)
            return predictor if predictor.trust.is_earned else None
        except Exception:
            return None


@dataclass
class _Fitted:
    """What was learned from so many values; None where it isn't to be trusted.

    What it said of a curve is kept, and so are the points that stand for a `new` one: a decision forecasts only what
    has changed.
    """

    count: int
    trusted: Predictor | None
    new: list[LearningCurve] = field(default_factory=list)
    said: dict[Key, tuple[float, ...]] = field(default_factory=dict)

    def forecast(self, curves: Sequence[LearningCurve]) -> "Forecast":
        from optsearch.search.forecasting.predictor import Forecast

        missing = [curve for curve in curves if _key(curve) not in self.said]
        if missing and self.trusted:
            found = self.trusted.forecast(missing)
            columns = zip(found.mean.tolist(), found.deviation.tolist(), found.divergence.tolist(), strict=True)
            self.said.update(zip(map(_key, missing), columns, strict=True))
        rows = torch.tensor([self.said[_key(curve)] for curve in curves], dtype=torch.float64)
        return Forecast(*rows.T)


@dataclass(frozen=True)
class _Worths:
    """Of what is paused, and of a new design, None where none may be begun."""

    paused: list[float]
    new: float | None = None


def _key(curve: LearningCurve) -> Key:
    return frozenset(curve.params.items()), len(curve.values)


def worth(forecast: "Forecast", best: float, remaining: Tensor) -> Tensor:
    """Expected improvement `[n]` on `best` per inner step of the `remaining` ones `[n]`, which are positive.

    A trial that diverges improves nothing.
    """
    deviation = forecast.deviation.clamp(min=1e-12)
    z = (best - forecast.mean) / deviation
    density = torch.exp(-z.square() / 2) / (2 * pi) ** 0.5
    # Far below zero both terms of the usual formula are alike and cancel.
    behind = z.clamp(max=0.0)
    tail = density * (1 + behind * (pi / 2) ** 0.5 * torch.special.erfcx(-behind / 2 ** 0.5))
    improvement = torch.where(z > 0, density + z * torch.special.ndtr(z), tail.clamp(min=0.0))
    return (1 - forecast.divergence) * deviation * improvement / remaining


def new_designs(tree: TreeSpace, seed: int, curves: Sequence[LearningCurve]) -> list[Params]:
    """`NUM_GROUPS` groups of points that a sampler might suggest: half of each random, half near the best so far."""
    seed = seed_for(seed, "new designs", len(curves))
    draw, chance = random_suggest(seed % 2**32), Random(seed)
    parents = [curve.params for curve in sorted(curves, key=last)[:NUM_PARENTS]] or [{}]
    points = []
    for index in range(NUM_GROUPS * GROUP_SIZE):
        kept = dict(chance.choice(parents)) if index % 2 else {}
        for name in chance.sample(sorted(kept), min(NUM_MUTATIONS, len(kept))):
            del kept[name]
        points.append(tree.complete(kept, draw))
    return points
