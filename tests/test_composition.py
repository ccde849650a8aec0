"""The whole product of the registries: every controller with every rule, head, mixing and memory, on mixed shapes."""

import io
from itertools import cycle, islice, product

import pytest
import torch
from test_optimizers import SMALL, SMALL_CONTROLLERS, SMALL_MEMORIES, disturbed, random_tree, start
from torch import nn
from torch.func import vmap

from optsearch.export import Artifact, OptimizerModule
from optsearch.optimizers import HEADS, MIXINGS, AdamW, Controls, Features, LearnedOptimizer, Observation, Progress
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment

SHAPES = {"scalar": (), "vector": (3,), "matrix": (4, 5), "kernel": (2, 3, 3, 3)}
FIFTY = {f"layer{index}.{name}": shape for index, (name, shape) in enumerate(islice(cycle(SHAPES.items()), 50))}
BASE, RATE = AdamW(), 0.01
# Every way to steer: each controller with each memory that it can have.
STEERED = [(controller, memory) for controller, memory in product(SMALL_CONTROLLERS, SMALL_MEMORIES)
           if controller != "none" or memory == "none"]
every_steering = pytest.mark.parametrize(("controller", "memory"), STEERED, ids=["-".join(pair) for pair in STEERED])


def design_of(controller, memory, rule="mlp", head="raw", mixing="residual"):
    has_base = MIXINGS[mixing]().has_base
    return LearnedOptimizer(
        Features(groups=("compact", "rows_and_columns")), SMALL[rule], HEADS[head](), Progress(RATE), MIXINGS[mixing](),
        BASE if has_base else None, SMALL_CONTROLLERS[controller], memory=SMALL_MEMORIES[memory],
        controls=Controls(context_size=2, film=rule == "mlp", tunes_base=has_base))


def observe(index, shapes=SHAPES, batch=()):
    return Observation(random_tree(shapes, index, "gradient", batch=batch), random_tree(shapes, "params", batch=batch),
                       torch.full((*batch, 1), 0.1 * index), loss=torch.full((*batch, 1), 1.5 - 0.1 * index))


def base_steps(num_steps):
    """What the base alone does on the same observations."""
    layout = Layout.of(observe(0).params)
    state = BASE.init(layout, torch.zeros(layout.num_parameters))
    for index in range(num_steps):
        seen = observe(index)
        gradient, params = (Layout.flatten(tree, 0) for tree in (seen.gradients, seen.params))
        step = torch.full((1,), index + 1.0)
        direction, state = BASE.direction(Moment(layout, gradient, params, step, seen.progress), state)
        yield layout.unflatten(-RATE * direction)


@every_steering
def test_every_composition_starts_at_its_bases_behaviour_and_goes_elsewhere_with_weights(controller, memory):
    expected = list(base_steps(3))
    for rule, head, mixing in product(SMALL, HEADS, MIXINGS):
        if rule == "none" and (mixing != "residual" or head != "raw"):
            continue
        design = design_of(controller, memory, rule, head, mixing)
        fresh = start(design)
        trained = disturbed(fresh, "trained")
        states = [design.init(observe(0).params) for _ in range(2)]
        for index in range(3):
            (updates, states[0]), (others, states[1]) = (
                design.update(weights, observe(index), state)
                for weights, state in zip((fresh, trained), states, strict=True))
            if design.base is not None:
                torch.testing.assert_close(updates, expected[index], rtol=1e-4, atol=1e-7)
        assert all(leaf.isfinite().all() for leaf in (others | states[1]).values())
        assert any(not torch.equal(leaf, updates[name]) for name, leaf in others.items())


@every_steering
@pytest.mark.parametrize("rule", ["mlp", "none"])
def test_under_vmap_all_trainings_step_as_in_a_batch(controller, memory, rule):
    design, num = design_of(controller, memory, rule), 3
    weights = disturbed(start(design), "vmap", batch=(num,))
    batched = design.init(observe(0, batch=(num,)).params, batch_dims=1)
    mapped = {name: leaf.clone() for name, leaf in batched.items()}

    def step(weights, gradients, params, told, state):
        return design.update(weights, Observation(gradients, params, told["progress"], loss=told["loss"]), state)

    for index in range(2):
        seen = observe(index, batch=(num,))
        expected, batched = design.update(weights, seen, batched)
        found, mapped = vmap(step)(weights, seen.gradients, seen.params,
                                   {"progress": seen.progress, "loss": seen.loss}, mapped)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@every_steering
def test_fifty_tensors_step_the_same_in_any_order(controller, memory):
    design = design_of(controller, memory)
    weights, backwards = disturbed(start(design), "fifty"), list(reversed(FIFTY))
    seen = [observe(index, FIFTY) for index in range(2)]
    state, other = design.init(seen[0].params), design.init({name: seen[0].params[name] for name in backwards})
    for each in seen:
        turned = Observation({name: each.gradients[name] for name in backwards},
                             {name: each.params[name] for name in backwards}, each.progress, loss=each.loss)
        updates, state = design.update(weights, each, state)
        found, other = design.update(weights, turned, other)
        torch.testing.assert_close({name: found[name] for name in updates}, updates, rtol=1e-3, atol=1e-6)


def exported_run(design, dtype, resume_at=None, num_steps=6):
    """A model's params after a few steps of the exported optimizer, saved and loaded on the way where asked."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    module = OptimizerModule(Artifact(design, disturbed(start(design), "exported"), {}))
    optimizer, inputs = module(model.named_parameters(), num_steps=num_steps), torch.randn(8, 3).to(dtype)
    for index in range(num_steps):
        if index == resume_at:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = module(model.named_parameters(), num_steps=num_steps)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    return [param.detach() for param in model.parameters()]


@every_steering
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_gives_the_same_bits_in_any_precision(controller, memory, dtype):
    design = design_of(controller, memory)
    unbroken, resumed = (exported_run(design, dtype, resume_at) for resume_at in (None, 3))
    for whole, again in zip(unbroken, resumed, strict=True):
        assert whole.dtype == dtype
        assert torch.equal(whole, again)
        assert whole.isfinite().all()
