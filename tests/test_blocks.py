"""Blocks: large tensors are worked on piece by piece, with the same result."""

from collections.abc import Iterator

import pytest
import torch
from deaf_designs import DEAF

from optsearch.optimizers import DESIGNS, LearnedOptimizer, Observation, layout
from optsearch.optimizers.layout import Layout
from optsearch.seeds import generator
from optsearch.trees import Tree

SHAPES = {"matrix": (7, 6), "bias": (7,), "conv": (4, 3, 2, 2), "scalar": (), "wide": (2, 50), "long": (50,),
          "twin": (3, 2), "twins": (3, 2), "triplet": (3, 2), "fourth": (3, 2), "one": (4,), "two": (4,), "six": (),
          "seven": ()}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of twenty parameters, in layouts that are made anew."""
    monkeypatch.setattr(layout, "BLOCK_SIZE", 20)
    layout._layout.cache_clear()
    yield
    layout._layout.cache_clear()


def tree(purpose: str, batch: tuple[int, ...] = ()) -> Tree:
    stream = generator(0, purpose)
    return {name: torch.randn((*batch, *shape), generator=stream, dtype=torch.float64)
            for name, shape in SHAPES.items()}


def steps(design: LearnedOptimizer, batch: tuple[int, ...]) -> tuple[list[Tree], Tree]:
    stream = generator(1, "weights")
    weights = {name: (leaf + 0.1 * torch.randn(leaf.shape, generator=stream)).double().expand(*batch, *leaf.shape)
               for name, leaf in design.init_weights(stream).items()}
    params = tree("params", batch)
    state, found = design.init(params, len(batch)), []
    for index in range(3):
        updates, state = design.update(weights, Observation(tree(f"gradient {index}", batch), params), state)
        found.append(updates)
    return found, state


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", DESIGNS)
def test_many_blocks_give_what_one_gives(name: str, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks = steps(DESIGNS[name][0], batch)
    assert len(Layout.of(tree("params")).blocks) > 8
    monkeypatch.undo()
    layout._layout.cache_clear()
    whole = steps(DESIGNS[name][0], batch)
    assert len(Layout.of(tree("params")).blocks) == 1
    torch.testing.assert_close(in_blocks, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_cover_every_parameter_once_and_in_order() -> None:
    found = Layout.of(tree("params"))
    ends = [0]
    for block in found.blocks:
        assert block.parameters.start == ends[-1]
        ends.append(block.parameters.stop)
        for piece in block.pieces:
            size = (piece.last - piece.first) * piece.width * piece.segment.copies
            assert piece.parameters.stop - piece.parameters.start == size
        # A single row that is larger than a block is one of its own.
        assert ends[-1] - ends[-2] <= 20 or len(block.pieces) == 1
    assert ends[-1] == found.num_parameters


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", DEAF)
def test_tensors_of_one_shape_are_worked_on_together_as_if_each_were_alone(name: str, batch: tuple[int, ...]) -> None:
    design = DESIGNS[name][0]
    stream = generator(1, "weights")
    weights = {key: (leaf + 0.1 * torch.randn(leaf.shape, generator=stream)).double().expand(*batch, *leaf.shape)
               for key, leaf in design.init_weights(stream).items()}
    params = tree("params", batch)
    assert len(Layout.of(params, len(batch)).segments) < len(SHAPES) - 4
    state = design.init(params, len(batch))
    alone = {key: design.init({key: leaf}, len(batch)) for key, leaf in params.items()}
    for index in range(3):
        gradients = tree(f"gradient {index}", batch)
        updates, state = design.update(weights, Observation(gradients, params), state)
        for key, leaf in params.items():
            update, alone[key] = design.update(weights, Observation({key: gradients[key]}, {key: leaf}), alone[key])
            torch.testing.assert_close(updates[key], update[key], rtol=1e-9, atol=1e-12)


def test_a_small_model_is_one_block() -> None:
    assert len(Layout.of(tree("params")).blocks) == 1
