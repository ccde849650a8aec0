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
    controls = ["controller"] if config["controller"]["kind"] != "none" else []
    for node in controls:
        graph.add_node(node, **config["controller"])
        graph.add_edge("observation", node)
    last = _rule(graph, features, config["rule"], controls) if config["rule"]["kind"] != "none" else []
    slots = ("head", "mixing", "schedule") if last else ("schedule",)
    for slot in slots:
        graph.add_node(slot, **config[slot])
    graph.add_node("step", kind="step")
    graph.add_edges_from([(node, "step") for node in ("schedule", *controls)])
    if last:
        graph.add_edges_from([(last[0], "head"), ("head", "mixing"), ("mixing", "step")])
    if "base" in config:
        graph.add_node("base", **config["base"])
        graph.add_edges_from([("observation", "base"), ("base", "mixing" if last else "step")])
    return graph


def _rule(graph: "networkx.DiGraph[str]", features: Features, rule: Config, controls: list[str]) -> list[str]:
    """Adds groups of features and layers; returns the last layer."""
    for name in features.names:
        graph.add_node(name, kind=name, width=features.width(name))
        graph.add_edge("observation", name)
    last = [*features.names, *controls]
    for index in range(rule["num_layers"]):
        layer = f"{rule['kind']}{index}"
        graph.add_node(layer, **rule)
        graph.add_edges_from((before, layer) for before in last)
        last = [layer]
    return last
