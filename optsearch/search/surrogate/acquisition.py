"""Which point to try next: expected improvement on what is known and under way, and its search on the tree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import cos, log, pi

import numpy
import torch
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models import SingleTaskGP
from linear_operator.utils.cholesky import psd_safe_cholesky
from optuna.distributions import CategoricalDistribution
from torch import Tensor
from torch.quasirandom import SobolEngine

from optsearch.search.rows import Suggest, random_suggest
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import Params

NUM_DRAWS = 64
# Observed points that may turn out to be the best; the others are all but surely worse.
NUM_CONTENDERS = 20
MIN_VARIANCE = 1e-10
# As many mutations of the best known points, twice as many random points, and so on; a graph costs milliseconds.
NUM_CANDIDATES, NUM_WITH_GRAPHS = 160, 40
NUM_ROUNDS = 3
NUM_PARENTS = 6
NUM_REFINED = 4
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
        self.kernel = process.covar_module
        with torch.no_grad():
            self.rows: Tensor = process.train_inputs[0]
            self.constant = process.mean_module.constant.detach().clone()
            noise = process.likelihood.noise + process.likelihood.second_noise
            self.root = psd_safe_cholesky(self._covariance(self.rows, self.rows) + noise.diag())
            self.weights = torch.cholesky_solve((process.train_targets - self.constant).unsqueeze(-1), self.root)
            means = self._posterior(self.rows)[0]
            self.known = torch.cat([self.rows[means.argsort()[:NUM_CONTENDERS]], pending])
            means, self.known_half = self._posterior(self.known)
            covariance = self._covariance(self.known, self.known) - self.known_half.T @ self.known_half
            self.known_root = psd_safe_cholesky(covariance + MIN_VARIANCE * torch.eye(len(covariance)).double())
            self.draws = _normal_draws(len(self.known), seed)
            self.best = (means + self.draws @ self.known_root.T).amin(-1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Of rows `[n, columns]`, `[n]`."""
        means, half = self._posterior(rows)
        cross = self._covariance(self.known, rows) - self.known_half.T @ half
        share = torch.linalg.solve_triangular(self.known_root, cross, upper=False)
        prior = self.kernel(rows, diag=True)
        deviation = (prior - half.square().sum(0) - share.square().sum(0)).clamp(min=MIN_VARIANCE).sqrt()
        gain = (self.best.unsqueeze(-1) - means - self.draws @ share) / deviation
        return (_log_ei_helper(gain) + deviation.log()).logsumexp(0) - log(NUM_DRAWS)

    def _covariance(self, first: Tensor, second: Tensor) -> Tensor:
        covariance: Tensor = self.kernel(first, second).to_dense()
        return covariance

    def _posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Means, and by how much of the prior the variances shrink, as a root `[observed, n]`."""
        cross = self._covariance(self.rows, rows)
        return (self.constant + (cross.T @ self.weights).squeeze(-1),
                torch.linalg.solve_triangular(self.root, cross, upper=False))


@dataclass
class Pool:
    """Points with their rows and scores, none of them twice and none that was tried."""

    encoding: Encoding
    score: NoisyImprovement
    tried: set[frozenset[tuple[str, object]]]
    points: list[Params] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, points: Iterable[Params]) -> None:
        new = {frozenset(point.items()): point for point in points}
        fresh = [point for key, point in new.items() if key not in self.tried]
        if fresh:
            self.tried.update(new)
            with torch.no_grad():
                self.scores += self.score(self.encoding.encode(fresh)).tolist()
            self.points += fresh

    def best(self, count: int) -> list[Params]:
        order = numpy.argsort(-numpy.nan_to_num(numpy.array(self.scores), nan=-numpy.inf), kind="stable")
        return [self.points[index] for index in order[:count]]


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


def best_point(score: NoisyImprovement, encoding: Encoding, parents: Sequence[Params], tried: Iterable[Params],
               seed: int) -> Params:
    """A point of the tree that was not tried, with about the highest score; `parents` are the best known, best first.

    Random points, mutations and crosses of parents; then mutations of those that score best, thrice; then gradient
    steps on the values of ranges. Raises `ValueError` where everything was tried.
    """
    near = Neighbourhood.of(encoding, seed)
    pool = Pool(encoding, score, {frozenset(point.items()) for point in tried})
    count = NUM_WITH_GRAPHS if encoding.to_graph else NUM_CANDIDATES
    parents = parents[:NUM_PARENTS]
    pool.add(near.random() for _ in range(2 * count))
    pool.add(near.mutated(_pick(near, parents)) for _ in range(count))
    pool.add(near.crossed(_pick(near, parents), _pick(near, parents)) for _ in range(count // 2))
    for _ in range(NUM_ROUNDS):
        pool.add([near.mutated(_pick(near, pool.best(NUM_PARENTS))) for _ in range(count // 2) if pool.points])
    if not pool.points:
        raise ValueError("every point that was drawn has been tried already")
    pool.add(refined(score, encoding, pool.best(NUM_REFINED)))
    return pool.best(1)[0]


def refined(score: NoisyImprovement, encoding: Encoding, points: Sequence[Params]) -> list[Params]:
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


def _normal_draws(size: int, seed: int) -> Tensor:
    """`[NUM_DRAWS, size]`, spread evenly."""
    uniform = SobolEngine(size, scramble=True, seed=seed % 2**31).draw(NUM_DRAWS, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
