"""Scientific and synthetic problems at their first loss, of random sizes, as examples to tell domains by."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from optsearch.adaptation.example_data import Draw, points

Made = tuple[nn.Module, Tensor]
Maker = Callable[[Draw], Made]


class Sine(nn.Module):
    """As in SIREN (Sitzmann et al. 2020, arxiv.org/abs/2006.09661)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (30 * inputs).sin()


def layers(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """An MLP with these widths from input to output."""
    parts = [part for size in pairwise(widths) for part in (nn.Linear(*size), activation())]
    return nn.Sequential(*parts[:-1])


def hidden_widths(draw: Draw, low: int = 8, high: int = 128) -> list[int]:
    return [draw.size(low, high)] * draw.choice(1, 1, 2, 3)


def coordinate_network(draw: Draw) -> Made:
    """An image, a sound or a shape as a function of the place."""
    inputs, num_values = points(draw), draw.choice(1, 1, 3)
    model = layers([inputs.shape[1], *[draw.size(12, 128)] * draw.choice(1, 2, 3), num_values],
                   draw.choice(Sine, Sine, nn.ReLU))
    with torch.no_grad():
        next(model.parameters()).uniform_(-1 / inputs.shape[1], 1 / inputs.shape[1])
    target = (inputs @ torch.randn(inputs.shape[1], num_values) * 3).sin()
    return model, functional.mse_loss(model(inputs), target)


def pinn(draw: Draw) -> Made:
    """The residual of a differential equation (Raissi et al. 2019, doi.org/10.1016/j.jcp.2018.10.045)."""
    inputs = points(draw).requires_grad_()
    model = layers([inputs.shape[1], *[draw.size(12, 64)] * draw.choice(1, 2, 3), 1], nn.Tanh)
    (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), inputs, create_graph=True)
    source = (3 * inputs.detach()).sin().sum(1)
    return model, (bend.sum(1) + draw.choice(0.0, 1.0) * slope[:, 0] - source).square().mean()


def factorization(draw: Draw) -> Made:
    """Some entries of a matrix of low rank."""
    rank, sizes = draw.size(2, 16), (draw.size(20, 200), draw.size(20, 200))
    model = nn.ParameterList(0.3 * torch.randn(size, rank) for size in sizes)
    left, right = (torch.randint(size, (draw.size(16, 128),))[:16] for size in sizes)
    return model, ((model[0][left] * model[1][right]).sum(1) - torch.randn(len(left))).square().mean()


def graph_network(draw: Draw) -> Made:
    """A graph convolution network (Kipf and Welling 2017, arxiv.org/abs/1609.02907) over one whole graph."""
    num_nodes, num_classes = draw.size(60, 300), draw.size(2, 7)
    labels = torch.randint(num_classes, (num_nodes,))
    is_near = torch.rand(num_nodes, num_nodes) < torch.where(labels[:, None] == labels, 0.15, 0.02)
    adjacency = (is_near | is_near.T | torch.eye(num_nodes, dtype=torch.bool)).float()
    adjacency = adjacency / adjacency.sum(1, keepdim=True)
    inputs = torch.randn(num_nodes, draw.size(8, 64))
    model = layers([inputs.shape[1], *hidden_widths(draw, 8, 64)[:2], num_classes])
    hidden = inputs
    for layer in model:
        hidden = adjacency @ layer(hidden) if isinstance(layer, nn.Linear) else layer(hidden)
    seen = torch.randperm(num_nodes)[:draw.size(16, 60)]
    return model, functional.cross_entropy(hidden[seen], labels[seen])


def bowl(draw: Draw) -> Made:
    """A vector in a valley."""
    size = draw.size(2, 100)
    model = nn.ParameterList([torch.randn(size)])
    curvature = torch.logspace(0, draw.real(0.0, 4.0), size)[torch.randperm(size)]
    noise = draw.real(0.0, 1.0) * torch.randn(size)
    waves = draw.choice(0.0, 1.0) * (6 * model[0]).cos().sum()
    return model, (curvature * model[0].square()).sum() / 2 + (noise * model[0]).sum() + waves


def sparse_table(draw: Draw) -> Made:
    """A regression on a table of which a batch touches few rows."""
    num_rows, width = draw.size(50, 500), draw.size(2, 16)
    model = nn.ParameterList([torch.zeros(num_rows, width)])
    seen = (num_rows * torch.rand(draw.size(8, 64)) ** 2).long()
    inputs = torch.randn(len(seen), width)
    return model, ((model[0][seen] * inputs).sum(1) - torch.randn(len(seen))).square().mean()
