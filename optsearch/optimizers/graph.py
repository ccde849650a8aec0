"""A design as a directed graph: the parts as nodes, what flows between them as edges."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx

    from optsearch.optimizers.optimizer import LearnedOptimizer


def graph_of(design: "LearnedOptimizer") -> "networkx.DiGraph[str]":
    """The design's graph; every node has `kind`, and the fields of its part as further attributes.

    Groups of features are nodes of their own, and so are the layers of the rule.
    """
    import networkx

    graph = networkx.DiGraph()
    graph.add_node("gradient", kind="gradient")
    config = design.to_config()
    for name in design.features.names:
        graph.add_node(name, kind=name, width=design.features.width(name))
        if name not in ("time", "progress"):
            graph.add_edge("gradient", name)
    last = list(design.features.names)
    for index in range(design.rule.num_layers):
        layer = f"{config['rule']['kind']}{index}"
        graph.add_node(layer, **config["rule"])
        graph.add_edges_from((before, layer) for before in last)
        last = [layer]
    for slot in ("head", "mixing", "schedule"):
        graph.add_node(slot, **config[slot])
    graph.add_edges_from([(last[0], "head"), ("head", "mixing"), ("mixing", "step"), ("schedule", "step")])
    graph.nodes["step"]["kind"] = "step"
    if design.base is not None:
        graph.add_node("base", **config["base"])
        graph.add_edges_from([("gradient", "base"), ("base", "mixing")])
    return graph
