"""The process of learning curves, against dense linear algebra."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from optsearch.search.forecasting.latent_kronecker import (
    PRIORS,
    CurveBatch,
    LatentKronecker,
    design_covariance,
    log_likelihood,
    noise_variance,
    own_covariance,
    shared_functions,
)
from optsearch.seeds import generator

NUM_CURVES, NUM_POINTS = 6, 7
PARAMETERS = {name: torch.tensor(median, dtype=torch.float64) for name, (median, _) in PRIORS.items()}


@pytest.fixture
def curves() -> CurveBatch:
    """Some complete, some without a tail, one without any point."""
    source = generator(0, "curves")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    lengths = torch.tensor([7, 7, 3, 5, 1, 0])
    return CurveBatch(
        designs=draw(NUM_CURVES, 4) / 2, graphs=draw(NUM_CURVES, 3).abs() / 2,
        fractions=torch.logspace(-2, 0, NUM_POINTS, dtype=torch.float64).expand(NUM_CURVES, -1),
        values=draw(NUM_CURVES, NUM_POINTS), observed=torch.arange(NUM_POINTS)[None] < lengths[:, None],
        roughness=draw(NUM_CURVES).abs() / 5)


def dense(curves: CurveBatch) -> Tensor:
    """The covariance of all points of all curves, point by point, with noise."""
    functions = shared_functions(PARAMETERS, curves.fractions)
    designs = design_covariance(PARAMETERS, curves, curves)
    designs = designs + 1e-6 * designs.diagonal().mean() * torch.eye(len(designs)).double()
    total = torch.einsum("ij,ipr,jqr->ipjq", designs, functions, functions)
    own = own_covariance(PARAMETERS, curves.fractions, curves.fractions)
    noise = noise_variance(PARAMETERS, curves.roughness)
    for index in range(len(curves)):
        total[index, :, index] += own[index] + noise[index] * torch.eye(curves.fractions.shape[1]).double()
    size = total.shape[0] * total.shape[1]
    return total.reshape(size, size)


def conditional(curves: CurveBatch, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every curve's last point, given those of all points that are `known`."""
    covariance, values = dense(curves), curves.values.reshape(-1)
    given = known.reshape(-1).nonzero()[:, 0]
    ends = torch.arange(len(curves)) * curves.fractions.shape[1] + curves.fractions.shape[1] - 1
    gain = torch.linalg.solve(covariance[given][:, given], covariance[given][:, ends]).T
    return gain @ values[given], (covariance[ends][:, ends] - gain @ covariance[given][:, ends]).diagonal()


def test_log_likelihood_is_that_of_a_dense_process(curves: CurveBatch) -> None:
    given = curves.observed.reshape(-1)
    covariance = dense(curves)[given][:, given]
    expected = MultivariateNormal(torch.zeros(len(covariance)).double(), covariance).log_prob(
        curves.values.reshape(-1)[given])
    torch.testing.assert_close(log_likelihood(PARAMETERS, curves), expected)


def test_gradients_are_those_of_finite_differences(curves: CurveBatch) -> None:
    def of_logs(logs: Tensor) -> Tensor:
        return log_likelihood(dict(zip(PRIORS, logs.exp(), strict=True)), curves)

    logs = torch.stack(list(PARAMETERS.values())).log().requires_grad_()
    assert torch.autograd.gradcheck(of_logs, (logs,), rtol=1e-4, atol=1e-5)


def test_forecasts_of_other_designs_are_those_of_a_dense_process(curves: CurveBatch) -> None:
    learned, new = torch.arange(4), torch.tensor([4, 5])
    process = LatentKronecker.given(PARAMETERS, curves.take(learned))
    fresh = curves.take(new)
    for row in range(len(new)):
        known = curves.observed.clone()
        known[new] = False
        known[new[row]] = curves.observed[new[row]]
        means, variances = conditional(curves, known)
        shared = process.of_designs(fresh)
        mean, variance = process.final(shared, fresh)
        torch.testing.assert_close(mean[row], means[new[row]], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(variance[row], variances[new[row]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_seen", [0, 2])
def test_leaving_a_curve_out_is_fitting_the_others(curves: CurveBatch, num_seen: int) -> None:
    """In closed form, with the first points of the curve that was left out."""
    process = LatentKronecker.given(PARAMETERS, curves)
    seen = replace(curves, observed=curves.observed & (torch.arange(NUM_POINTS) < num_seen))
    mean, variance = process.final(process.without_own(), seen)
    for row in range(NUM_CURVES):
        known = curves.observed.clone()
        known[row] = seen.observed[row]
        means, variances = conditional(curves, known)
        torch.testing.assert_close(mean[row], means[row], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(variance[row], variances[row], rtol=1e-4, atol=1e-6)


def test_numbers_of_missing_points_do_not_matter(curves: CurveBatch) -> None:
    other = replace(curves, values=torch.where(curves.observed, curves.values, torch.tensor(1e3).double()))
    torch.testing.assert_close(log_likelihood(PARAMETERS, other), log_likelihood(PARAMETERS, curves))


def test_fitting_finds_a_likelier_process_and_the_same_one_again(curves: CurveBatch) -> None:
    first, again = LatentKronecker.fit(curves), LatentKronecker.fit(curves)
    assert log_likelihood(first.parameters, curves) > log_likelihood(PARAMETERS, curves)
    assert all(torch.equal(first.parameters[name], again.parameters[name]) for name in PRIORS)


def test_curves_drawn_from_the_process_lie_in_its_intervals() -> None:
    """Ends of 40 curves in 20 draws, each from the other curves and its own first points."""
    source, count = generator(0, "draws"), 40
    curves = CurveBatch(
        designs=torch.randn(count, 4, generator=source, dtype=torch.float64) / 2,
        graphs=torch.rand(count, 3, generator=source, dtype=torch.float64) / 2,
        fractions=torch.logspace(-2, 0, NUM_POINTS, dtype=torch.float64).expand(count, -1),
        values=torch.zeros(count, NUM_POINTS).double(), observed=torch.ones(count, NUM_POINTS, dtype=torch.bool),
        roughness=torch.rand(count, generator=source, dtype=torch.float64) / 5)
    root = torch.linalg.cholesky(dense(curves))
    inside = []
    for _ in range(20):
        draw = root @ torch.randn(len(root), generator=source, dtype=torch.float64)
        drawn = replace(curves, values=draw.reshape(count, NUM_POINTS))
        process = LatentKronecker.given(PARAMETERS, drawn)
        seen = replace(drawn, observed=drawn.observed & (torch.arange(NUM_POINTS) < 3))
        mean, variance = process.final(process.without_own(), seen)
        inside.append((drawn.values[:, -1] - mean).abs() < 1.645 * variance.sqrt())
    # 800 ends, of which those of one draw are not quite independent.
    assert 0.86 < torch.cat(inside).double().mean() < 0.94
