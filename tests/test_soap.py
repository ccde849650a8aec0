"""SOAP: the bases it finds, what it does not turn, and steps that hang on no axes."""

from dataclasses import replace

import pytest
import torch

from optsearch.compiling import compiled
from optsearch.errors import DesignError
from optsearch.optimizers import SOAP, AdamW
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator

SHAPES = {"wide": (4, 6), "wide again": (4, 6), "kernel": (5, 2, 1, 2), "vector": (7,), "number": ()}


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def run(base, gradients, batch=()):
    """Directions by name and the state after trees of gradients, one a step; params are zeros."""
    params = {name: torch.zeros_like(leaf) for name, leaf in gradients[0].items()}
    layout, one = Layout.of(params, len(batch)), torch.ones(*batch, 1).double()
    vector = Layout.flatten(params, len(batch))
    state, directions = base.init(layout, vector), []
    for step, tree in enumerate(gradients, 1):
        direction, state = base.direction(
            Moment(layout, Layout.flatten(tree, len(batch)), vector, step * one, one), state)
        directions.append(layout.unflatten(direction))
    return directions, state


def random_gradients(num_steps=4, batch=()):
    return [{name: normal(*batch, *shape, purpose=(name, step)) for name, shape in SHAPES.items()}
            for step in range(num_steps)]


def orthogonal(size, purpose):
    return torch.linalg.qr(normal(size, size, purpose=purpose)).Q


