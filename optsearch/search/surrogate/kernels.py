"""Kernels on the rows of an `Encoding`: how alike two points of a conditional space are."""

from collections.abc import Iterator
from math import exp, sqrt
from typing import Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior, NormalPrior
from torch import Tensor

from optsearch.search.surrogate.encoding import Encoding

# A block that is smaller has little to tell alone, and every block costs a matrix.
MIN_BLOCK_SIZE = 3
NUM_TERMS = 4
# On a logarithmic scale: of weights that together explain targets of variance 1, and of lengthscales for distances
# in a unit cube, where the square of that of two random points is UNIT_SPREAD a dimension.
SCALE_SPREAD = 1.0
LENGTHSCALE, LENGTHSCALE_SPREAD = sqrt(2), sqrt(3)
UNIT_SPREAD = 1 / 6
# How much another study tells, before the logistic function.
RELATION, RELATION_SPREAD = 0.0, 1.5
# The variance of the mean of a study's targets, which says little about the space where few were chosen for being good.
OFFSET = 1.0
AMPLITUDE_SPREAD = 0.7


class _Matern(torch.autograd.Function):
    """The Matern-5/2 function of squared distances; its gradient is finite where they are zero."""

    @staticmethod
    def forward(context: Any, squared: Tensor) -> Tensor:
        scaled = (5 * squared).sqrt()
        decay = (-scaled).exp()
        slope = (1 + scaled) * decay
        context.save_for_backward(slope)
        return slope.addcmul(squared, decay, value=5 / 3)

    @staticmethod
    def backward(context: Any, *grads: Any) -> Tensor:
        (slope,) = context.saved_tensors
        return grads[0] * slope * (-5 / 6)


def matern(first: Tensor, second: Tensor) -> Tensor:
    """Matern-5/2 of the distances between two sets of points, `[..., n, d]` and `[..., m, d]` to `[..., n, m]`."""
    squared = (first.square().sum(-1).unsqueeze(-1) + second.square().sum(-1).unsqueeze(-2)
               - 2 * first @ second.transpose(-1, -2))
    return _Matern.apply(squared.clamp(min=0))


class EncodedKernel(Kernel):
    """A kernel with positive parameters, learned on a logarithmic scale, that knows what the columns mean."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding

    def learn(self, name: str, modes: Tensor, spread: float) -> None:
        """A parameter `[n]` that starts at the modes of its log-normal prior."""
        prior = LogNormalPrior(modes.log() + spread**2, torch.full_like(modes, spread))
        self.register_parameter(f"raw_{name}", torch.nn.Parameter(modes.log()))
        self.register_constraint(f"raw_{name}", Positive(transform=torch.exp, inv_transform=torch.log))
        self.register_prior(f"{name}_prior", prior, lambda module: module.learned(name),
                            lambda module, value: module.initialize(**{f"raw_{name}": torch.as_tensor(value).log()}))

    def learned(self, name: str) -> Tensor:
        value: Tensor = getattr(self, f"raw_{name}").exp()
        return value

    def learn_lengthscales(self, dimensions: Tensor) -> None:
        """One a parameter, by the prior that grows with the number of dimensions it is one of (Hvarfner et al. 2024,
        https://arxiv.org/abs/2402.02229), on the scale of the embedding."""
        scale = (dimensions * self.encoding.spread / UNIT_SPREAD).sqrt()
        self.learn("lengthscales", scale * exp(LENGTHSCALE - LENGTHSCALE_SPREAD**2), LENGTHSCALE_SPREAD)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.encoding.names))

    def scaled(self, rows: Tensor) -> Tensor:
        """`Encoding.embedded` over the lengthscales."""
        index = {name: place for place, name in enumerate(self.parameter_names)}
        lengthscales = self.learned("lengthscales")[[index[name] for name in self.encoding.names]]
        return self.encoding.embedded(rows) / lengthscales


