"""What a user would write instead: plain torch, one tensor after the other, features last and materialised.

The same maths as the designs `small_fc` and `adamw_mlp`. A rule is made of weights once and then stepped.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.trees import Tree

# `(state of one tensor, gradient, param, progress)` to what is added to the param; the state is written.
Step = Callable[[Tree, Tensor, Tensor, Tensor], Tensor]
Rule = Callable[[Tree], Step]

MOMENTUM_DECAYS = torch.tensor([0.9, 0.99, 0.999])
SECOND_MOMENT_DECAY = torch.tensor([0.999])
TIME_SCALES = torch.tensor([1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000])
PROGRESS_CENTRES = torch.tensor([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])


def digits_loss(params: Tree, batch: Tree) -> Tensor:
    """Cross entropy of the MLP with one hidden layer."""
    inputs = batch["inputs"].flatten(1)
    hidden = functional.linear(inputs, params["0.weight"], params["0.bias"]).relu()
    return functional.cross_entropy(functional.linear(hidden, params["1.weight"], params["1.bias"]), batch["targets"])


def small_fc(weights: Tree) -> Step:
    """39 features a parameter, an MLP over them, `direction · exp(magnitude)`; the decays are learned."""
    momentum_decays = _learned(MOMENTUM_DECAYS, weights["features.momentum_decays"])
    second_decay = _learned(SECOND_MOMENT_DECAY, weights["features.second_moment_decay"])
    factored_decays = _learned(MOMENTUM_DECAYS, weights["features.factored_decays"])

    def step(state: Tree, gradient: Tensor, param: Tensor, progress: Tensor) -> Tensor:
        momentum, second = _moments(state, gradient, momentum_decays, second_decay)
        inverse_root, lines = _factored(state, gradient, factored_decays)
        rsqrt, column = torch.rsqrt(second + 1e-8), gradient[..., None]
        features = torch.cat([column, param[..., None], momentum, second, momentum * rsqrt, rsqrt,
                              column * inverse_root, momentum * inverse_root, *lines], -1)
        time = torch.tanh(state["step"] / TIME_SCALES - 1).expand(*param.shape, -1)
        outputs = _network(weights, torch.cat([_normalised(features), time], -1))
        return -1e-3 * outputs[..., 0] * torch.exp(0.001 * outputs[..., 1])

    return step


def adamw_mlp(weights: Tree) -> Step:
    """AdamW's direction plus that of an MLP over 18 features, with a learned schedule."""
    knots, level = weights["schedule.knots"], weights["schedule.level"]
    places = torch.arange(len(knots))

    def step(state: Tree, gradient: Tensor, param: Tensor, progress: Tensor) -> Tensor:
        momentum, second = _moments(state, gradient, MOMENTUM_DECAYS, SECOND_MOMENT_DECAY)
        rsqrt, column = torch.rsqrt(second + 1e-8), gradient[..., None]
        features = torch.cat([column, param[..., None], momentum, momentum * rsqrt, column * rsqrt], -1)
        done = torch.tanh(10 * (progress - PROGRESS_CENTRES)).expand(*param.shape, -1)
        learned = _network(weights, torch.cat([_normalised(features), done], -1))[..., 0]
        learned = learned * torch.rsqrt(1 + learned.square().mean())
        first_hat = momentum[..., 0] / (1 - 0.9 ** state["step"])
        second_hat = second[..., 0] / (1 - 0.999 ** state["step"])
        adamw = first_hat / (second_hat.clamp(min=1e-30).sqrt() + 1e-8) + 0.3 * param
        hats = (1 - (progress * (len(knots) - 1) - places).abs()).clamp(min=0)
        return -0.01 * torch.exp(10 * (level + (hats * knots).sum())) * (adamw + learned)

    return step


def _learned(decays: Tensor, offset: Tensor) -> Tensor:
    return (1 - torch.exp(torch.log(1 - decays) + 10 * offset)).clamp(0, 1)


def _network(weights: Tree, features: Tensor) -> Tensor:
    hidden = functional.linear(features, weights["rule.hidden0.weight"], weights["rule.hidden0.bias"]).relu()
    hidden = functional.linear(hidden, weights["rule.hidden1.weight"], weights["rule.hidden1.bias"]).relu()
    return functional.linear(hidden, weights["rule.output.weight"], weights["rule.output.bias"])


def _normalised(features: Tensor) -> Tensor:
    mean_square = features.square().mean(tuple(range(features.dim() - 1)), keepdim=True)
    return features * torch.rsqrt(mean_square + 1e-5)


def _moments(state: Tree, gradient: Tensor, momentum_decays: Tensor, second_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Momenta `[..., 3]` and second moment `[..., 1]`."""
    gradient = gradient[..., None]
    if not state:
        state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(gradient).repeat_interleave(3, -1)
        state["second"] = torch.zeros_like(gradient)
    state["step"] = state["step"] + 1
    state["momentum"] = torch.lerp(gradient, state["momentum"], momentum_decays)
    state["second"] = torch.lerp(gradient.square(), state["second"], second_decay)
    return state["momentum"], state["second"]


def _factored(state: Tree, gradient: Tensor, decays: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Adafactor's inverse root `[..., 3]`, and the averages of each parameter's row and column as features."""
    squared = gradient.square()[..., None] + 1e-30
    if gradient.dim() < 2:
        full = state["full"] = decays * state.get("full", 0) + (1 - decays) * squared
        root = torch.rsqrt(full + 1e-8)
        return torch.rsqrt(full + 1e-9), [full, root, full, root]
    rows = state["rows"] = decays * state.get("rows", 0) + (1 - decays) * squared.mean(1)
    columns = state["columns"] = decays * state.get("columns", 0) + (1 - decays) * squared.mean(0)
    row_factor = torch.rsqrt((rows / (rows.mean(0) + 1e-9)).clamp(min=1e-9))
    column_factor = torch.rsqrt(columns.clamp(min=1e-9))
    shape = (*gradient.shape, 3)
    lines = [line.expand(shape) for line in (rows[:, None], torch.rsqrt(rows + 1e-8)[:, None],
                                             columns, torch.rsqrt(columns + 1e-8))]
    return row_factor[:, None] * column_factor, lines
