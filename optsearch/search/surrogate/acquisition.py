"""Which point to try next: expected improvement on what is known and under way, and its search on the tree."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import cos, log, pi

import numpy
import torch
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models import SingleTaskGP
from optuna.distributions import CategoricalDistribution
from torch import Tensor

from optsearch.search.rows import Suggest, random_suggest
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.posterior import Draws, Posterior, normal_draws
from optsearch.search.surrogate.tree import Params

# Of rows `[n, columns]`, `[n]`; the more the better.
Score = Callable[[Tensor], Tensor]
IsAllowed = Callable[[Params], bool]

NUM_DRAWS = 64
# Observed points that may turn out to be the best; the others are all but surely worse.
NUM_CONTENDERS = 20
# As many mutations of the best known points, twice as many random points, and so on; a graph costs milliseconds.
NUM_CANDIDATES, NUM_WITH_GRAPHS = 160, 40
NUM_LOOKED_AT, NUM_LOOKED_AT_WITH_GRAPHS = 600, 240
NUM_ROUNDS = 3
NUM_PARENTS = 6
NUM_REFINED = 4
NUM_FOUND = 10
# A check may take 50 ms.
NUM_CHECKED = 100
NUM_BEFORE_JUMP = 10
NUM_STEPS = 15
# Of the value that moves most, at first.
STEP = 0.1
SMALL = 1e-12
# Parameters that a mutation changes: one more with this probability.
ONE_MORE = 0.5
SLOT_SWAPPED = 0.3


class NoisyImprovement:
    """The logarithm of the expected improvement of one more point on the best of those observed and under way.

    What BoTorch's `qLogNoisyExpectedImprovement` estimates with `X_pending`: an average over draws of the true values
    of contenders and pending points, but exact in the new point (Letham et al. 2019,
    https://arxiv.org/abs/1706.07094). So a point costs one row of the kernel, where BoTorch's batches cost the whole
    matrix a point. Lower values of the process are better. Differentiable in the rows.
    """

    def __init__(self, process: SingleTaskGP, pending: Tensor, seed: int) -> None:
        posterior = Posterior(process)
        with torch.no_grad():
            means = posterior.at(posterior.own)[0]
        known = torch.cat([posterior.own[means.argsort()[:NUM_CONTENDERS]], pending])
        self.draws = Draws(posterior, known, normal_draws(NUM_DRAWS, len(known), seed))
        self.best = self.draws.values.amin(-1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Of rows `[n, columns]`, `[n]`."""
        means, deviation = self.draws.marginals(rows)
        gain = (self.best.unsqueeze(-1) - means) / deviation
        return (_log_ei_helper(gain) + deviation.log()).logsumexp(0) - log(NUM_DRAWS)


@dataclass
class Pool:
    """Points with their rows and scores, none of them twice and none that was tried."""

    encoding: Encoding
    score: Score
    tried: set[frozenset[tuple[str, object]]]
    is_allowed: IsAllowed | None = None
    points: list[Params] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    checked: dict[int, bool] = field(default_factory=dict)

    def add(self, points: Iterable[Params]) -> None:
        new = {frozenset(point.items()): point for point in points}
        fresh = [point for key, point in new.items() if key not in self.tried]
        if fresh:
            self.tried.update(new)
            with torch.no_grad():
                self.scores += self.score(self.encoding.encode(fresh)).tolist()
            self.points += fresh

    def best(self, count: int) -> list[Params]:
        """Of those that are allowed, as far as `NUM_CHECKED` checks tell; if none is, of all."""
        order = numpy.argsort(-numpy.nan_to_num(numpy.array(self.scores), nan=-numpy.inf), kind="stable").tolist()
        found = list(islice(self._allowed(order), count))
        # Jumps may have passed by what was found before.
        allowed = found if self.is_allowed is None else [index for index in order if self.checked.get(index)]
        return [self.points[index] for index in (allowed or order)[:count]]

    def _allowed(self, order: Sequence[int]) -> Iterator[int]:
        """In ever longer jumps where what scores best is forbidden, as it is where all that is good costs much."""
        place = num_forbidden = 0
        while place < len(order):
            if self._may_be_suggested(order[place]):
                yield order[place]
            else:
                num_forbidden += 1
            place += 2 ** (num_forbidden // NUM_BEFORE_JUMP)

    def _may_be_suggested(self, index: int) -> bool:
        if self.is_allowed is None:
            return True
        if index not in self.checked and len(self.checked) < NUM_CHECKED:
            self.checked[index] = self.is_allowed(self.points[index])
        return self.checked.get(index, False)


@dataclass(frozen=True)
class Neighbourhood:
    """Points near others, on the tree."""

    encoding: Encoding
    generator: numpy.random.Generator
    suggest: Suggest

    @staticmethod
    def of(encoding: Encoding, seed: int) -> "Neighbourhood":
        return Neighbourhood(encoding, numpy.random.default_rng(seed), random_suggest(seed))

    def random(self) -> Params:
        return self.encoding.tree.complete({}, self.suggest)

    def mutated(self, point: Params) -> Params:
        """With a few parameters changed: choices and half of the ranges' values drawn anew, the others moved."""
        names = [name for name in point if not self.encoding.tree.distributions[name].single()]
        count = min(len(names), self.generator.geometric(1 - ONE_MORE))
        changed = dict(point)
        for index in self.generator.choice(len(names), count, replace=False):
            changed[names[index]] = self._changed(names[index], point[names[index]])
        return self.encoding.tree.complete(changed, self.suggest)

    def crossed(self, point: Params, other: Params) -> Params:
        """With some slots (what comes before the first dot of a name) as in the other point."""
        slots = sorted({name.partition(".")[0] for name in other})
        taken = {slot for slot in slots if self.generator.random() < SLOT_SWAPPED}
        return self.encoding.tree.complete(
            point | {name: value for name, value in other.items() if name.partition(".")[0] in taken}, self.suggest)

    def _changed(self, name: str, value: object) -> object:
        distribution = self.encoding.tree.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            others = [choice for choice in distribution.choices if choice != value]
            return others[self.generator.integers(len(others))]
        if self.generator.random() < 0.5:
            return self.suggest(name, distribution)
        moved = self.encoding.unit(name, value) + 0.1 * self.generator.standard_normal()
        return self.encoding.value(name, min(1.0, max(0.0, moved)))


@dataclass(frozen=True)
class Choice:
    """What is known of points beside their scores: good ones, best first, those that were tried, which are allowed."""

    parents: Sequence[Params]
    tried: Sequence[Params]
    is_allowed: IsAllowed | None = None


def best_points(score: Score, encoding: Encoding, choice: Choice, seed: int) -> list[Params]:
    """Points of the tree that were not tried, the first with about the highest score, and others of high scores.

    Random points, mutations and crosses of parents; then mutations of those that score best, thrice; then gradient
    steps on the values of ranges. Raises `ValueError` where everything was tried.
    """
    near = Neighbourhood.of(encoding, seed)
    pool = Pool(encoding, score, {frozenset(point.items()) for point in choice.tried}, choice.is_allowed)
    count = NUM_WITH_GRAPHS if encoding.to_graph else NUM_CANDIDATES
    parents = choice.parents[:NUM_PARENTS]
    pool.add(near.random() for _ in range(2 * count))
    pool.add(near.mutated(_pick(near, parents)) for _ in range(count))
    pool.add(near.crossed(_pick(near, parents), _pick(near, parents)) for _ in range(count // 2))
    for _ in range(NUM_ROUNDS):
        best = pool.best(NUM_PARENTS)
        pool.add([near.mutated(_pick(near, best)) for _ in range(count // 2) if best])
    if not pool.points:
        raise ValueError("every point that was drawn has been tried already")
    pool.add(refined(score, encoding, pool.best(NUM_REFINED)))
    return pool.best(NUM_FOUND)


def low_points(posterior: Posterior, encoding: Encoding, choice: Choice, count: int, seed: int) -> list[Params]:
    """So many of many random points, those with the lowest means first.

    For short looks at many points, which are to be good ones of many kinds: expected improvement would send them to
    the far corners of a space of many dimensions, and a search around the best to what only seems so. Compare De Ath
    et al. 2021 (https://arxiv.org/abs/1911.12809).
    """
    pool = Pool(encoding, lambda rows: -posterior.at(rows)[0], {frozenset(point.items()) for point in choice.tried},
                choice.is_allowed)
    pool.add(encoding.tree.sample(seed % 2**32, NUM_LOOKED_AT_WITH_GRAPHS if encoding.to_graph else NUM_LOOKED_AT))
    return pool.best(count)


def refined(score: Score, encoding: Encoding, points: Sequence[Params]) -> list[Params]:
    """The points after gradient steps on the values of their ranges; graphs stay what they were."""
    rows = encoding.encode(points)
    active, units = rows[:, encoding.active], rows[:, encoding.units]
    if not active.any():
        return []
    for step in range(NUM_STEPS):
        units = units.detach().requires_grad_()
        (slope,) = torch.autograd.grad(score(torch.cat([units, rows[:, encoding.active.start:]], -1)).sum(), units)
        slope = slope * active
        length = STEP * (1 + cos(pi * step / NUM_STEPS)) / 2
        units = (units + length * slope / slope.abs().amax(-1, keepdim=True).clamp(min=SMALL)).clamp(0.0, 1.0)
    suggest = random_suggest(seed=0)
    return [encoding.tree.complete(point | {name: encoding.value(name, float(row[index])) for index, name
                                            in enumerate(encoding.ranges) if name in point}, suggest)
            for point, row in zip(points, units.detach(), strict=True)]


def _pick(near: Neighbourhood, points: Sequence[Params]) -> Params:
    return points[int(near.generator.integers(len(points)))]