class JointKernel(EncodedKernel):
    """Matern-5/2 on all parameters at once, a lengthscale each: it sees how they work together."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.learn_lengthscales(torch.full((len(self.parameter_names),), encoding.num_active).double())

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        if diag:
            return torch.ones_like(x1[..., 0])
        return matern(self.scaled(x1), self.scaled(x2))


class HierarchicalKernel(EncodedKernel):
    """A weighted sum over blocks of parameters of a Matern-5/2 on the block's own, zero unless both points have it.

    The idea of BoTorch's `HierarchicalConditionalKernelGP`, with choices as categories instead of numbers. A block of
    fewer than three parameters joins the smallest one that is always there when it is: within it, what is inactive
    lies apart, as in the joint kernel.
    """

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        blocks = list(merged(encoding))
        features = [[place for place, name in enumerate(encoding.names) if name in block] for _, block in blocks]
        width = max(map(len, features))
        padded = [[*block, *[len(encoding.names)] * (width - len(block))] for block in features]
        self.features = torch.tensor(padded)
        self.gates = gates(encoding, [gate for gate, _ in blocks])
        sizes = {name: len(block) for _, block in blocks for name in block}
        self.learn_lengthscales(torch.tensor([sizes[name] for name in self.parameter_names]).double())
        self.learn("weights", torch.full((len(blocks),), 1 / len(blocks)).double(), SCALE_SPREAD)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        weights, gate1, gate2 = self.learned("weights"), x1 @ self.gates, x2 @ self.gates
        if diag:
            return gate1 * gate2 @ weights
        both = gate1.transpose(-1, -2).unsqueeze(-1) * (gate2 * weights).transpose(-1, -2).unsqueeze(-2)
        return (both * matern(self._blocks(x1), self._blocks(x2))).sum(-3)

    def _blocks(self, rows: Tensor) -> Tensor:
        """`[..., blocks, n, features]`, with zeros where a block has fewer."""
        scaled = torch.nn.functional.pad(self.scaled(rows), (0, 1))
        return scaled[..., self.features].transpose(-2, -3)


class GraphKernel(EncodedKernel):
    """The dot product of the graphs' Weisfeiler-Lehman features; see `graph_features`."""

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        graph1, graph2 = x1[..., self.encoding.graph], x2[..., self.encoding.graph]
        return (graph1 * graph2).sum(-1) if diag else graph1 @ graph2.transpose(-1, -2)


class DesignKernel(EncodedKernel):
    """joint + hierarchical + graph + graph · joint, with learned scales; without a graph, the first two."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.joint, self.hierarchical = JointKernel(encoding), HierarchicalKernel(encoding)
        self.graph = GraphKernel(encoding) if encoding.to_graph else None
        count = NUM_TERMS if self.graph else 2
        self.learn("scales", torch.full((count,), 1 / count).double(), SCALE_SPREAD)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        scales = self.learned("scales")
        joint = self.joint.forward(x1, x2, diag=diag)
        total = scales[0] * joint + scales[1] * self.hierarchical.forward(x1, x2, diag=diag)
        if self.graph is not None:
            total = total + (scales[2] + scales[3] * joint) * self.graph.forward(x1, x2, diag=diag)
        return total


class TransferKernel(EncodedKernel):
    """The `DesignKernel`, times the covariance of the studies that two rows come from, plus an offset for each.

    Source s correlates with the study itself, source 0, by the learned r_s in (0, 1), and two sources by r_s · r_t:
    a correlation matrix, so the product is a kernel (the intrinsic model of coregionalisation; Swersky et al. 2013,
    https://papers.neurips.cc/paper/5086-multi-task-bayesian-optimization). Its targets differ a
    learned times as much: what one study tried may have been chosen for being good, and so lie closer together.
    """

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.design = DesignKernel(encoding)
        self.register_parameter("raw_relations", torch.nn.Parameter(
            torch.full((encoding.num_sources,), RELATION, dtype=torch.float64)))
        self.register_prior("relations_prior", NormalPrior(RELATION, RELATION_SPREAD),
                            lambda module: module.raw_relations)
        self.learn("amplitudes", torch.ones(encoding.num_sources).double(), AMPLITUDE_SPREAD)

    @property
    def relations(self) -> Tensor:
        """How much each source tells about the study, from 0 to 1."""
        relations: Tensor = self.raw_relations.sigmoid()
        return relations

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        design, one = self.design.forward(x1, x2, diag=diag), torch.ones(1).double()
        source1, source2 = (x[..., self.encoding.source].squeeze(-1).long() for x in (x1, x2))
        amplitudes, relations = torch.cat([one, self.learned("amplitudes")]), torch.cat([one, self.relations])
        if diag:
            return design * amplitudes[source1] ** 2 + OFFSET
        scaled = design * amplitudes[source1].unsqueeze(-1) * amplitudes[source2].unsqueeze(-2)
        is_same = source1.unsqueeze(-1) == source2.unsqueeze(-2)
        related = relations[source1].unsqueeze(-1) * relations[source2].unsqueeze(-2)
        return torch.where(is_same, scaled + OFFSET, scaled * related)


def merged(encoding: Encoding) -> Iterator[tuple[str, frozenset[str]]]:
    """Blocks of at least `MIN_BLOCK_SIZE` parameters where there are any, each with one that is active when it is."""
    large = [block for block in encoding.blocks if len(block) >= MIN_BLOCK_SIZE]
    small = [block for block in encoding.blocks if len(block) < MIN_BLOCK_SIZE]
    members = [set(block) for block in large]
    for block in small:
        hosts = [place for place, host in enumerate(large) if encoding.implies(min(block), min(host))]
        if hosts:
            members[min(hosts, key=lambda place: len(large[place]))] |= block
        else:
            large.append(block)
            members.append(set(block))
    return ((min(block), frozenset(names)) for block, names in zip(large, members, strict=True))


def gates(encoding: Encoding, names: list[str]) -> Tensor:
    """`[columns, names]`: rows times it are 1 where the parameter is active, 0 elsewhere."""
    found = torch.zeros(encoding.source.stop, len(names), dtype=torch.float64)
    for place, name in enumerate(names):
        found[encoding.columns_of(name), place] = 1.0
    return found
