import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.func import grad

from optsearch.errors import DesignError
from optsearch.optimizers import (
    BASES,
    CONTROLLERS,
    DESIGNS,
    GNN,
    GRU,
    HEADS,
    LSTM,
    MEMORIES,
    MIXINGS,
    MLP,
    PARTS,
    RULES,
    SCHEDULES,
    Controls,
    ExpMagnitude,
    Features,
    History,
    KeyValueMemory,
    LearnedOptimizer,
    Linear,
    NoController,
    NoMemory,
    NoMixing,
    NoRule,
    Observation,
    Residual,
    Transformer,
    controllers,
    named_design,
    num_weights,
)
from optsearch.seeds import generator

SHAPES = {"scalar": (), "vector": (3,), "matrix": (4, 5), "kernel": (2, 3, 3, 3)}
SMALL = {"mlp": MLP(hidden_size=3, num_layers=1), "lstm": LSTM(hidden_size=2), "gru": GRU(hidden_size=2),
         "none": NoRule()}
SMALL_CONTROLLERS = {"none": NoController(), "linear": Linear(),
                     "history": History(length=2, hidden_size=3, embedding_size=2),
                     "lstm": controllers.LSTM(hidden_size=3), "gru": controllers.GRU(hidden_size=3, num_layers=2),
                     "transformer": Transformer(hidden_size=4, num_heads=2, sequence_length=2),
                     "gnn": GNN(hidden_size=3)}
SMALL_MEMORIES = {"none": NoMemory(), "key_value": KeyValueMemory(size=2, key_size=2, value_size=2)}
KINDS = {"rule": SMALL, "head": HEADS, "schedule": SCHEDULES, "mixing": MIXINGS, "base": BASES,
         "controller": SMALL_CONTROLLERS, "memory": SMALL_MEMORIES}
USUAL = {"rule": "mlp", "head": "raw", "schedule": "progress", "mixing": "residual", "base": "adamw",
         "controller": "none", "memory": "none"}
# Slots whose kinds all meet each other, beside the usual kinds in all other slots.
PAIRS = [("rule", "head"), ("rule", "schedule"), ("rule", "mixing"), ("mixing", "base"), ("rule", "controller"),
         ("controller", "mixing"), ("controller", "memory")]


def choices():
    """The kinds of each slot, for every combination that is worth a test."""
    for pair in PAIRS:
        for kinds in product(*(KINDS[slot] for slot in pair)):
            yield USUAL | dict(zip(pair, kinds, strict=True))
    # The controller sees what the base keeps, and turns its knobs.
    for base in BASES:
        yield USUAL | {"rule": "none", "controller": "gru", "base": base}


def is_design(kinds):
    if kinds["rule"] == "none":
        # Nothing asks for a head, and with a constant schedule nothing would be learned.
        return kinds["mixing"] == "residual" and kinds["head"] == USUAL["head"] and kinds["schedule"] != "constant"
    return kinds["memory"] == "none" or kinds["controller"] != "none"


def combinations():
    features = Features(groups=("compact", "rows_and_columns"), learn_decays=True)
    for kinds in filter(is_design, choices()):
        rule, head, schedule, mixing, base, controller, memory = kinds.values()
        has_base = MIXINGS[mixing]().has_base
        controls = Controls(context_size=2, film=rule == "mlp", tunes_base=has_base)
        yield "-".join((rule, head, schedule, mixing, base if has_base else "none", controller, memory)), (
            LearnedOptimizer(features, SMALL[rule], HEADS[head](), SCHEDULES[schedule](), MIXINGS[mixing](),
                             BASES[base]() if has_base else None, SMALL_CONTROLLERS[controller],
                             memory=SMALL_MEMORIES[memory],
                             controls=Controls() if controller == "none" else controls))


ALL = {name: design for name, (design, _) in DESIGNS.items()} | dict(combinations())
every_design = pytest.mark.parametrize("design", ALL.values(), ids=ALL)


def random_tree(shapes, *purpose, batch=()):
    return {name: torch.randn((*batch, *shape), generator=generator(0, *purpose, name))
            for name, shape in shapes.items()}


