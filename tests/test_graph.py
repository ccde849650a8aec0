"""The graph of a design: it is a drawing of what is computed, no more and no less, and says what that costs."""

from dataclasses import fields, replace

import networkx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optsearch.errors import DesignError
from optsearch.optimizers import (
    DESIGNS,
    FEATURE_GROUPS,
    GRU,
    LSTM,
    MLP,
    PARTS,
    SGDM,
    AdamW,
    Controls,
    Features,
    Gated,
    History,
    KeyValueMemory,
    LearnedOptimizer,
    NoController,
    NoMemory,
    NoMixing,
    NoRule,
    Observation,
    Raw,
    Residual,
    TensorFeatures,
    Transformer,
    controllers,
    named_design,
    num_weights,
)
from optsearch.optimizers.layout import Layout
from optsearch.seeds import generator

SHAPES = {"embedding.weight": (3, 2), "linear.weight": (4, 3), "linear.bias": (4,), "norm.weight": ()}
LOSSES = (1.0, 0.5, 2.5, 20.0, 0.7)
EVERYTHING = LearnedOptimizer(
    Features(groups=FEATURE_GROUPS, learn_decays=True), MLP(hidden_size=3), mixing=Gated(), base=AdamW(),
    controller=controllers.GRU(hidden_size=3, mix="max", learns_start=True), memory=KeyValueMemory(2, 3, 2),
    controls=Controls(context_size=2, film=True, tunes_base=True, accumulates=True))
# So small that a few steps show what each field does.
SMALL = {"transformer": Transformer(hidden_size=4, num_heads=2, sequence_length=2, feedforward_ratio=1),
         "history": History(length=2, hidden_size=3, embedding_size=2),
         "key_value": EVERYTHING.memory, "trust": PARTS["mixing"]["trust"](radius=0.1),
         # So often that a few steps tell.
         "soap": PARTS["base"]["soap"](precondition_frequency=2)}
COMPOSED = {
    "everything": EVERYTHING,
    "context": replace(EVERYTHING, rule=GRU(hidden_size=2), mixing=Residual(), controls=Controls(context_size=2)),
    "transformer": LearnedOptimizer(rule=NoRule(), base=SGDM(), controller=SMALL["transformer"],
                                    controls=Controls(context_size=2, film=True, tunes_base=True)),
    "over tensors": LearnedOptimizer(
        rule=NoRule(), controller=Transformer(hidden_size=4, num_layers=1, num_heads=2, attends="tensors")),
    "lean": LearnedOptimizer(Features(groups=("log_sign", "time"), normalize=False), LSTM(hidden_size=2, input_size=3)),
    "seen by the controller alone": LearnedOptimizer(
        Features(groups=("gradient",), learn_decays=True), MLP(hidden_size=2, num_layers=1), Raw(), mixing=NoMixing(),
        base=None, controller=SMALL["history"], tensors=TensorFeatures(groups=("momentum_ratio", "size"))),
}
ALL = {name: design for name, (design, _) in DESIGNS.items()} | COMPOSED
every_design = pytest.mark.parametrize("design", ALL.values(), ids=ALL)


def with_kind(slot, kind):
    """`EVERYTHING` with another kind of part, and what that asks of the others."""
    parts = {slot: SMALL.get(kind) or PARTS[slot][kind]()}
    if (slot, kind) == ("mixing", "none"):
        parts["base"] = None
    if (slot, kind) == ("rule", "none"):
        parts["mixing"] = Residual()
    if (slot, kind) == ("controller", "none"):
        parts["memory"] = NoMemory()
    return replace(EVERYTHING, **({"features": Features(groups=FEATURE_GROUPS)} | parts))


