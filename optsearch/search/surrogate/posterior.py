"""What a Gaussian process says of any rows, and of them if the true values of some others were known."""

import torch
from botorch.models import SingleTaskGP
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor
from torch.quasirandom import SobolEngine

MIN_VARIANCE = 1e-10


class Posterior:
    """Means and covariances of a fitted process, where a point costs one row of the kernel and no matrix."""

    def __init__(self, process: SingleTaskGP) -> None:
        self.kernel = process.covar_module
        with torch.no_grad():
            self.rows: Tensor = process.train_inputs[0]
            self.targets: Tensor = process.train_targets
            self.constant = process.mean_module.constant.detach().clone()
            # gpytorch has added what was learned to what is known beforehand.
            noise = process.likelihood.noise
            self.root = psd_safe_cholesky(self.covariance(self.rows, self.rows) + noise.diag())
            self.weights = torch.cholesky_solve((self.targets - self.constant).unsqueeze(-1), self.root)

    @property
    def own(self) -> Tensor:
        """The rows of the study itself: what was good in another one is nothing to improve on."""
        return self.rows[(self.rows[:, self.kernel.encoding.source] == 0).all(-1)]

    def covariance(self, first: Tensor, second: Tensor) -> Tensor:
        """Before anything was observed."""
        covariance: Tensor = self.kernel(first, second).to_dense()
        return covariance

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Means, and by how much of the prior the variances shrink, as a root `[observed, n]`."""
        cross = self.covariance(self.rows, rows)
        return (self.constant + (cross.T @ self.weights).squeeze(-1),
                torch.linalg.solve_triangular(self.root, cross, upper=False))

    def marginals(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations `[n]` of the true values."""
        means, half = self.at(rows)
        prior: Tensor = self.kernel(rows, diag=True)
        return means, (prior - half.square().sum(0)).clamp(min=MIN_VARIANCE).sqrt()


class Draws:
    """Draws of the true values of `known` rows, made of standard `normal` ones; both are `[draws, known]`."""

    def __init__(self, posterior: Posterior, known: Tensor, normal: Tensor) -> None:
        self.posterior, self.known, self.normal = posterior, known, normal
        with torch.no_grad():
            means, self.half = posterior.at(known)
            covariance = posterior.covariance(known, known) - self.half.T @ self.half
            self.root = psd_safe_cholesky(covariance + MIN_VARIANCE * torch.eye(len(covariance)).double())
            self.values = means + normal @ self.root.T

    def marginals(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Means `[draws, n]` and standard deviations `[n]` of other rows' true values, given those that were drawn."""
        means, half = self.posterior.at(rows)
        cross = self.posterior.covariance(self.known, rows) - self.half.T @ half
        share = torch.linalg.solve_triangular(self.root, cross, upper=False)
        prior = self.posterior.kernel(rows, diag=True)
        variance = prior - half.square().sum(0) - share.square().sum(0)
        return means + self.normal @ share, variance.clamp(min=MIN_VARIANCE).sqrt()


def normal_draws(count: int, size: int, seed: int) -> Tensor:
    """`[count, size]`, spread evenly; those of two seeds are not independent."""
    uniform = SobolEngine(size, scramble=True, seed=seed % 2**31).draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
