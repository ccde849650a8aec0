"""Kernels of conditional spaces, held against loops over pairs, and the acquisition, against BoTorch's."""

import conditional_function
import networkx
import pytest
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.kernels import MaternKernel

from optsearch.search.surrogate.acquisition import NoisyImprovement
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.kernels import DesignKernel, HierarchicalKernel, JointKernel, matern, merged
from optsearch.search.surrogate.process import Observations, Warp, fit

TREE = conditional_function.tree()


def to_graph(point):
    graph = networkx.DiGraph([("in", point["kind"]), (point["kind"], point["mode"])])
    for node in graph:
        graph.nodes[node]["op"] = node
    return graph


ENCODING = Encoding(TREE, to_graph)
POINTS = TREE.sample(seed=5, count=24)
ROWS = ENCODING.encode(POINTS)


def shaken(kernel):
    """With parameters that are all different."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return kernel


def feature(point, name):
    """Where one parameter of a point lies, as `Encoding.embedded` says in words."""
    if name not in point:
        return torch.zeros(3).double()
    if name in ENCODING.ranges:
        angle = torch.tensor(ENCODING.unit(name, point[name]) * torch.pi / 2).double()
        return torch.stack([angle.cos(), angle.sin(), torch.zeros(()).double()])
    choices = dict(ENCODING.categories)[name]
    return torch.nn.functional.one_hot(torch.tensor(choices.index(point[name])), len(choices)) * 0.5 ** 0.5


def alike(one, two, names, lengthscales):
    """Matern-5/2 by gpytorch, of one pair."""
    squared = sum(((feature(one, name) - feature(two, name)) / lengthscales[name]).square().sum() for name in names)
    kernel = MaternKernel(nu=2.5)
    kernel.lengthscale = 1.0
    return kernel.double()(torch.zeros(1, 1).double(), squared.sqrt().reshape(1, 1)).to_dense().item()


def lengthscales(kernel):
    return dict(zip(kernel.parameter_names, kernel.learned("lengthscales").tolist(), strict=True))


def test_kernels_are_what_loops_over_pairs_say():
    kernel = shaken(DesignKernel(ENCODING))
    scales, weights = kernel.learned("scales").tolist(), kernel.hierarchical.learned("weights").tolist()
    blocks = list(merged(ENCODING))
    assert [block for _, block in blocks] == list(ENCODING.blocks)
    found = kernel(ROWS).to_dense()
    for i, one in enumerate(POINTS[:8]):
        for j, two in enumerate(POINTS[:8]):
            joint = alike(one, two, kernel.joint.parameter_names, lengthscales(kernel.joint))
            sums = sum(weight * alike(one, two, block, lengthscales(kernel.hierarchical))
                       for weight, (_, block) in zip(weights, blocks, strict=True)
                       if block <= set(one) and block <= set(two))
            graphs = float(ROWS[i, ENCODING.graph] @ ROWS[j, ENCODING.graph])
            expected = scales[0] * joint + scales[1] * sums + scales[2] * graphs + scales[3] * graphs * joint
            assert found[i, j].item() == pytest.approx(expected, rel=1e-6)


def test_kernels_are_positive_in_batches_and_on_their_diagonal():
    rows = ENCODING.encode(TREE.sample(seed=6, count=60))
    for kernel in (shaken(DesignKernel(ENCODING)), shaken(DesignKernel(Encoding(TREE))), JointKernel(ENCODING),
                   HierarchicalKernel(ENCODING)):
        own = rows[:, :kernel.encoding.graph.stop]
        matrix = kernel(own).to_dense().detach()
        torch.testing.assert_close(matrix, matrix.T)
        assert torch.linalg.eigvalsh(matrix).min() > -1e-9
        torch.testing.assert_close(kernel(own, diag=True), matrix.diagonal())
        batches = kernel(own.view(3, 20, -1), own[:7]).to_dense()
        torch.testing.assert_close(batches, matrix.view(3, 20, 60)[..., :7])


def test_small_blocks_join_the_block_that_is_there_when_they_are():
    def walk(suggest):
        for name in ("x", "y", "z"):
            suggest(name, conditional_function.RATE)
        if suggest("kind", conditional_function.CategoricalDistribution(["a", "b"])) == "a":
            suggest("a.one", conditional_function.RATE)

    (only,) = merged(Encoding(conditional_function.TreeSpace.of(walk)))
    assert only[1] == {"x", "y", "z", "kind", "a.one"}


def test_matern_has_the_right_slope_everywhere():
    first = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    second = first.detach().flip(0) + 0.3
    assert torch.autograd.gradcheck(matern, (first, second))
    (slope,) = torch.autograd.grad(matern(first, first.detach()).diagonal().sum(), first)
    assert slope.abs().max() < 1e-12


def observations(count=24, deviation=0.0):
    values = torch.tensor([conditional_function.true_value(point) for point in POINTS[:count]]).double()
    return Observations(ROWS[:count], values, torch.full_like(values, deviation))


def test_the_bad_half_is_drawn_together_in_order():
    values = torch.tensor([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 3.0, 30.0]).double()
    targets = Warp.of(values)(values)
    assert bool((targets.diff() > 0).all())
    assert targets.mean().item() == pytest.approx(0.0, abs=1e-9)
    assert targets.std(correction=0).item() == pytest.approx(1.0)
    # Equal steps among the good ones; 30 is not ten times as far as 3.
    torch.testing.assert_close(targets[:4].diff(), targets[1].sub(targets[0]).expand(3))
    assert targets[7] - targets[6] < 2 * (targets[6] - targets[5])


def test_known_deviations_loosen_the_fit():
    process = fit(ENCODING, observations())
    loose = fit(ENCODING, observations(deviation=5.0), dict(process.named_parameters()), is_fitted=False)
    targets = process.train_targets
    assert (process.posterior(ROWS).mean.squeeze(-1) - targets).abs().mean() < 0.2
    assert (loose.posterior(ROWS).mean.squeeze(-1) - targets).abs().mean() > 0.5


def test_the_improvement_is_botorchs_and_its_slope_is_right():
    process, pending = fit(ENCODING, observations()), ENCODING.encode(TREE.sample(seed=8, count=2))
    ours = NoisyImprovement(process, pending, seed=0)
    rows = ENCODING.encode(TREE.sample(seed=9, count=12))
    theirs = qLogNoisyExpectedImprovement(
        process, process.train_inputs[0], SobolQMCNormalSampler(torch.Size([2048]), seed=0), X_pending=pending,
        objective=_lower(), prune_baseline=False, tau_max=1e-4)
    found, expected = ours(rows).exp(), theirs(rows.unsqueeze(1)).exp()
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.98
    torch.testing.assert_close(found, expected, rtol=0.25, atol=2e-3)

    units = rows[:3, ENCODING.units].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda units: ours(torch.cat([units, rows[:3, ENCODING.active.start:]], -1)), units, atol=1e-4)


def _lower():
    from botorch.acquisition.objective import GenericMCObjective

    return GenericMCObjective(lambda samples, X=None: -samples.squeeze(-1))
