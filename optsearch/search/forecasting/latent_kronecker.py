"""Many learning curves as one Gaussian process over designs and budgets, whatever part of each curve is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from optsearch.seeds import generator

# The part that designs share lies in the span of so many functions of the budget.
NUM_FUNCTIONS = 5
# More curves make the likelihood slower, and hardly another one.
NUM_FITTED = 64
NUM_ITERATIONS = 60
JITTER = 1e-6

# Median and log-deviation of each, for values of variance 1.
PRIORS: Mapping[str, tuple[float, float]] = {
    "warp": (0.5, 0.5), "shared_scale": (0.5, 1.0), "shared_length": (1.0, 0.7),
    "level": (0.5, 1.0), "smooth_scale": (0.3, 1.0), "smooth_length": (0.3, 0.7), "drift": (0.3, 1.0),
    "noise": (0.004, 1.0), "noise_per_roughness": (1.0, 0.7),
    "constant": (1.0, 0.7), "distance": (1.0, 0.5), "linear": (0.5, 1.0), "graph": (0.5, 1.0),
}
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class CurveBatch:
    """Standardised curves: `designs` `[n, features]`, `graphs` `[n, buckets]`, the rest `[n, points]`.

    `fractions` are the parts of the whole budget, in (0, 1]. `observed` says which points there are; the others'
    numbers don't matter, but must be finite. `roughness` `[n]` is how far a curve strays from its neighbours' mean.
    """

    designs: Tensor
    graphs: Tensor
    fractions: Tensor
    values: Tensor
    observed: Tensor
    roughness: Tensor

    def __len__(self) -> int:
        return len(self.designs)

    def take(self, rows: Tensor) -> "CurveBatch":
        return CurveBatch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Shared:
    """Normal distributions of each curve's part in the shared functions: `mean` `[n, r]`, `covariance` `[n, r, r]`."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Evidence:
    """What each curve says about its part in the shared functions, and what whitens its own part."""

    root: Tensor
    functions: Tensor
    values: Tensor

    @property
    def precision(self) -> Tensor:
        return self.functions.mT @ self.functions

    @property
    def shift(self) -> Tensor:
        return (self.functions.mT @ self.values[..., None])[..., 0]


def own_covariance(parameters: Parameters, first: Tensor, second: Tensor) -> Tensor:
    """Of the part of a curve that no other design shares, at fractions `[n, p]` and `[n, q]`."""
    first, second = (each ** parameters["warp"] for each in (first, second))
    left, right = first[..., :, None], second[..., None, :]
    distance = 3 ** 0.5 * (left - right).abs() / parameters["smooth_length"]
    return (parameters["level"] ** 2 + parameters["smooth_scale"] ** 2 * (1 + distance) * (-distance).exp()
            + parameters["drift"] ** 2 * torch.minimum(left, right))


def shared_functions(parameters: Parameters, fractions: Tensor) -> Tensor:
    """`[..., NUM_FUNCTIONS]`, whose products are a Matern-5/2 covariance of the budgets (Nyström)."""
    knots = torch.linspace(0, 1, NUM_FUNCTIONS, dtype=torch.float64)
    length, scale = parameters["shared_length"], parameters["shared_scale"]
    root = torch.linalg.cholesky(_matern(knots, knots, length) + JITTER * torch.eye(NUM_FUNCTIONS).double())
    covariance = _matern(fractions ** parameters["warp"], knots, length)
    return scale * torch.linalg.solve_triangular(root, covariance.mT, upper=False).mT


def noise_variance(parameters: Parameters, roughness: Tensor) -> Tensor:
    """Of the measured values of each curve: curves of one study differ by orders of magnitude."""
    return parameters["noise"] ** 2 + (parameters["noise_per_roughness"] * roughness) ** 2