def other_values(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [2 * value, value / 2] if value and isinstance(value, float) else [value + 1, 2 * value]
    if isinstance(value, str):
        return [word for word in ("tanh", "gelu", "none", "mean", "steps") if word != value]
    if isinstance(value[0], float):
        return [tuple(each / 2 for each in value)]
    return [(*value, "gradient"), (*value, "clipped_gradient"), (*value, "depth")]


def changed(design, slots=tuple(PARTS)):
    """The design with each field of its parts changed in turn, by the field's name."""
    for slot in slots:
        part = getattr(design, slot)
        for field in fields(part) if part is not None else ():
            for value in other_values(getattr(part, field.name)):
                try:
                    other = replace(design, **{slot: replace(part, **{field.name: value})})
                except DesignError:
                    continue
                yield f"{slot}.{field.name} = {value}", other
                break


def behaviour(design):
    """Fresh weights, and what five steps with other weights add to params."""
    fresh = design.init_weights(generator(0, "weights"))
    weights = {name: leaf.double() + 0.2 * torch.randn(leaf.shape, generator=generator(0, name)).double()
               for name, leaf in fresh.items()}
    params = {name: torch.randn(shape, generator=generator(1, name)).double() for name, shape in SHAPES.items()}
    state, found = design.init(params), dict(fresh)
    for step, loss in enumerate(LOSSES):
        gradients = {name: torch.randn(shape, generator=generator(step, "gradient", name)).double()
                     for name, shape in SHAPES.items()}
        observation = Observation(gradients, params, torch.tensor([step / 5]).double(),
                                  loss=torch.tensor([loss]).double(), num_steps=torch.tensor([5.0]).double())
        updates, state = design.update(weights, observation, state)
        params = {name: leaf + updates[name] for name, leaf in params.items()}
        found |= {f"{step} {name}": leaf for name, leaf in params.items()}
    return found


def assert_fingerprints_tell(design, slots=tuple(PARTS)):
    """That they differ exactly where weights or steps do, for each field that is changed."""
    one = behaviour(design)
    for change, changed_design in changed(design, slots):
        other = behaviour(changed_design)
        assert (design.fingerprint == changed_design.fingerprint) == are_equal(one, other), change


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(leaf, other[name]) for name, leaf in one.items())


@every_design
def test_every_design_flows_from_the_observation_to_the_step(design):
    graph = design.graph()
    assert networkx.is_directed_acyclic_graph(graph)
    assert [node for node in graph if graph.in_degree(node) == 0] == ["observation"]
    assert [node for node in graph if graph.out_degree(node) == 0] == ["step"]
    assert ("base" in graph) == (design.base is not None)
    assert all({"slot", "kind"} <= set(attributes) for _, attributes in graph.nodes(data=True))


@every_design
def test_the_nodes_hold_all_weights(design):
    assert sum(count for _, count in design.graph().nodes(data="num_weights", default=0)) == num_weights(design)


def test_designs_that_differ_have_fingerprints_that_differ():
    assert len({design.fingerprint for design in ALL.values()}) == len(ALL)
    assert all(len(design.fingerprint) == 16 and int(design.fingerprint, 16) >= 0 for design in ALL.values())


@every_design
def test_a_design_keeps_its_fingerprint_in_its_config(design):
    assert LearnedOptimizer.from_config(design.to_config()).fingerprint == design.fingerprint


@pytest.mark.parametrize(("slot", "kind"), [(slot, kind) for slot in PARTS for kind in PARTS[slot]])
def test_a_field_changes_the_fingerprint_exactly_when_it_changes_weights_or_steps(slot, kind):
    assert_fingerprints_tell(with_kind(slot, kind), slots=(slot,))


@pytest.mark.parametrize("name", [name for name in (*COMPOSED, "opt2vec") if name != "everything"])
def test_what_nobody_reads_is_not_in_the_fingerprint(name):
    assert_fingerprints_tell(ALL[name])


def test_the_design_that_has_everything_reads_every_field():
    unread = [name for name, other in changed(EVERYTHING) if other.fingerprint == EVERYTHING.fingerprint]
    # All groups are chosen already.
    assert [name.split(" = ")[0] for name in unread] == ["features.groups"]


