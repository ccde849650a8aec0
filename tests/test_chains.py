"""Chains of layers made by a kernel, against matrix products."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from optsearch.compiling import compiled
from optsearch.optimizers import MLP, LearnedOptimizer, Observation, chains, named_design
from optsearch.optimizers.chains import Lines, chain
from optsearch.seeds import generator

SIZES = [(39, 32, 32, 2), (7, 5), (1, 1), (33, 256, 11, 6, 3)]


def layers(sizes: tuple[int, ...], batch: tuple[int, ...] = ()) -> tuple[list[Tensor], list[Tensor]]:
    draws = generator(1, "layers")
    return ([torch.randn(*batch, after, before, generator=draws) / before**0.5 for before, after in pairwise(sizes)],
            [torch.randn(*batch, after, generator=draws) for after in sizes[1:]])


def reference(values: Tensor, weights: list[Tensor], biases: list[Tensor], lines: Lines | None,
              begins_with_relu: bool) -> Tensor:
    """In float64, by layers of torch."""
    values = values.double().relu() if begins_with_relu else values.double()
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = weight.double() @ values + bias.double()[..., None]
        if index == 0 and lines is not None:
            values = values + (lines.rows.double()[..., None] + lines.columns.double()[..., None, :]).flatten(-2)
        if index + 1 < len(weights):
            values = values.relu()
    return values


@pytest.fixture(params=["kernel", "no compiler"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no compiler":
        monkeypatch.setattr(chains, "kernel", lambda: None)
    else:
        assert chains.kernel() is not None, "tests need g++"


@pytest.mark.usefixtures("maker")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 40), (3, 16), (5, 21), (7, 3), (2, 0)])
@pytest.mark.parametrize(("begins_with_relu", "has_lines"), [(False, True), (True, False)])
def test_a_chain_is_its_layers(sizes: tuple[int, ...], rows: int, columns: int, begins_with_relu: bool,
                               has_lines: bool) -> None:
    draws, batch = generator(0, "values"), (2, 3)
    values = torch.randn(*batch, sizes[0], rows * columns, generator=draws)
    weights, biases = layers(sizes, batch)
    lines = Lines(torch.randn(*batch, sizes[1], rows, generator=draws),
                  torch.randn(*batch, sizes[1], columns, generator=draws)) if has_lines else None
    found = chain(values, weights, biases, lines=lines, begins_with_relu=begins_with_relu)
    expected = reference(values, weights, biases, lines, begins_with_relu)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.usefixtures("maker")
def test_layers_for_all_of_a_batch_and_strided_values_are_fine() -> None:
    weights, biases = layers((5, 4, 2))
    values = torch.randn(20, 3, 5, generator=generator(0, "values")).permute(1, 2, 0)
    expected = reference(values, weights, biases, None, False)
    torch.testing.assert_close(chain(values, weights, biases).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("maker")
def test_what_is_not_a_number_stays_so_where_it_is() -> None:
    weights, biases = layers((3, 8, 2))
    values = torch.ones(3, 50)
    values[1, 20] = torch.nan
    found = chain(values, weights, biases, begins_with_relu=True)
    assert found.isnan().any(0).nonzero().flatten().tolist() == [20]


def test_a_chain_can_be_compiled() -> None:
    weights, biases = layers((6, 32, 3))
    values = torch.randn(6, 90, generator=generator(0, "values"))
    made = compiled(lambda given: (chain(given.sin(), weights, biases).exp(),), values)
    expected = reference(values.sin(), weights, biases, None, False).exp()
    torch.testing.assert_close(made(values)[0].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "width", "needs_gradients"), [
    (torch.float64, 4, False), (torch.float32, chains.MOST_UNITS + 1, False), (torch.float32, 4, True)])
def test_other_layers_are_left_to_products(dtype: torch.dtype, width: int, needs_gradients: bool) -> None:
    weight = torch.zeros(width, 3, dtype=dtype, requires_grad=needs_gradients)
    values = torch.zeros(3, 5, dtype=dtype)
    assert not chains.is_for(values, [weight])
    assert chains.is_for(torch.zeros(3, 5), [torch.zeros(4, 3)])


@pytest.mark.parametrize(("design", "is_chained"), [
    pytest.param(named_design("small_fc"), True, id="small_fc"),
    pytest.param(named_design("celo2"), False, id="narrow"),
    pytest.param(named_design("adamw_lstm"), True, marks=pytest.mark.slow, id="film"),
    pytest.param(replace(named_design("adamw_mlp"), rule=MLP(32, 3)), True, marks=pytest.mark.slow, id="three layers")])
def test_compiled_steps_with_chains_are_the_steps_without(design: LearnedOptimizer, is_chained: bool,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices wide and narrow, vectors, and several of one shape."""
    draws = generator(0, "params")
    shapes = {"wide": (20, 40), "narrow": (30, 4), "bias": (37,), "one": (6, 18), "other": (6, 18)}
    params = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    gradients = {name: torch.randn(leaf.shape, generator=draws) for name, leaf in params.items()}
    weights = {name: leaf + 0.05 * torch.randn(leaf.shape, generator=draws)
               for name, leaf in design.init_weights(draws).items()}
    seen = Observation(gradients, params, torch.full((1,), 0.3), loss=torch.ones(1), num_steps=torch.full((1,), 10.0))
    calls: list[int] = []
    plain = chains.chain
    monkeypatch.setattr(chains, "chain", lambda *given, **named: calls.append(1) or plain(*given, **named))

    def update(weights: dict[str, Tensor], state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return design.update(weights, seen, state)

    state = design.init(params)
    fast = compiled(update, weights, state)
    assert bool(calls) == is_chained
    for _ in range(3):
        (expected, after), (found, after_fast) = update(weights, state), fast(weights, state)
        for name in params:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)
        for name in after:
            torch.testing.assert_close(after_fast[name], after[name], rtol=1e-3, atol=1e-5)
        state = after

