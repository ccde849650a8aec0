"""Params are stepped together, and yet as if each had an optimizer of its own."""

import copy

import pytest
import torch
from deaf_designs import DEAF
from torch import Tensor, nn

from optsearch.export import LearnedTorchOptimizer
from optsearch.optimizers import LearnedOptimizer, named_design

SHAPES = [(6, 5), (6,), (), (4, 3, 2, 2), (7,), (3, 9)]
# Which params have a gradient at each step: all, some that then lag behind, all again.
ACTIVE = [{0, 1, 2, 3, 4, 5}, {0, 2, 5}, {0, 2, 5}, {0, 1, 2, 3, 4, 5}, {1, 3}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}]


def optimizer_of(design: LearnedOptimizer, params: list[nn.Parameter]) -> LearnedTorchOptimizer:
    stream = torch.Generator().manual_seed(1)
    weights = {name: leaf + 0.1 * torch.randn(leaf.shape, generator=stream)
               for name, leaf in design.init_weights(stream).items()}
    return LearnedTorchOptimizer(params, design, weights, lr=1.0, weight_decay=0.01, num_steps=10)


def fresh_params() -> list[nn.Parameter]:
    stream = torch.Generator().manual_seed(2)
    return [nn.Parameter(torch.randn(shape, generator=stream)) for shape in SHAPES]


def gradient(param: Tensor, step: int, index: int) -> Tensor:
    return torch.randn(param.shape, generator=torch.Generator().manual_seed(100 * step + index))


def run(optimizers: list[LearnedTorchOptimizer], params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for index, param in enumerate(params):
            param.grad = gradient(param, step, index) if index in ACTIVE[step] else None
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("name", DEAF)
def test_together_is_as_one_by_one_also_when_some_miss_steps(name: str) -> None:
    design = named_design(name)
    together, alone = fresh_params(), fresh_params()
    run([optimizer_of(design, together)], together, range(len(ACTIVE)))
    run([optimizer_of(design, [param]) for param in alone], alone, range(len(ACTIVE)))
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_a_step_leaves_behind_belongs_to_each_param() -> None:
    params = fresh_params()
    optimizer = optimizer_of(named_design("small_fc"), params)
    run([optimizer], params, range(2))
    for index, param in enumerate(params):
        state = optimizer.state[param]
        assert state["features.momentum"].shape == (3, param.numel())
        assert float(state["step"]) == (2 if index in ACTIVE[1] else 1)


def test_a_copy_goes_on_as_the_original_does() -> None:
    params = fresh_params()
    optimizer = optimizer_of(named_design("celo2"), params)
    run([optimizer], params, range(3))
    others = copy.deepcopy(params)
    other = optimizer_of(named_design("celo2"), others)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run([optimizer], params, range(3, len(ACTIVE)))
    run([other], others, range(3, len(ACTIVE)))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(params, others, strict=True))


def test_a_state_that_somebody_replaces_is_used() -> None:
    params, others = fresh_params(), fresh_params()
    ours, theirs = (optimizer_of(named_design("adamw_mlp"), each) for each in (params, others))
    run([ours], params, range(1))
    run([theirs], others, range(1))
    for param in params:
        ours.state[param] = ours.design.init({"param": param.detach()}) | {"step": torch.ones(1)}
    run([ours], params, range(3, 4))
    run([theirs], others, range(3, 4))
    assert not any(torch.equal(mine, other) for mine, other in zip(params, others, strict=True))
