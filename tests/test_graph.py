"""A design's graph: acyclic, from what is observed to the step, and different for different designs."""

from dataclasses import replace

import networkx
import pytest

from optsearch.optimizers import DESIGNS, MLP, Gated, named_design


def fingerprint(name: str, **changes: object) -> str:
    graph = replace(named_design(name), **changes).graph()  # type: ignore[arg-type]
    for _, attributes in graph.nodes(data=True):
        attributes["label"] = str(sorted(attributes.items()))
    return networkx.weisfeiler_lehman_graph_hash(graph, node_attr="label")


@pytest.mark.filterwarnings("ignore:The hashes produced for directed graphs")
@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_flows_from_the_observation_to_the_step(name: str) -> None:
    design = named_design(name)
    graph = design.graph()
    assert networkx.is_directed_acyclic_graph(graph)
    assert networkx.has_path(graph, "observation", "step")
    assert [node for node in graph if graph.out_degree(node) == 0] == ["step"]
    assert ("base" in graph) == (design.base is not None)
    assert all("kind" in attributes for _, attributes in graph.nodes(data=True))
    assert fingerprint(name) == fingerprint(name)


@pytest.mark.filterwarnings("ignore:The hashes produced for directed graphs")
def test_designs_that_differ_have_graphs_that_differ() -> None:
    found = [fingerprint(name) for name in DESIGNS]
    found += [fingerprint("adamw_mlp", rule=MLP(hidden_size=4)), fingerprint("adamw_mlp", mixing=Gated()),
              fingerprint("adamw_mlp", rule=MLP(num_layers=1))]
    assert len(set(found)) == len(found)
