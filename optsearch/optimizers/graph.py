"""A design as a directed graph: the parts as nodes, what flows between them as edges."""

from typing import TYPE_CHECKING

from optsearch.optimizers.features import Features
from optsearch.optimizers.part import Config

if TYPE_CHECKING:
    import networkx


def graph_of(features: Features, config: dict[str, Config]) -> "networkx.DiGraph[str]":
    """The graph of the design that has these features and this config.

    Groups of features and layers of the rule are nodes of their own. Every node has `kind`, and the fields of
    its part as further attributes.
    """
    # Takes most of a second to import, which who only trains with a design does without.
    import networkx

    graph = networkx.DiGraph()
    graph.add_node("observation", kind="observation")
    for name in features.names:
        graph.add_node(name, kind=name, width=features.width(name))
        graph.add_edge("observation", name)
    last = list(features.names)
    for index in range(config["rule"]["num_layers"]):
        layer = f"{config['rule']['kind']}{index}"
        graph.add_node(layer, **config["rule"])
        graph.add_edges_from((before, layer) for before in last)
        last = [layer]
    for slot in ("head", "mixing", "schedule"):
        graph.add_node(slot, **config[slot])
    graph.add_node("step", kind="step")
    graph.add_edges_from([(last[0], "head"), ("head", "mixing"), ("mixing", "step"), ("schedule", "step")])
    if "base" in config:
        graph.add_node("base", **config["base"])
        graph.add_edges_from([("observation", "base"), ("base", "mixing")])
    return graph
