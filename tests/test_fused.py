"""The kernels of a step, interpreted where there is no GPU, and what happens where they can't be used."""

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.nn import Parameter

from optsearch.export import LearnedTorchOptimizer, fused_steps, tiles
from optsearch.export.fused import FusedOptimizer, fits
from optsearch.optimizers import DESIGNS, LearnedOptimizer, Observation
from optsearch.optimizers.features import Features
from optsearch.optimizers.heads import ParameterRMS
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.rules import MLP
from optsearch.seeds import generator
from optsearch.trees import Tree

triton_kernels = pytest.importorskip("optsearch.export.triton_kernels", exc_type=ImportError)

# Where there is a GPU they are not interpreted.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {"scalar": (), "vector": (7,), "longer than a tile": (2100,), "matrix": (5, 37), "twin": (5, 37),
          "wide": (18, 130), "conv": (6, 3, 2, 2), "tall": (40, 3), "one": (1, 1)}
SMALL = {"bias": (5,), "matrix": (5, 4), "wide": (2, 130)}
# Relative to the length of each tensor's step: float32 in another order, through a small network.
CLOSE, STATE_CLOSE = 2e-5, 1e-6
# Of exported optimizers: where products have 10 bits, as the interpreter's have not.
EXPORTED_CLOSE = 1e-2 if DEVICE == "cuda" else CLOSE


def drawn(shapes: dict[str, tuple[int, ...]], stream: torch.Generator, size: float) -> Tree:
    return {name: size * torch.randn(shape, generator=stream).to(DEVICE) for name, shape in shapes.items()}


def weights_of(design: LearnedOptimizer, stream: torch.Generator) -> Tree:
    weights = design.init_weights(stream)
    return {name: (leaf + (0.01 if "decay" in name else 0.1) * torch.randn(leaf.shape, generator=stream)).to(DEVICE)
            for name, leaf in weights.items()}


def assert_alike(found: Tree, expected: Tree, most: float) -> None:
    assert list(found) == list(expected)
    for name, leaf in expected.items():
        assert found[name].shape == leaf.shape
        assert (found[name] - leaf).norm() <= most * leaf.norm(), name


def assert_same_steps(design: LearnedOptimizer, shapes: dict[str, tuple[int, ...]], num_steps: int) -> None:
    """Steps and states are those of the pure function, written in place or not."""
    assert fits(design)
    stream = generator(0, "fused")
    kernels, weights, params = FusedOptimizer.of(design, "ieee"), weights_of(design, stream), drawn(shapes, stream, 0.1)
    state = design.init(params)
    ours = {name: leaf.clone() for name, leaf in state.items()}
    for index in range(num_steps):
        ones = torch.ones(1, device=DEVICE)
        seen = Observation(drawn(shapes, stream, 10.0 ** -index), params, index / 10 * ones, 0.1 * index, ones,
                           10 * ones)
        expected, state = design.update(weights, seen, state)
        before, given = {name: leaf.clone() for name, leaf in ours.items()}, ours
        found, ours = kernels.update(weights, seen, given, in_place=index % 2 == 1)
        if index % 2 == 0:
            torch.testing.assert_close(given, before, rtol=0, atol=0)
        else:
            assert ours["features.momentum"] is given["features.momentum"]
        assert_alike(found, expected, CLOSE)
        assert_alike(ours, state, STATE_CLOSE)
        params = {name: leaf + expected[name] for name, leaf in params.items()}


@pytest.mark.parametrize("name", ["small_fc", "celo2"])
def test_published_designs_step_as_the_pure_function_does(name: str) -> None:
    assert_same_steps(DESIGNS[name][0], SHAPES, 2)


SMALL_FC = DESIGNS["small_fc"][0]


@pytest.mark.parametrize("design", [
    DESIGNS["adamw_mlp"][0],
    replace(SMALL_FC, features=Features(groups=("lean",), normalize=False), rule=MLP(5, activation="gelu")),
    replace(SMALL_FC, features=Features(groups=("momentum", "rows_and_columns", "progress"), momentum_decays=(0.9,)),
            rule=MLP(20, num_layers=1, activation="silu"), head=ParameterRMS()),
    replace(SMALL_FC, features=Features(groups=("small_fc", "celo2"), momentum_decays=(0.5, 0.9, 0.99, 0.999),
                                        factored_decays=(0.5, 0.9, 0.99, 0.999)),
            rule=MLP(40, num_layers=3, activation="tanh")),
], ids=["adamw_mlp", "not normalised", "one layer", "three layers of 40"])
def test_other_designs_do_too(design: LearnedOptimizer) -> None:
    assert_same_steps(design, SMALL, 2)


