"""The Transformer over tensors and steps, against torch's encoder and a plain attention over whole sequences."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from optsearch.errors import DesignError
from optsearch.optimizers import Transformer
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator
from optsearch.trees import prefixed, within

NUM_INPUTS, NUM_TENSORS = 3, 5
OVER_TENSORS = Transformer(hidden_size=8, num_layers=3, num_heads=4, attends="tensors")
OVER_STEPS = Transformer(hidden_size=8, num_layers=3, num_heads=2, attends="steps", sequence_length=4)
OVER_BOTH = Transformer(hidden_size=4, num_layers=2, num_heads=2, attends="both", sequence_length=3)


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def random_weights(controller, batch=()):
    """Away from the start, where norms do nothing."""
    fresh = controller.init_weights(generator(0, "weights"), NUM_INPUTS)
    return {name: leaf.double() + 0.2 * normal(*batch, *leaf.shape, purpose=name) for name, leaf in fresh.items()}


def moment(step, batch=()):
    values = torch.zeros(*batch, NUM_TENSORS).double()
    return Moment(Layout.of({"p": values}, len(batch)), values, values, torch.full((*batch, 1), step).double(),
                  torch.zeros(*batch, 1).double())


def empty(controller, batch=()):
    return controller.init(torch.zeros(*batch, 7).double(), NUM_TENSORS, NUM_INPUTS)


def run(controller, weights, sequence):
    """Embeddings `[steps, ..., e, tensors]` of `sequence` `[steps, ..., f, tensors]`, one step after the other."""
    batch = sequence.shape[1:-2]
    state, embeddings = empty(controller, batch), []
    for step, values in enumerate(sequence, start=1):
        embedding, state = controller.update(weights, values, moment(step, batch), state)
        embeddings.append(embedding)
    return torch.stack(embeddings)


def torch_encoder(controller, num_inputs):
    size = controller.hidden_size
    layer = nn.TransformerEncoderLayer(size, controller.num_heads, controller.feedforward_ratio * size, dropout=0.0,
                                       activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    return nn.ModuleDict({
        "embed": nn.Linear(num_inputs, size, dtype=torch.float64),
        "encoder": nn.TransformerEncoder(layer, controller.num_layers, nn.LayerNorm(size, dtype=torch.float64),
                                         enable_nested_tensor=False)})


def in_torchs_names(weights):
    names = {"attention_in.": "self_attn.in_proj_", "attention_out.": "self_attn.out_proj.",
             "feedforward_in.": "linear1.", "feedforward_out.": "linear2.", "layer": "encoder.layers.",
             "norm.": "encoder.norm."}

    def torchs(name):
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        return name

    return {torchs(name): leaf for name, leaf in weights.items()}


def whole_sequence(controller, weights, sequence):
    """The same as `run`, by attention of every step to the whole sequence with a mask, one tensor's history a batch."""
    layer_names = [f"layer{index}" for index in range(controller.num_layers)]
    num_heads, size = controller.num_heads, controller.hidden_size
    ages = torch.arange(len(sequence))[:, None] - torch.arange(len(sequence))
    # The paper's geometric sequence: for 8 heads 1/2, 1/4, ..., 1/256.
    slopes = torch.tensor([2**(-8 * head / num_heads) for head in range(1, num_heads + 1)]).double()
    bias = torch.where((ages >= 0) & (ages < controller.sequence_length), -ages * slopes[:, None, None], -torch.inf)

    def norm(tree, name, values):
        return nn.functional.layer_norm(values, (size,), tree[f"{name}.weight"], tree[f"{name}.bias"])

    def linear(tree, name, values):
        return nn.functional.linear(values, tree[f"{name}.weight"], tree[f"{name}.bias"])

    hidden = linear(weights, "embed", sequence.permute(2, 0, 1))
    for layer in (within(name, weights) for name in layer_names):
        projected = linear(layer, "attention_in", norm(layer, "norm1", hidden))
        queries, keys, values = projected.view(NUM_TENSORS, -1, 3, num_heads, size // num_heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        hidden = hidden + linear(layer, "attention_out", seen.transpose(1, 2).flatten(-2))
        wide = nn.functional.gelu(linear(layer, "feedforward_in", norm(layer, "norm2", hidden)))
        hidden = hidden + linear(layer, "feedforward_out", wide)
    return norm(weights, "norm", hidden).permute(1, 2, 0)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_over_tensors_it_is_torchs_encoder(batch):
    weights, values = random_weights(OVER_TENSORS, batch), normal(*batch, NUM_INPUTS, NUM_TENSORS)
    embedding, state = OVER_TENSORS.update(weights, values, moment(1, batch), {})
    assert state == {}
    network = torch_encoder(OVER_TENSORS, NUM_INPUTS)
    for index in product(*map(range, batch)):
        network.load_state_dict(in_torchs_names({name: leaf[index] for name, leaf in weights.items()}))
        expected = network["encoder"](network["embed"](values[index].mT[None]))[0].mT
        torch.testing.assert_close(embedding[index], expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attends", ["tensors", "steps", "both"])
def test_it_has_as_many_weights_as_torchs_encoder(attends):
    controller = Transformer(hidden_size=256, num_layers=4, num_heads=8, attends=attends)
    weights = controller.init_weights(generator(0, "weights"), 20)
    shapes = {name: leaf.shape for name, leaf in in_torchs_names(weights).items()}
    assert shapes == {name: leaf.shape for name, leaf in torch_encoder(controller, 20).state_dict().items()}
    blocks = sum(leaf.numel() for name, leaf in weights.items() if name.startswith("layer"))
    assert blocks == 3_159_040


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("sequence_length", [1, 4, 20])
def test_over_steps_one_by_one_equals_the_whole_sequence(num_layers, sequence_length):
    controller = Transformer(hidden_size=8, num_layers=num_layers, num_heads=2, attends="steps",
                             sequence_length=sequence_length)
    weights, sequence = random_weights(controller), normal(11, NUM_INPUTS, NUM_TENSORS)
    torch.testing.assert_close(run(controller, weights, sequence), whole_sequence(controller, weights, sequence),
                               rtol=1e-10, atol=1e-10)


def test_layers_over_steps_remember_so_long_and_no_longer():
    weights, sequence = random_weights(OVER_STEPS), normal(14, NUM_INPUTS, NUM_TENSORS)
    other = torch.cat([sequence[:1] + 1, sequence[1:]])
    reach = OVER_STEPS.num_layers * (OVER_STEPS.sequence_length - 1)
    difference = (run(OVER_STEPS, weights, sequence) - run(OVER_STEPS, weights, other)).abs().amax((1, 2))
    assert (difference[:reach + 1] > 1e-9).all()
    assert (difference[reach + 1:] == 0).all()


def test_over_both_tensors_first_and_then_steps():
    """One layer over steps, fed by one layer over tensors, as two controllers."""
    weights, sequence = random_weights(OVER_BOTH), normal(6, NUM_INPUTS, NUM_TENSORS)
    size, one_layer = OVER_BOTH.hidden_size, {"hidden_size": 4, "num_layers": 1, "num_heads": 2, "sequence_length": 3}
    names = ("attention_in", "attention_out", "feedforward_in", "feedforward_out", "norm1", "norm2")
    assert {name.split(".")[1] for name in weights if name.startswith("layer")} == set(names)
    # The residual stream between the layers, without the norm that ends a controller.
    stream = torch.stack([before_norm(Transformer(**one_layer, attends="tensors"), weights, values)
                          for values in sequence])
    passing = {"embed.weight": torch.eye(size).double(), "embed.bias": torch.zeros(size).double(),
               **prefixed("layer0", within("layer1", weights)), **prefixed("norm", within("norm", weights))}
    expected = run(Transformer(**one_layer, attends="steps"), passing, stream)
    torch.testing.assert_close(run(OVER_BOTH, weights, sequence), expected, rtol=1e-10, atol=1e-10)


def before_norm(controller, weights, values):
    network = torch_encoder(controller, NUM_INPUTS)
    own = {name: leaf for name, leaf in weights.items() if not name.startswith("layer1")}
    network.load_state_dict(in_torchs_names(own))
    return network["encoder"].layers[0](network["embed"](values.mT[None]))[0].mT.detach()


@pytest.mark.parametrize("controller", [OVER_TENSORS, OVER_STEPS, OVER_BOTH], ids=lambda one: one.attends)
def test_the_order_of_tensors_does_not_matter(controller):
    weights, sequence = random_weights(controller), normal(6, NUM_INPUTS, NUM_TENSORS)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(run(controller, weights, sequence[..., order]),
                               run(controller, weights, sequence)[..., order])


@pytest.mark.parametrize("controller", [OVER_TENSORS, OVER_STEPS, OVER_BOTH], ids=lambda one: one.attends)
def test_a_batch_equals_its_members_and_what_vmap_makes_of_them(controller):
    weights, sequence = random_weights(controller, (2,)), normal(6, 2, NUM_INPUTS, NUM_TENSORS)
    together = run(controller, weights, sequence)
    for index in range(2):
        alone = run(controller, {name: leaf[index] for name, leaf in weights.items()}, sequence[:, index])
        torch.testing.assert_close(together[:, index], alone)
    mapped = vmap(lambda tree, values: run(controller, tree, values), in_dims=(0, 1), out_dims=1)(weights, sequence)
    torch.testing.assert_close(mapped, together)


def test_slopes_of_slopes_are_right():
    weights, sequence = random_weights(OVER_BOTH), normal(4, NUM_INPUTS, NUM_TENSORS)
    direction = {name: normal(*leaf.shape, purpose=("direction", name)) for name, leaf in weights.items()}
    target = normal(4, OVER_BOTH.hidden_size, NUM_TENSORS, purpose="target")

    def slope_along(tree):
        slopes = grad(lambda own: (run(OVER_BOTH, own, sequence) * target).sum())(tree)
        return sum((slopes[name] * direction[name]).sum() for name in slopes)

    second = grad(slope_along)(weights)
    curvature = sum((second[name] * direction[name]).sum() for name in second)
    ahead, behind = ({name: leaf + size * direction[name] for name, leaf in weights.items()} for size in (1e-6, -1e-6))
    assert all(leaf.isfinite().all() for leaf in second.values())
    torch.testing.assert_close(curvature, (slope_along(ahead) - slope_along(behind)) / 2e-6, rtol=1e-6, atol=1e-7)


def test_a_trace_of_the_first_step_is_right_for_later_ones():
    weights, sequence = random_weights(OVER_STEPS), normal(3, NUM_INPUTS, NUM_TENSORS)

    def update(values, count, before):
        return OVER_STEPS.update(weights, values, replace(moment(1), step=count), before)

    steps = [torch.full((1,), step).double() for step in (1, 2, 3)]
    traced = make_fx(update)(sequence[0], steps[0], empty(OVER_STEPS))
    state = expected = empty(OVER_STEPS)
    for values, step in zip(sequence, steps, strict=True):
        (found, state), (embedding, expected) = traced(values, step, state), update(values, step, expected)
        torch.testing.assert_close((found, state), (embedding, expected))


@pytest.mark.parametrize(("fields", "message"), [
    ({"hidden_size": 6}, "hidden_size must be a multiple of num_heads, not 6 with 4 heads"),
    ({"sequence_length": 0}, r"must be at least 1, not \(64, 2, 4, 0, 4\)"),
    ({"attends": "all"}, "attends must be one of tensors, steps, both, not 'all'"),
    ({"num_layers": 1}, "to attend to both, num_layers must be at least 2, not 1"),
], ids=str)
def test_values_that_do_not_fit_are_refused_with_advice(fields, message):
    with pytest.raises(DesignError, match=f"controller.transformer: .*{message}"):
        Transformer(**fields)
