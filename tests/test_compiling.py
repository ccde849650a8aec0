"""Compiled inner steps: the same numbers, the same bits after a resume, and a way out without a compiler."""

import copy
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import torch._inductor
from torch import Tensor

from optsearch import trees
from optsearch.compiling import compiled
from optsearch.errors import CompileError
from optsearch.export import LearnedTorchOptimizer
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.optimizers import MLP, Features, LearnedOptimizer, named_design
from optsearch.seeds import generator
from optsearch.tasks import families
from optsearch.trees import Tree

SMALL = LearnedOptimizer(features=Features(groups=("lean",)), rule=MLP(hidden_size=4))
SETTINGS = MetaTraining(horizon=40, num_tasks=2, truncation=10, num_meta_losses=2)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")


def turned(tree: Tree, tensor: Tensor) -> tuple[Tree, Tensor]:
    return {"b": tree["a"].T * 2, "a": tree["b"] + tensor}, tensor.sin()


@needs_compiler
def test_a_compiled_function_takes_trees_in_any_order_and_memory_layout() -> None:
    tree, tensor = {"a": torch.randn(3, 4), "b": torch.randn(5)}, torch.randn(5)
    fast = compiled(turned, tree, tensor)
    for given in (tree, {"b": tree["b"], "a": tree["a"]}, {"a": tree["a"].T.contiguous().T, "b": tree["b"]}):
        found, expected = fast(given, tensor), turned(given, tensor)
        assert list(found[0]) == list(expected[0])
        torch.testing.assert_close(found, expected)


def both(estimator: str, family: str, design: LearnedOptimizer, settings: MetaTraining) -> list[Tensor]:
    """The meta-gradient of the second meta-step, as it is and compiled."""
    first = design.init_weights(generator(0, "weights"))
    weights = trees.ravel({name: leaf + 0.01 for name, leaf in first.items()})
    found = []
    for is_compiled in (False, True):
        steps = Steps(design, families(family)[0], is_compiled=is_compiled)
        problem = Problem(steps, settings, trees.shapes_of(first))
        state = ESTIMATORS[estimator].start(problem, len(weights), generator(0, "start"))
        state = ESTIMATORS[estimator].meta_gradient(problem, state, weights, generator(0, 0)).state
        found.append(ESTIMATORS[estimator].meta_gradient(problem, state, weights, generator(0, 1)).gradient)
        assert steps.is_compiled == is_compiled
    return found


@needs_compiler
def test_a_compiled_unroll_gives_the_same_meta_gradient() -> None:
    """Within rounding: kernels add up in another order, and an ES gradient divides differences by sigma."""
    plain, fast = both("pes", "quadratics", SMALL, replace(SETTINGS, sigma=0.1))
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["pes", "nres", "full_es", "backprop", "backprop_first_order"])
@pytest.mark.parametrize("name", ["adamw_mlp", "small_fc", "rnnprop"])
def test_every_estimator_gives_the_same_compiled(name: str, estimator: str) -> None:
    plain, fast = both(estimator, "digits_mlp", named_design(name), replace(SETTINGS, sigma=0.1))
    torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-2 * float(plain.abs().max()))


@needs_compiler
def test_a_resumed_compiled_meta_training_gives_the_same_bits() -> None:
    asked = Plan(SMALL, families("quadratics"), SETTINGS, 800, 4, seed=3, compiling="always")
    unbroken = list(meta_train(asked))
    assert [point.is_compiled for point in unbroken] == [False, True, True, True]
    resumed = list(meta_train(asked, unbroken[1].snapshot))
    for ours, theirs in zip(resumed, unbroken[2:], strict=True):
        assert ours.meta_loss == theirs.meta_loss
        assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_without_a_compiler_it_goes_on_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by hiding g++: inductor remembers for the rest of the process that there was none.
    monkeypatch.setattr(torch._inductor, "standalone_compile", Mock(side_effect=OSError("No such file: g++")))
    with pytest.raises(CompileError, match="C\\+\\+ compiler"):
        compiled(turned, {"a": torch.randn(7, 3), "b": torch.randn(5)}, torch.randn(5))
    asked = Plan(SMALL, families("quadratics"), replace(SETTINGS, sigma=0.02), 400, 2, seed=3)
    plain = list(meta_train(asked))
    fell_back = list(meta_train(replace(asked, compiling="always")))
    assert not any(point.is_compiled for point in fell_back)
    param = torch.nn.Parameter(torch.ones(3, 7))
    optimizer = LearnedTorchOptimizer([param], named_design("adamw_mlp"), named_design("adamw_mlp").init_weights(
        generator(0)), lr=1.0, weight_decay=0.0, num_steps=None, compile=True)
    param.square().sum().backward()
    with pytest.warns(UserWarning, match="goes on uncompiled"):
        optimizer.step()
    assert float(param.detach().max()) < 1
    assert [point.meta_loss for point in fell_back] == [point.meta_loss for point in plain]


def test_only_long_meta_trainings_are_compiled() -> None:
    digits = families("digits_mlp")
    short = Plan(SMALL, digits, SETTINGS, 96_000, 4, seed=0)
    long = replace(short, budget=3_000_000)
    assert not any(short.compiles(family, 1 / 3) for family in digits)
    assert all(long.compiles(family, 1 / 3) for family in digits)
    assert not any(long.compiles(family, 0.01) for family in digits)
    assert not any(replace(long, compiling="never").compiles(family, 1 / 3) for family in digits)
    decomposing = replace(long, optimizer=named_design("soap_gru"))
    assert not any(decomposing.compiles(family, 1 / 3) for family in digits)
    assert all(replace(decomposing, compiling="always").compiles(family, 1 / 3) for family in digits)


def large_steps(design: LearnedOptimizer, *, compile: bool) -> list[Tensor]:
    """Params, and all of the state, after three steps of a model of several blocks of two kinds or more."""
    weights = {name: leaf + 0.02 for name, leaf in design.init_weights(generator(0, "weights")).items()}
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator(0, "params")))
              for shape in ((300, 400), (300,))]
    optimizer = LearnedTorchOptimizer(params, design, weights, lr=1.0, weight_decay=0.0, num_steps=20, compile=compile)
    for step in range(3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator(step, "gradient"))
        optimizer.step()
    return [*(param.detach() for param in params), *(leaf for state in optimizer.state.values()
                                                     for leaf in state.values())]


@needs_compiler
@pytest.mark.parametrize("design", [SMALL, *(pytest.param(named_design(name), marks=pytest.mark.slow) for name in (
    "celo2", "small_fc", "adamw_mlp", "rnnprop", "celo", "velo_small"))], ids=lambda design: type(design.head).__name__)
def test_a_large_model_is_compiled_block_by_block(design: LearnedOptimizer) -> None:
    for fast, plain in zip(large_steps(design, compile=True), large_steps(design, compile=False), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("num_steps", [None, 10])
def test_a_compiled_exported_step_is_the_same_step(num_steps: int | None) -> None:
    """Also with `lr` and `weight_decay` on top, and after a copy, whose kernels are its own."""
    design = named_design("adamw_mlp")
    weights = {name: leaf + 0.02 for name, leaf in design.init_weights(generator(0, "weights")).items()}
    models = [torch.nn.Linear(5, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [LearnedTorchOptimizer(model.parameters(), design, weights, lr=0.7, weight_decay=0.1,
                                        num_steps=num_steps, compile=is_compiled)
                  for model, is_compiled in zip(models, (False, True), strict=True)]
    inputs = torch.randn(20, 5, generator=generator(0, "inputs"))
    for _ in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
        optimizers[1] = copy.copy(optimizers[1])
    for plain, fast in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
