"""Conditional spaces as rows of numbers."""

import math

import conditional_function
import networkx
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.search.surrogate.encoding import MAX_GRAPHS, Encoding
from optsearch.search.surrogate.graphs import graph_features
from optsearch.search.surrogate.tree import TreeSpace


def walk(suggest):
    if suggest("kind", CategoricalDistribution(["a", "b"])) == "a":
        suggest("a.rate", FloatDistribution(1e-4, 1.0, log=True))
        suggest("a.size", IntDistribution(1, 9))


TREE = TreeSpace.of(walk)
POINTS = [{"kind": "a", "a.rate": 1e-4, "a.size": 5}, {"kind": "a", "a.rate": 1.0, "a.size": 5}, {"kind": "b"}]


def test_a_point_is_completed_with_what_is_active_and_fits():
    def never(name, distribution):
        raise AssertionError(name)

    assert TREE.complete({"kind": "b", "a.rate": 0.1, "other": 3}, never) == {"kind": "b"}
    assert TREE.complete(POINTS[0], never) == POINTS[0]
    asked = []
    TREE.complete({"kind": "a", "a.rate": 7.0, "a.size": 3}, lambda name, _: asked.append(name))
    assert asked == ["a.rate"]
    assert not TREE.has("kind", "c")
    assert not TREE.has("other", 1)


def test_columns_say_where_values_lie_and_what_is_active():
    encoding = Encoding(TREE)
    rows = encoding.encode(POINTS)
    torch.testing.assert_close(rows[:, encoding.units], torch.tensor([[0, 0.5], [1, 0.5], [0.5, 0.5]]).double())
    torch.testing.assert_close(rows[:, encoding.active], torch.tensor([[1, 1], [1, 1], [0, 0]]).double())
    torch.testing.assert_close(rows[:, encoding.choices], torch.tensor([[1, 0], [1, 0], [0, 1]]).double())
    assert rows.shape[1] == encoding.graph.stop == encoding.graph.start


def test_values_come_back_from_their_units():
    encoding = Encoding(conditional_function.tree())
    for point in encoding.tree.sample(seed=3, count=20):
        for name in set(encoding.ranges) & set(point):
            assert encoding.value(name, encoding.unit(name, point[name])) == pytest.approx(point[name])


def test_what_is_inactive_is_as_far_as_another_choice():
    encoding = Encoding(TREE)
    first, second, third = encoding.embedded(encoding.encode(POINTS))
    assert (first - second).square().sum() == pytest.approx(2.0)
    assert (first - third).square().sum() == pytest.approx(1 + 1 + 1)
    assert (third - third).square().sum() == 0
    pairs = encoding.embedded(encoding.encode(draws := TREE.sample(seed=0, count=500)))
    expected = torch.cdist(pairs, pairs).square().mean() / (sum(map(len, draws)) / 500)
    assert encoding.spread == pytest.approx(float(expected))


def test_blocks_are_what_is_active_together():
    encoding = Encoding(conditional_function.tree())
    kinds = [{f"{kind}.{name}" for name in ("size", "width", "depth")} for kind in conditional_function.KINDS]
    assert set(encoding.blocks) == {frozenset({"kind", "rate", "momentum", "decay", "mode"}), *map(frozenset, kinds)}
    assert encoding.implies("mlp.size", "kind")
    assert not encoding.implies("kind", "mlp.size")
    rows = encoding.encode(encoding.tree.sample(seed=1, count=10))
    for name in ("kind", "mlp.width"):
        active = [float(name in point) for point in encoding.tree.sample(seed=1, count=10)]
        assert rows[:, encoding.columns_of(name)].sum(1).tolist() == active


def graph(*edges):
    found = networkx.DiGraph(edges)
    for node in found:
        found.nodes[node]["op"] = node[0]
    return found


def test_graphs_are_alike_whatever_their_nodes_are_called_but_not_backwards():
    one, same, back = graph(("a", "b"), ("b", "c")), graph(("a1", "b1"), ("b1", "c1")), graph(("c", "b"), ("b", "a"))
    torch.testing.assert_close(graph_features(one), graph_features(same))
    assert graph_features(one).norm() == pytest.approx(1.0)
    # The same nodes, so a third of the features; the middle has other neighbours, and so have the ends.
    assert graph_features(one) @ graph_features(back) == pytest.approx(1 / 3, abs=0.05)
    # Two of one label weigh the root of two of one.
    two = graph(("a", "b"), ("a1", "b"))
    assert two.number_of_nodes() == 3
    counts = graph_features(two)[:128]
    assert sorted(counts[counts > 0].tolist()) == pytest.approx([1 / 3, math.sqrt(2) / 3])


def test_few_graphs_are_kept(monkeypatch):
    drawn = []

    def to_graph(point):
        drawn.append(point["x"])
        return graph(("a", "b"))

    assert MAX_GRAPHS > 1000
    monkeypatch.setattr("optsearch.search.surrogate.encoding.MAX_GRAPHS", 2)
    encoding = Encoding(TreeSpace.flat({"x": IntDistribution(0, 9)}), to_graph)
    encoding.encode([{"x": 1}, {"x": 2}, {"x": 1}, {"x": 3}, {"x": 1}, {"x": 2}])
    assert drawn == [1, 2, 3, 2]