def disturbed(weights, *purpose, batch=()):
    """Weights that are not at their start, where many are zero."""
    noise = random_tree({name: leaf.shape for name, leaf in weights.items()}, *purpose, batch=batch)
    return {name: leaf + 0.05 * noise[name] for name, leaf in weights.items()}


def doubled(tree):
    return {name: leaf.double() for name, leaf in tree.items()}


def start(design):
    return design.init_weights(generator(0, "weights"))


def observe(purpose, batch=()):
    return Observation(random_tree(SHAPES, purpose, "gradient", batch=batch),
                       random_tree(SHAPES, purpose, "params", batch=batch),
                       torch.full((*batch, 1), 0.3), weight_decay=0.1, loss=torch.full((*batch, 1), 1.5))


def one_of(tree, index):
    return {name: leaf[index] for name, leaf in tree.items()}


@every_design
def test_a_design_comes_back_from_its_config(design):
    config = json.loads(json.dumps(design.to_config()))
    back = LearnedOptimizer.from_config(config)
    assert back == design
    assert hash(back) == hash(design)


@every_design
def test_weights_depend_on_the_generator_alone(design):
    first, second = start(design), start(design)
    assert all(torch.equal(leaf, second[name]) for name, leaf in first.items())
    assert sum(leaf.numel() for leaf in first.values()) == num_weights(design)
    assert all(leaf.isfinite().all() and leaf.dtype == torch.float32 for leaf in first.values())


@every_design
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_update_has_the_shape_of_its_param_and_is_finite(design, shape):
    weights, params = disturbed(start(design), "shape"), random_tree({"p": shape}, "p")
    state = design.init(params)
    for gradients in ({"p": torch.zeros(shape)}, random_tree({"p": shape}, "g"), {"p": torch.full(shape, 1e30)}):
        updates, state = design.update(weights, Observation(gradients, params), state)
        assert updates["p"].shape == shape
        assert all(leaf.isfinite().all() for leaf in (updates | state).values())
    assert updates["p"].ne(0).any()


@every_design
def test_an_update_changes_none_of_its_arguments(design):
    weights, observation = disturbed(start(design), "pure"), observe("pure")
    _, state = design.update(weights, observation, design.init(observation.params))
    trees = (weights, observation.gradients, observation.params, state)
    before = [{name: leaf.clone() for name, leaf in tree.items()} for tree in trees]
    first, _ = design.update(weights, observation, state)
    second, _ = design.update(weights, observation, state)
    assert all(torch.equal(leaf, copy[name]) for tree, copy in zip(trees, before, strict=True)
               for name, leaf in tree.items())
    assert all(torch.equal(leaf, second[name]) for name, leaf in first.items())


@every_design
def test_a_batch_of_trainings_equals_its_trainings_one_by_one(design):
    # In double precision: in single, SOAP's bases lie as rounding has it where there was hardly a gradient.
    batch = (2, 2)
    weights = doubled(disturbed(start(design), "batch", batch=batch))
    steps = [replace(step, gradients=doubled(step.gradients), params=doubled(step.params),
                     progress=step.progress.double(), loss=step.loss.double())
             for step in (observe(index, batch) for index in range(2))]
    state = design.init(steps[0].params, batch_dims=2)
    together = []
    for step in steps:
        updates, state = design.update(weights, step, state)
        together.append(updates)
    for index in product(range(2), range(2)):
        alone = design.init(one_of(steps[0].params, index))
        for step, updates in zip(steps, together, strict=True):
            observation = Observation(one_of(step.gradients, index), one_of(step.params, index),
                                      step.progress[index], step.weight_decay, step.loss[index])
            expected, alone = design.update(one_of(weights, index), observation, alone)
            torch.testing.assert_close(one_of(updates, index), expected)
        torch.testing.assert_close(one_of(state, index), alone)


