"""The graph network over tensors, against one that walks from node to node."""

import networkx
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from optsearch.errors import DesignError
from optsearch.optimizers import GNN, ModelGraph
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator
from optsearch.trees import Tree

NUM_INPUTS = 3
NAMES = ("in.weight", "in.bias", "left.weight", "right.weight", "out.weight", "alone")
DIAMOND = (("in.weight", "in.bias", "layer"), ("in.weight", "left.weight", "feeds"),
           ("in.weight", "right.weight", "feeds"), ("left.weight", "out.weight", "feeds"),
           ("right.weight", "out.weight", "feeds"))
ACTIVATIONS = {"silu": torch.nn.SiLU(), "relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh(), "gelu": torch.nn.GELU()}


def graph_with(edges=DIAMOND) -> ModelGraph:
    return ModelGraph(dict.fromkeys(NAMES, "linear"), dict.fromkeys(NAMES, 0.5), edges)


def normal(*shape: int, purpose: str = "normal") -> Tensor:
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def moment(graph: ModelGraph, names=NAMES, batch=()) -> Moment:
    params = {name: torch.zeros(*batch, 2).double() for name in names}
    flat, clock = torch.zeros(*batch, 2 * len(names)).double(), torch.ones(*batch, 1).double()
    return Moment(Layout.of(params, len(batch)), flat, flat, clock, clock, graph=graph)


def random_weights(controller: GNN, batch=()) -> Tree:
    fresh = controller.init_weights(generator(0, "weights"), NUM_INPUTS)
    return {name: leaf.double() + 0.2 * normal(*batch, *leaf.shape, purpose=name) for name, leaf in fresh.items()}


def embed(controller: GNN, values: Tensor, graph: ModelGraph, names=NAMES) -> Tensor:
    return controller.update(random_weights(controller), values, moment(graph, names), {})[0]


def walked(controller: GNN, weights: Tree, values: Tensor, graph: networkx.MultiDiGraph) -> Tensor:
    """Node by node and neighbour by neighbour."""
    act, size = ACTIVATIONS[controller.activation], controller.hidden_size
    hidden = {name: act(weights["embed.weight"] @ values[:, index] + weights["embed.bias"])
              for index, name in enumerate(NAMES)}

    def mean(names: list[str]) -> Tensor:
        return sum((hidden[name] for name in names), torch.zeros(size).double()) / max(1, len(names))

    for layer in range(controller.num_layers):
        own, beside, before, after, everyone = weights[f"message{layer}.weight"].split(size, dim=1)
        moved = {}
        for name in NAMES:
            feeders = [start for start, _, relation in graph.in_edges(name, keys=True) if relation == "feeds"]
            fed = [end for _, end, relation in graph.out_edges(name, keys=True) if relation == "feeds"]
            mates = [end for _, end, relation in graph.out_edges(name, keys=True) if relation == "layer"]
            heard = (own @ hidden[name] + beside @ mean(mates) + before @ mean(feeders) + after @ mean(fed)
                     + everyone @ mean(list(NAMES)) + weights[f"message{layer}.bias"])
            moved[name] = hidden[name] + act(heard)
        hidden = moved
    return torch.stack([hidden[name] for name in NAMES], -1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_embeds_as_a_walk_from_node_to_node(activation: str) -> None:
    controller, values = GNN(hidden_size=4, num_layers=3, activation=activation), normal(NUM_INPUTS, len(NAMES))
    torch.testing.assert_close(embed(controller, values, graph_with()),
                               walked(controller, random_weights(controller), values, graph_with().to_networkx()))


def test_a_batch_is_its_members_and_gradients_flow() -> None:
    controller, batch = GNN(hidden_size=4), (2, 3)
    weights, values = random_weights(controller, batch), normal(*batch, NUM_INPUTS, len(NAMES)).requires_grad_()
    together, state = controller.update(weights, values, moment(graph_with(), batch=batch), {})
    assert state == {}

    def one(weights: Tree, values: Tensor) -> Tensor:
        return controller.update(weights, values, moment(graph_with()), {})[0]

    torch.testing.assert_close(together, vmap(vmap(one))(weights, values))
    (slope,) = torch.autograd.grad(together[0, 1, :, 1].sum(), values)
    # Two layers: from the bias's weight, but through the mean over all also from the tensor that is alone.
    assert slope[0, 1].ne(0).all()
    assert not slope[1].any()


def test_the_order_of_the_tensors_does_not_matter() -> None:
    controller, values = GNN(hidden_size=4), normal(NUM_INPUTS, len(NAMES))
    order = torch.randperm(len(NAMES), generator=generator(0, "order"))
    turned = embed(controller, values[:, order], graph_with(), tuple(NAMES[index] for index in order))
    torch.testing.assert_close(turned, embed(controller, values, graph_with())[:, order])


def test_the_wiring_matters_and_its_direction_does() -> None:
    controller, values = GNN(hidden_size=4), normal(NUM_INPUTS, len(NAMES))
    other = (*DIAMOND[:-1], ("right.weight", "left.weight", "feeds"))
    backwards = tuple((end, start, relation) for start, end, relation in DIAMOND)
    embeddings = [embed(controller, values, graph_with(edges)) for edges in (DIAMOND, other, backwards, ())]
    for index, first in enumerate(embeddings):
        for second in embeddings[:index]:
            assert (first - second).abs().max() > 1e-3


def test_news_travel_an_edge_a_layer() -> None:
    """Apart from what all tensors hear of all, which is silenced here."""
    values = normal(NUM_INPUTS, len(NAMES)).requires_grad_()
    for num_layers, expected in ((1, {2, 3, 4}), (2, {0, 2, 3, 4}), (3, {0, 1, 2, 3, 4})):
        controller = GNN(hidden_size=4, num_layers=num_layers)
        weights = random_weights(controller)
        for layer in range(num_layers):
            weights[f"message{layer}.weight"][:, -4:] = 0.0
        embedding, _ = controller.update(weights, values, moment(graph_with()), {})
        (slope,) = torch.autograd.grad(embedding[:, NAMES.index("out.weight")].sum(), values)
        assert {index for index in range(len(NAMES)) if slope[:, index].any()} == expected


@pytest.mark.parametrize(("fields", "message"), [
    ({"hidden_size": 0}, "must be at least 1, not 0 and 2"), ({"num_layers": 0}, "must be at least 1, not 32 and 0"),
    ({"activation": "sine"}, "no activation `sine`. Activations: gelu")])
def test_fields_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(DesignError, match=f"controller.gnn: .*{message}"):
        GNN(**fields)