def design_covariance(parameters: Parameters, first: CurveBatch, second: CurveBatch) -> Tensor:
    """`[n, m]`. One lengthscale for all parameters: one for each would need far more curves."""
    distance = torch.cdist(first.designs, second.designs, compute_mode="donot_use_mm_for_euclid_dist")
    near = _matern_of(distance / parameters["distance"])
    return (parameters["constant"] ** 2 + near + parameters["linear"] ** 2 * first.designs @ second.designs.T
            + parameters["graph"] ** 2 * first.graphs @ second.graphs.T)


def evidence(parameters: Parameters, curves: CurveBatch) -> Evidence:
    mask = curves.observed.double()
    covariance = own_covariance(parameters, curves.fractions, curves.fractions)
    covariance = covariance + torch.diag_embed(
        noise_variance(parameters, curves.roughness)[:, None].expand_as(mask))
    covariance = covariance * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(1 - mask)
    root = torch.linalg.cholesky(covariance)
    functions = shared_functions(parameters, curves.fractions) * mask[..., None]
    whitened = torch.linalg.solve_triangular(
        root, torch.cat([functions, (curves.values * mask)[..., None]], -1), upper=False)
    return Evidence(root, whitened[..., :-1], whitened[..., -1])


def log_likelihood(parameters: Parameters, curves: CurveBatch) -> Tensor:
    """Of all observed values; differentiable in the parameters."""
    known, inner, root = _inner(parameters, curves)
    explained = torch.linalg.solve_triangular(inner, (root.T @ known.shift).reshape(-1, 1), upper=False)
    log_determinant = 2 * (known.root.diagonal(dim1=-2, dim2=-1).log().sum() + inner.diagonal().log().sum())
    quadratic = known.values.square().sum() - explained.square().sum()
    return -0.5 * (quadratic + log_determinant + log(2 * pi) * curves.observed.sum())


@dataclass(frozen=True)
class LatentKronecker:
    """A Gaussian process of learning curves, given some.

    A curve is a sum of functions of the budget which similar designs share in a similar way, a part of its own, and
    noise: the covariance is k(design) ⊗ k(budget) + 1 ⊗ own(budget) + noise, with any points missing. After the
    latent Kronecker processes of Lin et al. 2024 (https://arxiv.org/abs/2410.09239) and 2025
    (https://arxiv.org/abs/2506.06895). They iterate over a grid with holes; here k(budget) has rank r, so that what n
    curves of m points say is n blocks of r numbers, and all is exact in O(n m³ + n³ r³) however much is missing.
    """

    parameters: Parameters
    curves: CurveBatch
    known: Evidence
    covariance: Tensor
    mean: Tensor

    @staticmethod
    def fit(curves: CurveBatch, seed: int = 0) -> "LatentKronecker":
        """With the most probable parameters; where there are many curves, for `NUM_FITTED` of them."""
        order = torch.randperm(len(curves), generator=generator(seed, "latent_kronecker"))[:NUM_FITTED]
        return LatentKronecker.given(most_probable(curves.take(order)), curves)

    @staticmethod
    def given(parameters: Parameters, curves: CurveBatch) -> "LatentKronecker":
        known, inner, root = _inner(parameters, curves)
        wide = torch.kron(root.contiguous(), torch.eye(NUM_FUNCTIONS).double())
        half = torch.linalg.solve_triangular(inner, wide.T, upper=False)
        covariance = half.T @ half
        mean = (covariance @ known.shift.reshape(-1)).reshape(len(curves), NUM_FUNCTIONS)
        return LatentKronecker(parameters, curves, known, covariance, mean)

    def of_designs(self, curves: CurveBatch) -> Shared:
        """What is expected of designs from the curves of others; their own values are not looked at."""
        count, precision = len(self.curves), self.known.precision
        blocks = self.covariance.reshape(count, NUM_FUNCTIONS, count, NUM_FUNCTIONS)
        certain = -torch.einsum("irs,isju,juv->irjv", precision, blocks, precision)
        index = torch.arange(count)
        certain[index, :, index] += precision
        cross = design_covariance(self.parameters, curves, self.curves)
        own = design_covariance(self.parameters, curves, curves).diagonal()
        shift = self.known.shift - torch.einsum("irs,is->ir", precision, self.mean)
        return Shared(cross @ shift, own[:, None, None] * torch.eye(NUM_FUNCTIONS).double()
                      - torch.einsum("pi,irjs,pj->prs", cross, certain, cross))

    def without_own(self) -> Shared:
        """What is expected of each curve from the others alone, in closed form (the cavity distributions)."""
        count = len(self.curves)
        index = torch.arange(count)
        blocks = self.covariance.reshape(count, NUM_FUNCTIONS, count, NUM_FUNCTIONS)[index, :, index]
        precision = torch.linalg.inv(blocks)
        covariance = torch.linalg.inv(precision - self.known.precision)
        shift = (precision @ self.mean[..., None])[..., 0] - self.known.shift
        return Shared((covariance @ shift[..., None])[..., 0], covariance)

    def final(self, shared: Shared, curves: CurveBatch) -> tuple[Tensor, Tensor]:
        """Mean and variance `[n]` of the value measured at the whole budget, from `shared` and a curve's own points."""
        known, end = evidence(self.parameters, curves), torch.ones(len(curves), 1).double()
        before = torch.linalg.inv(shared.covariance)
        covariance = torch.linalg.inv(before + known.precision)
        mean = covariance @ (before @ shared.mean[..., None] + known.shift[..., None])
        mask = curves.observed.double()[..., None]
        own = torch.linalg.solve_triangular(
            known.root, own_covariance(self.parameters, curves.fractions, end) * mask, upper=False)
        rest = shared_functions(self.parameters, end) - own.mT @ known.functions
        variance = (own_covariance(self.parameters, end, end) - own.mT @ own + rest @ covariance @ rest.mT)[:, 0, 0]
        return ((own.mT @ known.values[..., None] + rest @ mean)[:, 0, 0],
                variance + noise_variance(self.parameters, curves.roughness))