def test_kernels_are_for_rules_alone_over_features_that_they_know() -> None:
    assert {name for name, (design, _) in DESIGNS.items() if fits(design)} == {
        "adamw_mlp", "small_fc", "celo2", "adamw_trust"}
    assert not fits(replace(SMALL_FC, features=Features(groups=("small_fc", "line_use"))))
    assert not fits(replace(SMALL_FC, rule=MLP(65)))


def test_tiles_cover_every_parameter_once() -> None:
    layout = Layout(tuple(SHAPES.items()))
    found = tiles.Tiles.of(layout, torch.device("cpu"))
    count = torch.zeros(layout.num_parameters, dtype=torch.int64)
    numbers = [0] * len(SHAPES)
    for part, _, _ in found.parts(torch.zeros(found.count)):
        for tensor, first, column in part.tolist():
            start, _, _, num_rows, width, across = found.tensors[tensor].tolist()
            rows = torch.arange(first, min(num_rows, first + tiles.MOST * (tiles.LANES // across)))
            columns = torch.arange(column, min(width, column + across))
            count[(start + rows[:, None] * width + columns).flatten()] += 1
            numbers[tensor] += 1
    assert bool((count == 1).all())
    assert (found.ends[:, 1] - found.ends[:, 0]).tolist() == numbers
    assert len(found.wide) == 4


@pytest.fixture
def at_home() -> Iterator[None]:
    """Params on a CPU are taken for those on a GPU."""
    with patch.object(fused_steps, "is_at_home", lambda param: True):
        yield


def optimizer_on(params: list[Parameter]) -> LearnedTorchOptimizer:
    return LearnedTorchOptimizer(params, SMALL_FC, weights_of(SMALL_FC, generator(3, "weights")), lr=1.0,
                                 weight_decay=0.01, num_steps=10)


def trained(optimizer: LearnedTorchOptimizer, num_steps: int) -> list[torch.Tensor]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for _ in range(num_steps):
        for param in params:
            param.grad = 2 * param.detach() + 0.1
        optimizer.step()
    return [param.detach().clone() for param in params]


def new_params() -> list[Parameter]:
    return [Parameter(leaf) for leaf in drawn(SMALL, generator(1, "params"), 0.1).values()]


@pytest.mark.usefixtures("at_home")
def test_exported_optimizers_take_them() -> None:
    ours, start = optimizer_on(new_params()), new_params()
    with (patch.object(LearnedOptimizer, "update", autospec=True, side_effect=LearnedOptimizer.update) as plain,
          warnings.catch_warnings()):
        warnings.simplefilter("error")
        found = trained(ours, 3)
    # Once beside the kernels, and not again.
    assert [type(call.args[0]) for call in plain.call_args_list] == [LearnedOptimizer] + 3 * [FusedOptimizer]
    with patch.object(fused_steps, "is_at_home", lambda param: False):
        expected = trained(optimizer_on(new_params()), 3)
    for one, other, before in zip(found, expected, start, strict=True):
        assert (one - other).norm() <= EXPORTED_CLOSE * (other - before).norm()
    twin = copy.deepcopy(ours)
    torch.testing.assert_close(trained(twin, 2), trained(ours, 2))


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("problem", ["it breaks", "it is wrong"])
def test_whatever_goes_wrong_at_first_is_one_warning(problem: str) -> None:
    ours = optimizer_on(new_params())
    # Without kernels at all, or with one that leaves everything as it was.
    broken = {} if problem == "it breaks" else {(len(SMALL),): lambda *_, **__: None}
    with (patch.object(triton_kernels, "scale", broken),
          pytest.warns(UserWarning, match="goes on without them") as caught):
        found = trained(ours, 3)
    assert len(caught) == 1
    with patch.object(fused_steps, "is_at_home", lambda param: False):
        torch.testing.assert_close(found, trained(optimizer_on(new_params()), 3), rtol=0, atol=0)


def test_elsewhere_nothing_changes() -> None:
    with patch.object(FusedOptimizer, "update") as update:
        trained(optimizer_on(new_params()), 2)
    update.assert_not_called()


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_and_keep_to_registers(capability: int) -> None:
    """For A100s and H100s, without either."""
    program = Path(__file__).with_name("compiled_kernels.py")
    printed = subprocess.run([sys.executable, program, str(capability)], check=True, capture_output=True, text=True,
                             env=os.environ | {"TRITON_INTERPRET": "0"}).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    assert [kernel["name"] for kernel in found] == 3 * ["average", "average", "scale", "step", "step"]
    assert {kernel["stack"] for kernel in found} == {0}
    # At least two programs of 128 threads on a multiprocessor of 65,536 registers.
    assert max(kernel["registers"] for kernel in found) <= 255