@every_design
def test_the_order_of_the_tensors_does_not_matter(design):
    weights, steps = disturbed(start(design), "order"), [observe(index) for index in range(3)]
    backwards = list(reversed(SHAPES))
    state, other = design.init(steps[0].params), design.init({name: steps[0].params[name] for name in backwards})
    for step in steps:
        turned = replace(step, gradients={name: step.gradients[name] for name in backwards},
                         params={name: step.params[name] for name in backwards})
        updates, state = design.update(weights, step, state)
        found, other = design.update(weights, turned, other)
        assert list(found) == backwards
        torch.testing.assert_close({name: found[name] for name in updates}, updates, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("controller", [kind for kind in CONTROLLERS if kind != "none"])
def test_a_fresh_controller_changes_nothing_and_a_trained_one_tells_tensors_apart(controller):
    plain = LearnedOptimizer(rule=MLP(3))
    controlled = replace(plain, controller=SMALL_CONTROLLERS[controller], controls=Controls(context_size=2))
    steps = [observe(index) for index in range(3)]

    def run(design, weights):
        state = design.init(steps[0].params)
        for step in steps:
            updates, state = design.update(weights, step, state)
        return updates

    torch.testing.assert_close(run(controlled, start(controlled)), run(plain, start(plain)))
    # The rule stays at its start, where it adds nothing: what differs is each tensor's learning rate.
    trained = disturbed(start(controlled), "trained")
    weights = {name: trained[name] if name.startswith(("controller.", "controls.")) else leaf
               for name, leaf in start(controlled).items()}
    plain_updates, updates = run(plain, start(plain)), run(controlled, weights)
    factors = {name: (leaf / plain_updates[name]).flatten() for name, leaf in updates.items()}
    for factor in factors.values():
        torch.testing.assert_close(factor, factor[:1].expand_as(factor), rtol=1e-3, atol=0)
    assert len({round(float(factor[0]), 5) for factor in factors.values()}) == len(SHAPES)


@every_design
def test_two_steps_are_differentiable_in_the_weights(design):
    steps = [Observation(doubled(observe(index).gradients), doubled(observe(index).params),
                         loss=torch.tensor([1.5 - index]).double()) for index in range(2)]

    def summed(weights):
        state, total = design.init(steps[0].params), 0.0
        for step in steps:
            updates, state = design.update(weights, step, state)
            total = total + sum((leaf * step.gradients[name]).sum() for name, leaf in updates.items())
        return total

    weights = doubled(disturbed(start(design), "differentiable"))
    direction = {name: torch.randn(leaf.shape, generator=generator(1, name)).double() for name, leaf in weights.items()}
    gradients = grad(summed)(weights)
    slope = sum((gradients[name] * direction[name]).sum() for name in weights)
    # So short that no ReLU passes its kink on the way.
    ahead, behind = ({name: leaf + size * direction[name] for name, leaf in weights.items()} for size in (1e-8, -1e-8))
    torch.testing.assert_close(slope, (summed(ahead) - summed(behind)) / 2e-8, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("design", "inputs", "weights"), [
    (named_design("small_fc"), 39, 2_402 + 7),
    (LearnedOptimizer(Features(groups=("small_fc",), learn_decays=True), MLP(hidden_size=4), ExpMagnitude(),
                      mixing=NoMixing(), base=None, schedule=named_design("small_fc").schedule), 39, 190 + 7),
    (named_design("celo2"), 30, 347),
    (named_design("lstm_2016"), 2, 5_141),
    (named_design("rnnprop"), 2, 6_641),
    (named_design("opt2vec"), None, (15 * 32 + 32) + (32 * 16 + 16) + (16 + 1)),
], ids=["small_fc", "small_fc hidden 4", "celo2", "lstm_2016", "rnnprop", "opt2vec"])
def test_published_designs_have_their_published_size(design, inputs, weights):
    assert inputs is None or design.features.num_inputs == inputs
    assert num_weights(design) == weights


def test_every_kind_has_its_small_one():
    assert SMALL.keys() == RULES.keys()
    assert SMALL_CONTROLLERS.keys() == CONTROLLERS.keys()
    assert SMALL_MEMORIES.keys() == MEMORIES.keys()


def test_designs_are_equal_exactly_when_all_parts_are():
    assert LearnedOptimizer() == LearnedOptimizer(mixing=Residual())
    assert LearnedOptimizer() != LearnedOptimizer(rule=MLP(hidden_size=5))
    assert len(set(ALL.values())) == len(ALL)


def test_gradients_beyond_the_clip_count_as_the_clip():
    design, params = LearnedOptimizer(), {"p": torch.ones(3)}
    at_clip, beyond = (design.update(start(design), Observation({"p": torch.full((3,), value)}, params),
                                     design.init(params)) for value in (1e3, 1e20))
    torch.testing.assert_close(at_clip, beyond, rtol=0, atol=0)


def test_weight_decay_is_decoupled_and_scaled_by_the_learning_rate():
    design, params, gradients = LearnedOptimizer(), {"p": torch.tensor([2.0, -3.0])}, {"p": torch.tensor([1.0, 5.0])}
    plain, decayed = (design.update(start(design), Observation(gradients, params, weight_decay=decay),
                                    design.init(params))[0] for decay in (0.0, 0.5))
    torch.testing.assert_close(decayed["p"] - plain["p"], -design.schedule.initial_lr * 0.5 * params["p"],
                               rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("slot", PARTS)
def test_unknown_kinds_and_fields_name_those_that_exist(slot):
    kinds = sorted(PARTS[slot])
    with pytest.raises(DesignError, match=f"{slot}: there is no kind `magic`. Kinds: {', '.join(kinds)}"):
        LearnedOptimizer.from_config({slot: {"kind": "magic"}})
    with pytest.raises(DesignError, match=f"{slot}: `magic` is no field of `{kinds[0]}`. Its fields: "):
        LearnedOptimizer.from_config({slot: {"kind": kinds[0], "magic": 1}})
    with pytest.raises(DesignError, match=f"{slot}: expected a table with a `kind`"):
        LearnedOptimizer.from_config({slot: "magic"})


@pytest.mark.parametrize(("part", "message"), [
    ({"rule": {"kind": "mlp", "hidden_size": "big"}}, "`hidden_size` of `mlp` can't be 'big'"),
    ({"rule": {"kind": "mlp", "hidden_size": 2.5}}, "`hidden_size` of `mlp` can't be 2.5"),
    ({"rule": {"kind": "mlp", "hidden_size": 0}}, "hidden_size and num_layers must be at least 1, not 0 and 2"),
    ({"rule": {"kind": "mlp", "activation": "sine"}}, "no activation `sine`. Activations: gelu, relu, silu, tanh"),
    ({"rule": {"kind": "lstm", "input_size": -1}}, "input_size at least 0, not 8, 1 and -1"),
    ({"base": {"kind": "adamw", "beta1": 1.0}}, r"beta1 and beta2 must be in \[0, 1\), not 1.0 and 0.999"),
    ({"base": {"kind": "sgdm", "momentum": -0.1}}, r"momentum must be in \[0, 1\), not -0.1"),
    ({"schedule": {"kind": "progress", "initial_lr": 0}}, "initial_lr must be above 0, not 0"),
    ({"schedule": {"kind": "progress", "num_knots": 1}}, "num_knots must be at least 2, not 1"),
    ({"features": {"kind": "groups", "groups": ["magic"]}}, "no group `magic`. Groups: .*sets of groups: adam"),
    ({"features": {"kind": "groups", "groups": "compact"}}, "`groups` of `groups` can't be 'compact'"),
    ({"features": {"kind": "groups", "groups": ["time"]}}, "at least one group must differ between parameters"),
    ({"features": {"kind": "groups", "second_moment_decay": 1.0}}, r"decays must be in \[0, 1\)"),
    ({"features": {"kind": "groups", "momentum_decays": [0.9]}}, "as many momentum decays as factored decays"),
    ({"magic": {"kind": "mlp"}}, "there is no part `magic`. Parts: features, rule, head"),
], ids=str)
def test_values_that_do_not_fit_are_refused_with_advice(part, message):
    with pytest.raises(DesignError, match=message):
        LearnedOptimizer.from_config(part)


def test_a_base_and_a_mixing_belong_together():
    with pytest.raises(DesignError, match="every other kind needs one"):
        LearnedOptimizer(base=None)
    with pytest.raises(DesignError, match="`none` takes no base"):
        LearnedOptimizer(mixing=NoMixing())


def test_an_unknown_name_lists_the_designs():
    with pytest.raises(DesignError, match=f"no design `magic`. Designs: {', '.join(sorted(DESIGNS))}"):
        named_design("magic")