def most_probable(curves: CurveBatch) -> Parameters:
    """Parameters by L-BFGS from the medians of the priors."""
    import numpy
    from scipy.optimize import minimize

    medians = torch.tensor([log(median) for median, _ in PRIORS.values()], dtype=torch.float64)
    deviations = torch.tensor([deviation for _, deviation in PRIORS.values()], dtype=torch.float64)

    def loss(point: "numpy.ndarray") -> tuple[float, "numpy.ndarray"]:
        logs = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        try:
            value = (0.5 * ((logs - medians) / deviations).square().sum()
                     - log_likelihood(dict(zip(PRIORS, logs.exp(), strict=True)), curves))
        except RuntimeError:
            # No Cholesky root: a step too far, from which the line search comes back.
            return 1e10, numpy.zeros_like(point)
        value.backward()
        assert logs.grad is not None
        return value.item(), logs.grad.numpy()

    found = minimize(loss, medians.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": NUM_ITERATIONS})
    return dict(zip(PRIORS, torch.tensor(found.x, dtype=torch.float64).exp(), strict=True))


def _inner(parameters: Parameters, curves: CurveBatch) -> tuple[Evidence, Tensor, Tensor]:
    """Evidence, the root of I + RᵀSR, and R, the root of the designs' covariance."""
    known, count = evidence(parameters, curves), len(curves)
    covariance = design_covariance(parameters, curves, curves)
    root = torch.linalg.cholesky(covariance + JITTER * covariance.diagonal().mean() * torch.eye(count).double())
    inner = torch.einsum("ia,irs,ib->arbs", root, known.precision, root)
    inner = inner.reshape(count * NUM_FUNCTIONS, count * NUM_FUNCTIONS)
    return known, torch.linalg.cholesky(inner + torch.eye(len(inner)).double()), root


def _matern(first: Tensor, second: Tensor, length: Tensor) -> Tensor:
    return _matern_of((first[..., :, None] - second[..., None, :]).abs() / length)


def _matern_of(distance: Tensor) -> Tensor:
    """Matern-5/2 of distances in lengthscales."""
    scaled = 5 ** 0.5 * distance
    return (1 + scaled + scaled.square() / 3) * (-scaled).exp()
