"""A Gaussian process over designs: what it is fitted on, and the fit, which is bounded in iterations and seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import Positive
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from optsearch.search.storage import quietly
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.kernels import DesignKernel, TransferKernel

# On a slow core an iteration takes 0.1 s with so many rows.
MAX_FITTED_ROWS = 120
NUM_COLD_ITERATIONS = 40
NUM_WARM_ITERATIONS = 15
MAX_SECONDS = 20.0
# Of the variance of the targets; below it Cholesky decompositions fail.
MIN_NOISE = 1e-5
SMALL = 1e-12
# The mode and the spread, on a logarithmic scale, of the prior of the noise's variance.
NOISE, NOISE_SPREAD = 0.01, 1.5

Hyperparameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Observations:
    """Rows `[n, columns]` with their values `[n]`, lower is better, and standard deviations `[n]` known beforehand.

    A deviation is 0 for what was measured: the noise of measuring is learned. Rows of other sources come first.
    """

    rows: Tensor
    values: Tensor
    deviations: Tensor


@dataclass(frozen=True)
class Warp:
    """Values as targets of mean 0 and variance 1, in the same order: better than the median as they are, worse ones
    on a logarithmic scale, so that a few failures don't hide what sets the good ones apart."""

    median: float
    unit: float
    mean: float = 0.0
    scale: float = 1.0

    @staticmethod
    def of(values: Tensor) -> "Warp":
        """The unit is half the distance from the median to the best tenth."""
        median, best = values.quantile(0.5), values.quantile(0.1)
        warp = Warp(float(median), float((median - best).clamp(min=SMALL)))
        targets = warp(values)
        return Warp(warp.median, warp.unit, float(targets.mean()), float(targets.std(correction=0).clamp(min=SMALL)))

    def __call__(self, values: Tensor) -> Tensor:
        excess = (values - self.median) / self.unit
        return (torch.where(excess > 0, excess.clamp(min=0).log1p(), excess) - self.mean) / self.scale

    def deviations(self, observations: Observations) -> Tensor:
        """Of targets."""
        values, spread = observations.values, observations.deviations
        return (self(values + spread) - self(values - spread)) / 2

    def gain(self, fall: float) -> float:
        """By how much the values fall when targets do so by `fall`, below the median."""
        return fall * self.scale * self.unit


def fit(encoding: Encoding, observations: Observations, start: Hyperparameters | None = None,
        is_fitted: bool = True) -> SingleTaskGP:
    """A process with the most likely hyperparameters, sought from `start` on, or those of `start` unless `is_fitted`.

    Among more than `MAX_FITTED_ROWS` rows, the best and the latest decide on the hyperparameters; all are conditioned
    on. Raises what torch, gpytorch and scipy raise where numbers fail.
    """
    targets, deviations = _warped(encoding, observations)
    noise = deviations.square().clamp(min=MIN_NOISE)
    chosen = _fitted(targets)
    if is_fitted or start is None:
        small = _process(encoding, observations.rows[chosen], targets[chosen], noise[chosen], start)
        _maximise(small, NUM_COLD_ITERATIONS if start is None else NUM_WARM_ITERATIONS)
        start = hyperparameters(small)
    return _process(encoding, observations.rows, targets, noise, start).eval()


def hyperparameters(process: SingleTaskGP) -> Hyperparameters:
    """What a fit learned, apart from the data."""
    return {name: value.detach().clone() for name, value in process.named_parameters()}


def _warped(encoding: Encoding, observations: Observations) -> tuple[Tensor, Tensor]:
    """Targets and their deviations; every source has a scale of its own."""
    if not encoding.num_sources:
        warp = Warp.of(observations.values)
        return warp(observations.values), warp.deviations(observations)
    targets, deviations = torch.zeros_like(observations.values), torch.zeros_like(observations.values)
    sources = observations.rows[:, encoding.source].squeeze(-1)
    for source in sources.unique():
        own = sources == source
        part = Observations(observations.rows[own], observations.values[own], observations.deviations[own])
        warp = Warp.of(part.values)
        targets[own], deviations[own] = warp(part.values), warp.deviations(part)
    return targets, deviations


def _fitted(values: Tensor) -> Tensor:
    if len(values) <= MAX_FITTED_ROWS:
        return torch.arange(len(values))
    best = values.argsort()[:MAX_FITTED_ROWS // 2]
    others = torch.ones_like(values, dtype=torch.bool).index_fill(0, best, False).nonzero().squeeze(-1)
    return torch.cat([best, others[-(MAX_FITTED_ROWS - len(best)):]])


def _process(encoding: Encoding, rows: Tensor, targets: Tensor, noise: Tensor,
             start: Hyperparameters | None) -> SingleTaskGP:
    likelihood = FixedNoiseGaussianLikelihood(noise, learn_additional_noise=True)
    learned = likelihood.second_noise_covar
    learned.register_constraint("raw_noise", Positive(transform=torch.exp, inv_transform=torch.log))
    prior = LogNormalPrior(log(NOISE) + NOISE_SPREAD**2, NOISE_SPREAD)
    learned.register_prior("noise_prior", prior, lambda module: module.noise)
    learned.initialize(noise=float(prior.mode))
    kernel = TransferKernel if encoding.num_sources else DesignKernel
    # Rows are 0 to 1 already, and targets are standardised over all rows, of which these may be a part.
    with quietly(Warning):
        process = SingleTaskGP(rows, targets.unsqueeze(-1), likelihood=likelihood, outcome_transform=None,
                               covar_module=kernel(encoding)).double()
    if start is not None:
        process.load_state_dict(start, strict=False)
    return process


def _maximise(process: SingleTaskGP, num_iterations: int) -> None:
    likelihood = ExactMarginalLogLikelihood(process.likelihood, process).train()
    # That the optimum was not reached is what a bound on the iterations means.
    with quietly(Warning):
        fit_gpytorch_mll_scipy(likelihood, options={"maxiter": num_iterations}, timeout_sec=MAX_SECONDS)
