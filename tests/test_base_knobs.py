"""What holds for every base: knobs, steps in place, and slopes where there are no gradients."""

from dataclasses import replace
from math import log

import pytest
import torch

from optsearch.optimizers import BASES
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator

LAYOUT = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
PARTS = (slice(0, 6), slice(6, 10))
KNOBS = [(kind, knob) for kind, base in BASES.items() for knob in base.knobs]
every_base = pytest.mark.parametrize("base", [kind() for kind in BASES.values()], ids=BASES)
every_knob = pytest.mark.parametrize(("kind", "knob"), KNOBS, ids=["-".join(pair) for pair in KNOBS])


def normal(purpose, dtype=torch.float64):
    return torch.randn(10, generator=generator(0, purpose), dtype=torch.float64).to(dtype)


def moment(step, gradient, in_place=False):
    one = torch.ones(1, dtype=gradient.dtype)
    return Moment(LAYOUT, gradient, normal("params", gradient.dtype), step * one, 0.5 * one, in_place=in_place)


def directions(base, offsets=None, num_steps=8, in_place=False):
    """Of the first steps, `[steps, n]`."""
    knobs = None if offsets is None else Knobs(LAYOUT, offsets)
    state, found = base.init(LAYOUT, torch.zeros(10).double(), 0 if offsets is None else 2), []
    for step in range(1, num_steps + 1):
        # So small that eps matters.
        direction, state = base.direction(moment(step, 1e-5 * normal(step), in_place), state, knobs)
        found.append(direction.clone())
    return torch.stack(found)


def no_offsets(base):
    return {knob: torch.zeros(2).double() for knob in base.knobs}


@every_base
def test_knobs_that_are_not_turned_change_nothing(base):
    torch.testing.assert_close(directions(base, no_offsets(base)), directions(base), rtol=1e-9, atol=1e-15)


@every_knob
@pytest.mark.parametrize("turned", [0, 1])
def test_a_tensor_whose_knob_is_turned_moves_as_under_the_base_with_that_value(kind, knob, turned):
    base = BASES[kind]()
    before, after = getattr(base, knob), (1e-4 if knob == "eps" else 0.6)
    offset = log(after / before) if knob == "eps" else log((1 - after) / (1 - before))
    offsets = no_offsets(base)
    offsets[knob][turned] = offset
    found, plain, other = directions(base, offsets), directions(base), directions(replace(base, **{knob: after}))
    for index, part in enumerate(PARTS):
        torch.testing.assert_close(found[:, part], (other if index == turned else plain)[:, part],
                                   rtol=1e-9, atol=1e-15)


@every_knob
def test_every_knob_matters_to_some_tensor(kind, knob):
    base = BASES[kind]()
    turned = no_offsets(base) | {knob: torch.ones(2).double()}
    # A sign changes rarely.
    assert not torch.allclose(directions(base, turned, 20), directions(base, None, 20), rtol=1e-6, atol=0)


@every_base
def test_a_base_steps_in_place_as_it_does_otherwise(base):
    assert torch.equal(directions(base, in_place=True), directions(base))


@every_base
@pytest.mark.parametrize("is_tuned", [True, False])
def test_first_and_second_slopes_are_finite_where_a_gradient_is_zero(base, is_tuned):
    # In single precision, where small squares are nothing.
    gradients = [torch.zeros(10), normal("later", torch.float32), torch.zeros(10)]
    leaves = [gradient.requires_grad_() for gradient in gradients]
    offsets = {knob: torch.zeros(2, requires_grad=True) for knob in base.knobs} if is_tuned else {}
    leaves += offsets.values()
    state, total = base.init(LAYOUT, torch.zeros(10), 2 if offsets else 0), torch.zeros(())
    for step, gradient in enumerate(gradients, 1):
        direction, state = base.direction(moment(step, gradient), state, Knobs(LAYOUT, offsets) if offsets else None)
        total = total + (direction * normal(("weights", step), torch.float32)).sum()
    first = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    assert all(leaf.isfinite().all() for leaf in (total, *state.values(), *first))
    steep = sum((slope / slope.detach().abs().amax().clamp(min=1)).sum() for slope in first)
    if steep.requires_grad:
        second = torch.autograd.grad(steep, leaves, materialize_grads=True)
        assert all(leaf.isfinite().all() for leaf in second)


@every_base
def test_averages_are_one_momentum_and_one_second_moment_at_most(base):
    state = base.init(LAYOUT, torch.zeros(2, 10))
    averages = base.averages(state)
    assert averages.keys() <= {"momentum", "second_moment"}
    assert all(leaf.shape == (2, 1, 10) for leaf in averages.values())
