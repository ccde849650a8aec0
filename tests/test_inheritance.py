"""A design takes over from another one what means the same, and makes the same steps where it only adds something."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optsearch import trees
from optsearch.adaptation import Inherited, inherit
from optsearch.errors import DesignError
from optsearch.optimizers import (
    DESIGNS,
    GRU,
    LSTM,
    MLP,
    Controls,
    ExpMagnitude,
    Features,
    History,
    LearnedOptimizer,
    Observation,
    OutputRMS,
)
from optsearch.optimizers.labels import labels_of
from optsearch.search.rows import random_suggest
from optsearch.search.spaces import load_space
from optsearch.trees import Tree

PARAMS = {"layer.weight": torch.linspace(-1, 1, 12).reshape(3, 4), "layer.bias": torch.linspace(0, 1, 3)}
PLAIN = LearnedOptimizer(features=Features(("gradient", "momentum", "time")), rule=MLP(hidden_size=8))


def weights_of(design: LearnedOptimizer, seed: int = 0) -> Tree:
    """Random ones, the readouts too."""
    stream = torch.Generator().manual_seed(seed)
    return {name: leaf + 0.3 * torch.randn(leaf.shape, generator=stream)
            for name, leaf in design.init_weights(stream).items()}


def handed_over(old: LearnedOptimizer, new: LearnedOptimizer) -> tuple[Tree, Inherited]:
    known = weights_of(old)
    return known, inherit(known, old, new, weights_of(new, 1))


def steps(design: LearnedOptimizer, weights: Tree, count: int = 3) -> list[Tensor]:
    state, found = design.init(PARAMS), []
    for index in range(count):
        stream = torch.Generator().manual_seed(index)
        gradients = {name: torch.randn(leaf.shape, generator=stream) for name, leaf in PARAMS.items()}
        observation = Observation(gradients, PARAMS, torch.tensor([index / count]), loss=torch.tensor([1.0]))
        updates, state = design.update(weights, observation, state)
        found.append(trees.ravel(updates))
    return found


def changed(**parts: Any) -> LearnedOptimizer:
    return replace(PLAIN, **parts)


@pytest.mark.parametrize("name", sorted(DESIGNS))
def test_the_same_design_takes_over_everything(name: str) -> None:
    design = DESIGNS[name][0]
    known, found = handed_over(design, design)
    assert found.share == 1
    assert found.in_words() == "all weights taken over"
    assert all(torch.equal(found.weights[leaf], known[leaf]) for leaf in known)


def test_labels_are_as_long_as_the_leaves_of_every_design() -> None:
    space, draw = load_space("all"), random_suggest(seed=3)
    for _ in range(100):
        try:
            design, _ = space.suggest(draw)
        except DesignError:
            continue
        shapes = trees.shapes_of(design.init_weights(torch.Generator()))
        labels = labels_of(design)
        assert {name: tuple(map(len, axes)) for name, axes in labels.items()} == shapes
        assert all(len(set(axis)) == len(axis) for name, axes in labels.items() for axis in axes
                   if not name.startswith("features."))


@pytest.mark.parametrize("grown", [
    changed(features=Features(("gradient", "momentum", "second_moment", "rows_and_columns", "time", "progress"))),
    changed(rule=MLP(hidden_size=13)),
    changed(features=Features(("gradient", "parameter", "momentum", "time")), rule=MLP(hidden_size=9)),
    changed(controller=History(), controls=Controls(context_size=4)),
    changed(controller=History(), controls=Controls(context_size=4, film=True)),
], ids=["features", "units", "both", "controller", "film"])
def test_a_design_that_only_adds_makes_the_same_steps(grown: LearnedOptimizer) -> None:
    known = weights_of(PLAIN)
    found = inherit(known, PLAIN, grown, grown.init_weights(torch.Generator().manual_seed(1)))
    assert 0 < found.share < 1
    for one, other in zip(steps(PLAIN, known), steps(grown, found.weights), strict=True):
        torch.testing.assert_close(one, other)


def test_a_recurrent_rule_grows_gate_by_gate() -> None:
    for kind in (LSTM, GRU):
        old, new = changed(rule=kind(hidden_size=5)), changed(rule=kind(hidden_size=7))
        known, found = handed_over(old, new)
        for one, other in zip(steps(old, known), steps(new, found.weights), strict=True):
            torch.testing.assert_close(one, other)


def test_inputs_are_found_by_name_and_lost_ones_forgotten() -> None:
    old = changed(features=Features(("gradient", "momentum", "second_moment", "time")))
    known, found = handed_over(old, PLAIN)
    # Gradient and three momenta stand first in both; the second moment's column is left out.
    expected = torch.cat([known["rule.hidden0.weight"][:, :4], known["rule.hidden0.weight"][:, 5:]], 1)
    assert torch.equal(found.weights["rule.hidden0.weight"], expected)
    assert found.share == 1


@pytest.mark.parametrize(("other", "begun"), [
    (changed(rule=LSTM(hidden_size=8)), "rule.gates0.weight (480 of 480)"),
    (changed(head=OutputRMS()), "rule.output.weight (8 of 8)"),
    (changed(head=ExpMagnitude(exp_scale=0.01)), "rule.output.weight (16 of 16)"),
    (changed(rule=MLP(hidden_size=8, num_layers=3)), "rule.hidden2.weight (64 of 64)"),
], ids=["rule", "head", "scale", "layer"])
def test_what_means_something_else_begins_anew_and_is_named(other: LearnedOptimizer, begun: str) -> None:
    _, found = handed_over(PLAIN, other)
    fresh = weights_of(other, 1)
    name = begun.split(" ", maxsplit=1)[0]
    assert begun in found.in_words()
    assert torch.equal(found.weights[name], fresh[name])


def test_decays_are_told_apart_by_their_start() -> None:
    old = changed(features=Features(("momentum",), momentum_decays=(0.9, 0.99), learn_decays=True))
    new = changed(features=Features(("momentum",), momentum_decays=(0.5, 0.99), learn_decays=True))
    known, found = handed_over(old, new)
    learned = found.weights["features.momentum_decays"]
    assert learned[1] == known["features.momentum_decays"][1]
    assert learned[0] != known["features.momentum_decays"][0]
