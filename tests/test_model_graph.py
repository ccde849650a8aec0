"""The graph of a model's tensors, against drawings made by hand."""

import copy
import pickle
from itertools import pairwise

import networkx
import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from optsearch.optimizers import ModelGraph
from optsearch.optimizers.layout import Layout


class Residual(nn.Module):
    """stem -> block -> head, and stem -> head past the block."""

    def __init__(self):
        super().__init__()
        self.head, self.block, self.stem = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, inputs, is_scaled=True, mask=None):
        hidden = self.stem(inputs)
        if is_scaled:
            hidden = hidden + self.block(hidden).relu()
        if mask is not None:
            hidden = hidden * mask
        return self.head(hidden)


class Language(nn.Module):
    """Output weights tied to the embedding, and a parameter of its own for positions."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm, self.output = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 7)
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.output.weight = self.tokens.weight

    def forward(self, inputs):
        return self.output(self.norm(self.tokens(inputs) + self.positions[:inputs.shape[1]]))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, inputs):
        torch.randn(3)
        if inputs.sum() > 0:
            return self.third(self.first(inputs))
        return self.second(inputs)


class ByHand(nn.Module):
    """Weights that no layer owns, made ready before data meets them."""

    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))
        self.w2, self.b2 = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))

    def forward(self, inputs):
        hidden = inputs @ self.w1.t() + self.b1
        return hidden + nn.functional.linear(hidden.relu(), 0.5 * self.w2, self.b2)


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def transformer():
    return nn.Sequential(nn.Embedding(7, 8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 7))


def chain_of(*names):
    return set(pairwise(names))


def feeds(graph):
    return {(start, end) for start, end, relation in graph.edges if relation == "feeds"}


def layers(graph):
    return {frozenset((start, end)) for start, end, relation in graph.edges if relation == "layer"}


def shapes_of(module):
    return tuple((name, tuple(param.shape)) for name, param in module.named_parameters())


TRANSFORMER = [f"1.{name}.weight" for name in ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")]
DRAWINGS = {
    "mlp": (mlp, chain_of("0.weight", "2.weight", "4.weight")),
    "cnn": (cnn, chain_of("0.weight", "1.weight", "4.weight")),
    "residual": (Residual, chain_of("stem.weight", "block.weight", "head.weight") | {("stem.weight", "head.weight")}),
    "tied": (Language, chain_of("tokens.weight", "positions", "norm.weight", "tokens.weight")),
    "transformer": (transformer, chain_of("0.weight", "1.self_attn.in_proj_weight", *TRANSFORMER, "2.weight")),
    "untraceable": (Untraceable, chain_of("first.weight", "second.weight", "third.weight")),
    "by hand": (ByHand, chain_of("w1", "w2")),
    "lstm": (lambda: nn.LSTM(2, 3, num_layers=2), {("weight_hh_l0", "weight_hh_l1")}),
}
every_module = pytest.mark.parametrize("factory", [factory for factory, _ in DRAWINGS.values()], ids=DRAWINGS)


@pytest.mark.parametrize(("factory", "expected"), DRAWINGS.values(), ids=DRAWINGS)
def test_layers_feed_each_other_as_data_flows(factory, expected):
    assert feeds(ModelGraph.of_module(factory())) == expected


def test_a_tensor_that_layers_share_has_the_edges_of_all():
    graph = ModelGraph.of_module(Language())
    assert layers(graph) == {frozenset(("norm.weight", "norm.bias")), frozenset(("tokens.weight", "output.bias"))}
    assert graph.kind("tokens.weight") == "embedding"
    assert (graph.depth("tokens.weight"), graph.depth("output.bias")) == (0, 1)


@pytest.mark.parametrize(("factory", "kinds"), [
    (cnn, {"0.weight": "conv", "0.bias": "bias", "1.weight": "norm", "1.bias": "bias", "4.weight": "linear"}),
    (transformer, {"0.weight": "embedding", "1.self_attn.in_proj_weight": "attention", "1.norm1.weight": "norm",
                   "1.self_attn.out_proj.weight": "attention", "1.self_attn.in_proj_bias": "bias",
                   "1.linear1.weight": "linear", "1.linear1.bias": "bias", "2.weight": "linear"}),
    (Language, {"positions": "linear", "norm.weight": "norm", "norm.bias": "bias"}),
])
def test_kinds_are_those_of_the_modules(factory, kinds):
    graph = ModelGraph.of_module(factory())
    assert {name: graph.kind(name) for name in kinds} == kinds


def test_depth_is_the_longest_way_to_a_layer():
    graph = ModelGraph.of_module(Residual())
    assert {name: graph.depth(name) for name in graph.kinds} == {
        "stem.weight": 0, "stem.bias": 0, "block.weight": 0.5, "block.bias": 0.5, "head.weight": 1, "head.bias": 1}


def test_looking_at_a_module_leaves_no_trace():
    module = Untraceable()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ModelGraph.of_module(module)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(leaf, before[name]) for name, leaf in module.state_dict().items())


def test_frozen_and_unused_params_break_nothing():
    module = Residual()
    module.unused, module.block.weight.requires_grad = nn.Linear(2, 2), False
    graph = ModelGraph.of_module(module)
    assert set(graph.kinds) == set(dict(module.named_parameters()))
    assert graph.depth("unused.weight") == 0.5


def test_names_say_what_a_module_of_the_same_names_would():
    for factory in (mlp, cnn):
        guessed, known = ModelGraph.of_names(shapes_of(factory())), ModelGraph.of_module(factory())
        assert (guessed.kinds, guessed.depths, guessed.edges) == (known.kinds, known.depths, known.edges)


def test_layers_are_counted_as_numbers_and_kinds_read_from_names():
    shapes = {f"h.{index}.{leaf}": shape for index in range(11)
              for leaf, shape in (("attn.qkv.weight", (9, 3)), ("ln.weight", (3,)), ("ln.bias", (3,)))}
    graph = ModelGraph.of_names((*shapes.items(), ("g.wte.weight", (5, 3)), ("conv1.weight", (2, 2, 3, 3))))
    assert ("h.9.ln.weight", "h.10.attn.qkv.weight") in feeds(graph)
    assert graph.depth("h.10.ln.bias") == 1
    assert [graph.kind(name) for name in ("h.0.attn.qkv.weight", "h.0.ln.weight", "h.0.ln.bias", "g.wte.weight",
                                          "conv1.weight")] == ["attention", "norm", "bias", "embedding", "conv"]


@every_module
def test_the_order_of_the_names_does_not_matter(factory):
    shapes = shapes_of(factory())
    first, second = ModelGraph.of_names(shapes), ModelGraph.of_names(shapes[::-1])
    assert (first.kinds, first.depths, first.edges) == (second.kinds, second.depths, second.edges)
    assert ModelGraph.of_names(shapes) is first


@every_module
def test_rows_are_means_over_neighbours_in_the_order_of_the_layout(factory):
    module = factory()
    graph, params = ModelGraph.of_module(module), dict(module.named_parameters()) | {"stranger": torch.ones(2)}
    shares = graph.adjacency(Layout.of(params), torch.ones(()).double())
    sums = shares.sum(-1)
    torch.testing.assert_close(sums, sums.round())
    assert sums.le(1 + 1e-12).all()
    assert not shares[:, -1].any()
    assert torch.equal(shares[0] > 0, shares[0].T > 0)
    assert torch.equal(shares[1] > 0, shares[2].T > 0)
    names = list(params)
    for start, end in feeds(graph):
        assert shares[1, names.index(end), names.index(start)] > 0
    order = torch.randperm(len(params), generator=torch.Generator().manual_seed(0))
    turned = graph.adjacency(Layout.of({names[index]: params[names[index]] for index in order}), shares)
    torch.testing.assert_close(turned, shares[:, order][:, :, order])


def test_adjacency_can_be_made_inside_transforms_and_used_outside():
    params = dict(mlp().named_parameters())
    graph, layout = ModelGraph.of_names(tuple((name, tuple(leaf.shape)) for name, leaf in params.items())), Layout.of(
        params)
    values = torch.randn(2, len(params))
    inside = vmap(lambda each: graph.adjacency(layout, each) @ each)(values)
    traced = make_fx(lambda each: graph.adjacency(layout, each) @ each)(values[0])(values[0])
    outside = graph.adjacency(layout, values) @ values[0]
    torch.testing.assert_close(inside[0], outside)
    torch.testing.assert_close(traced, outside)


@pytest.mark.parametrize("factory", [mlp, cnn, Residual, transformer, Untraceable, ByHand])
def test_networkx_sees_the_same_graph_and_no_circle(factory):
    graph = ModelGraph.of_module(factory())
    drawn = graph.to_networkx()
    assert dict(drawn.nodes(data="kind")) == graph.kinds
    fed = networkx.DiGraph((start, end) for start, end, relation in drawn.edges(data="relation")
                           if relation == "feeds")
    assert set(fed.edges) == feeds(graph)
    assert networkx.is_directed_acyclic_graph(fed)
    assert all(graph.depth(start) < graph.depth(end) for start, end in fed.edges)
    assert {frozenset(edge[:2]) for edge in drawn.edges(keys=True) if edge[2] == "layer"} == layers(graph)


def test_a_part_of_the_graph_under_other_names():
    graph = ModelGraph.of_module(Residual())
    part = graph.restricted({"0": "head.weight", "1": "stem.weight", "2": "stem.bias", "3": "nothing"})
    assert (feeds(part), layers(part)) == ({("1", "0")}, {frozenset("12")})
    assert (part.kind("2"), part.depth("0"), part.kind("3"), part.depth("3")) == ("bias", 1, "other", 0.5)
    assert graph.restricted({"0": "head.weight"}) is graph.restricted({"0": "head.weight"})


def test_unconnected_tensors_have_the_kinds_of_their_shapes():
    graph = ModelGraph.unconnected((("0", (3, 2)), ("1", (3,)), ("2", (2, 2, 3, 3))))
    assert [graph.kind(name) for name in "012"] == ["linear", "bias", "conv"]
    assert graph.edges == ()
    assert {graph.depth(name) for name in "012"} == {0.5}


def test_a_graph_can_be_pickled():
    graph = ModelGraph.of_module(Residual())
    other = pickle.loads(pickle.dumps(graph))
    assert (other.kinds, other.depths, other.edges) == (graph.kinds, graph.depths, graph.edges)