@pytest.mark.parametrize(("one", "other"), [
    (LearnedOptimizer(Features(groups=("lean",))),
     LearnedOptimizer(Features(groups=("normalised_gradient", "momentum", "normalised_momentum")))),
    (LearnedOptimizer(Features(factored_decays=(0.5,), groups=("compact",))),
     LearnedOptimizer(Features(groups=("compact",)))),
    (LearnedOptimizer(tensors=TensorFeatures(groups=("depth",)), controls=Controls(context_size=3)),
     LearnedOptimizer()),
    (LearnedOptimizer(rule=NoRule(), head=Raw(), features=Features(groups=("adam",))), LearnedOptimizer(rule=NoRule())),
    (replace(EVERYTHING, tensors=TensorFeatures(groups=("size", "gradient"))),
     replace(EVERYTHING, tensors=TensorFeatures(groups=("gradient", "size")))),
    (replace(COMPOSED["transformer"], tensors=TensorFeatures(groups=("size", "second_moment"))),
     replace(COMPOSED["transformer"], tensors=TensorFeatures(groups=("size",)))),
    (LearnedOptimizer(base=AdamW(weight_decay=1)), LearnedOptimizer(base=AdamW(weight_decay=1.0))),
], ids=["sets of groups", "unread decays", "no controller", "no rule", "order of tensor groups", "nothing kept",
        "whole numbers"])
def test_designs_that_compute_the_same_are_one(one, other):
    assert one.fingerprint == other.fingerprint
    assert networkx.utils.graphs_equal(one.graph(), other.graph())


def measured(design, params):
    weights, one = design.init_weights(generator(0)), torch.ones(1)
    state = design.init(params)
    with FlopCounterMode(display=False) as counter:
        design.update(weights, Observation(params, params, one, loss=one, num_steps=one), state)
    return counter.get_total_flops(), sum(leaf.numel() * leaf.element_size() for leaf in state.values())


@every_design
def test_costs_are_those_of_a_real_step(design):
    params = {name: torch.ones(shape) for name, shape in {**SHAPES, "twin": (4,), "two blocks": (150, 150)}.items()}
    costs = design.costs(params)
    assert (costs.flops, costs.state_bytes) == measured(design, params)
    empty = {name: torch.ones(0) for name in params}
    assert costs.tensor_flops == measured(design, empty)[0]
    assert design.costs(Layout.of(params)) == costs


# Multiply-adds in a layer of 128 x 128 with a bias: 16512 parameters, 256 rows, of which 128 have columns too.
SMALL_FC = (16512 * (32 * 16 + 32 * 32 + 32 * 2)  # own features, second layer, readout
            + 32 * 6 * (256 + 128 + 256)          # rows; columns; rows as columns, for the bias
            + 32 * 11)                            # time


@pytest.mark.parametrize(("name", "multiply_adds", "numbers_kept"), [
    ("small_fc", SMALL_FC, 1 + 16512 * (3 + 1) + 3 * (256 + 128)),
    ("lstm_2016", 16512 * (2 * 80 + 3 * 20 * 80 + 20), 1 + 16512 * (3 + 1 + 2 * 2 * 20)),
    ("opt2vec", 2 * (15 * 32 + 32 * 16 + 16), 1 + 16512 * 2 + 2 * (15 + 1 + 16)),
])
def test_costs_have_their_closed_forms(name, multiply_adds, numbers_kept):
    costs = named_design(name).costs()
    assert costs.flops == 2 * multiply_adds
    assert costs.state_bytes == 4 * numbers_kept


@pytest.mark.parametrize("name", [name for name, design in ALL.items() if not isinstance(design.rule, NoRule)])
def test_the_layers_of_a_rule_say_what_a_parameter_costs(name):
    # Without what has matrix products of its own.
    design = replace(ALL[name], controller=NoController(), memory=NoMemory(), base=ALL[name].base and AdamW())
    once = sum(flops for _, flops in design.graph().nodes(data="flops_per_parameter", default=0))
    # What one more parameter costs, without the row or the column that it is in.
    flops = [[design.costs({"matrix": torch.ones(rows, columns)}).flops for columns in (8, 9)] for rows in (4, 5)]
    assert once == flops[1][1] - flops[1][0] - flops[0][1] + flops[0][0]