@pytest.mark.parametrize("kind", [{"weight": (3, 5)}, {"vector": (6,)}])
def test_its_bases_become_the_eigenvectors_of_the_gradients_products(kind):
    ((name, shape),) = kind.items()
    # Far apart, so that power iterations settle.
    scales = torch.logspace(0, -2, shape[-1]).double()
    gradients = [{name: scales * normal(*shape, purpose=step)} for step in range(400)]
    _, state = run(SOAP(beta2=0.999, shampoo_beta=0.999, precondition_1d=True), gradients)
    size = shape[-1]
    factor, basis = (state[leaf][-size**2:].view(size, size) for leaf in ("factors", "bases"))
    torch.testing.assert_close(basis.T @ basis, torch.eye(size).double())
    turned = basis.T @ factor @ basis
    diagonal = turned.diagonal()
    assert (turned - diagonal.diag()).abs().max() < 0.01 * diagonal.max()
    torch.testing.assert_close(diagonal.sort().values, torch.linalg.eigvalsh(factor), rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("precondition_1d", [True, False])
def test_once_settled_its_steps_turn_with_the_axes_and_adamws_do_not(precondition_1d):
    left, right = orthogonal(4, "left"), orthogonal(6, "right")
    rows, columns = torch.logspace(0, -1, 4).double()[:, None], torch.logspace(0, -1, 6).double()
    plain = [{"weight": rows * normal(4, 6, purpose=step) * columns} for step in range(600)]
    turned = [{"weight": left @ tree["weight"] @ right.T} for tree in plain]
    base = SOAP(beta2=0.999, shampoo_beta=0.999, weight_decay=0.0, precondition_1d=precondition_1d)

    def distance(base):
        (*_, one), (*_, other) = (run(base, gradients)[0] for gradients in (plain, turned))
        return (left @ one["weight"] @ right.T - other["weight"]).norm() / one["weight"].norm()

    assert distance(base) < 0.1
    assert distance(AdamW(beta2=0.999, weight_decay=0.0)) > 0.5


def test_what_it_does_not_turn_is_adamws():
    gradients = random_gradients()
    (plain, _), (adamw, _) = run(SOAP(), gradients), run(AdamW(beta1=0.95, beta2=0.95), gradients)
    vectors, _ = run(SOAP(precondition_1d=True), gradients)
    for name in SHAPES:
        is_plain = name in ("vector", "number")
        assert torch.allclose(plain[-1][name], adamw[-1][name]) == is_plain
        assert torch.allclose(vectors[-1][name], plain[-1][name]) == (name != "vector")


def test_sides_of_more_than_128_stay_as_they_are():
    gradients = [{"both": normal(129, 130, purpose=step), "one": normal(3, 129, purpose=step)} for step in range(3)]
    (found, state), (adamw, _) = run(SOAP(), gradients), run(AdamW(beta1=0.95, beta2=0.95), gradients)
    torch.testing.assert_close(found[-1]["both"], adamw[-1]["both"])
    assert not torch.allclose(found[-1]["one"], adamw[-1]["one"])
    assert state["bases"].shape == (3 * 3,)


def test_bases_stay_where_there_was_never_a_gradient():
    # All gradients lie in one plane: what they say of directions beside it is rounding.
    plane = normal(2, 5, purpose="plane")
    gradients = [{"weight": normal(3, 2, purpose=step) @ plane} for step in range(4)]
    moved = [{"weight": tree["weight"] * (1 + 1e-12 * normal(3, 5, purpose=("moved", step)))}
             for step, tree in enumerate(gradients)]
    (_, state), (_, other) = run(SOAP(), gradients), run(SOAP(), moved)
    torch.testing.assert_close(other["bases"], state["bases"], rtol=0, atol=1e-7)


def test_bases_turn_when_their_own_training_is_due():
    gradients = random_gradients(num_steps=6, batch=(2,))
    first, second = ([{name: leaf[row] for name, leaf in tree.items()} for tree in gradients] for row in range(2))
    base, layout = SOAP(precondition_frequency=3), Layout.of(first[0])
    _, early = run(base, second[:2])
    states = [run(base, first[:1])[1], early]
    together = {name: torch.stack([state[name] for state in states]) for name in early}
    steps = torch.tensor([[1.0], [2.0]]).double()
    params = torch.zeros(2, layout.num_parameters).double()
    for offset in range(4):
        seen = torch.stack([Layout.flatten(tree, 0) for tree in (first[1 + offset], second[2 + offset])])
        steps = steps + 1
        before = together["bases"]
        _, together = base.direction(Moment(layout, seen, params, steps, steps), together)
        moved = (together["bases"] != before).any(-1)
        assert moved.tolist() == [bool((step - 1) % 3 == 0) for step in steps[:, 0].tolist()]
        for row, state in enumerate(states):
            one = Moment(layout, seen[row], params[row], steps[row], steps[row])
            _, states[row] = base.direction(one, state)
            torch.testing.assert_close(together["bases"][row], states[row]["bases"])


def test_compiled_steps_turn_the_bases_too():
    gradients = random_gradients(num_steps=7)
    base, layout = SOAP(precondition_frequency=3), Layout.of(gradients[0])
    params, one = torch.zeros(layout.num_parameters).double(), torch.ones(1).double()

    def step(gradient, count, state):
        return base.direction(Moment(layout, gradient, params, count, one), state)

    state = base.init(layout, params)
    made = compiled(step, Layout.flatten(gradients[0], 0), one, state)
    expected, after = run(base, gradients)
    for index, tree in enumerate(gradients):
        direction, state = made(Layout.flatten(tree, 0), one * (index + 1), state)
        torch.testing.assert_close(direction, Layout.flatten(expected[index], 0))
    torch.testing.assert_close(state["bases"], after["bases"])


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_tensors_and_trainings_are_turned_each_by_itself(batch):
    gradients, base = random_gradients(batch=batch), SOAP(precondition_1d=True)
    together, _ = run(base, gradients, batch)
    for name in SHAPES:
        alone, _ = run(base, [{name: tree[name]} for tree in gradients], batch)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[name], expected[name])
    if batch:
        one, _ = run(base, [{name: leaf[1, 2] for name, leaf in tree.items()} for tree in gradients])
        for name in SHAPES:
            torch.testing.assert_close(together[-1][name][1, 2], one[-1][name])


def test_wide_layers_take_smaller_steps_where_rates_carry_over():
    gradients = [{"wide": normal(64, 512, purpose="wide"), "small": normal(16, 64, purpose="small")}]
    base = SOAP(weight_decay=0.0)
    (one,), _ = run(base, gradients)
    (other,), _ = run(replace(base, adjust_lr="mup"), gradients)
    torch.testing.assert_close(other["small"], one["small"])
    torch.testing.assert_close(other["wide"], one["wide"] * (64 / 512))


@pytest.mark.parametrize("values", [{"beta2": 1.0}, {"beta1": -0.1}, {"adjust_lr": "original"},
                                    {"precondition_frequency": 0}])
def test_values_that_make_no_optimizer_are_refused(values):
    with pytest.raises(DesignError, match=r"base\.soap"):
        SOAP(**values)
