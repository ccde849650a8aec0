"""The picture of a design: a box a part, and what flows between them."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from optsearch import pictures
from optsearch.optimizers.graph import Structure

# What nodes of each slot are drawn as; others are where a step begins and ends.
KINDS = {"features": "per parameter", "rule": "per parameter", "head": "per parameter", "mixing": "per parameter",
         "tensors": "per tensor", "memory": "per tensor", "controller": "per tensor", "controls": "per tensor",
         "base": "hand-made", "schedule": "schedule"}
# Slots whose layers are drawn as one box.
STACKS = ("rule", "controller")
# What a box says in words of its own, or not at all.
UNSPOKEN_KINDS = ("settings", "average")
NOT_IN_LINES = ("slot", "kind", "width", "num_weights", "num_layers", "is_learned", "flops_per_parameter",
                "normalize_eps", "sets", "decays")
MOST_FIELDS, LINE_LENGTH = 3, 20


def svg(title: str, structure: Structure) -> str:
    """The same as `draw` draws, as an element for a page."""
    return pictures.graph_svg(title, *_boxes_and_edges(structure))


def draw(path: Path, title: str, structure: Structure) -> None:
    """A box a node, but one for all layers of the rule and one for those of the controller."""
    pictures.graph(path, title, *_boxes_and_edges(structure))


def _boxes_and_edges(structure: Structure) -> tuple[dict[str, pictures.Box], set[tuple[str, str]]]:
    owners = {node: attributes["slot"] if attributes["slot"] in STACKS else node
              for node, attributes in structure.nodes.items()}
    boxes = {}
    for owner in dict.fromkeys(owners.values()):
        nodes = {node: attributes for node, attributes in structure.nodes.items() if owners[node] == owner}
        first = next(iter(nodes.values()))
        boxes[owner] = pictures.Box(_title(owner, first), tuple(_lines(owner, nodes)), KINDS.get(first["slot"], ""))
    edges = {(owners[start], owners[end]) for start, end in structure.edges}
    return boxes, {(start, end) for start, end in edges if start != end}


def _title(node: str, attributes: dict[str, Any]) -> str:
    words = node.rpartition(".")[2].replace("_", " ")
    return f"{words} × {attributes['width']}" if attributes.get("width", 1) > 1 else words


def _lines(owner: str, nodes: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What tells most of the nodes in one box; the first has the fields of its part."""
    first = next(iter(nodes.values()))
    if not owner.endswith(first["kind"]) and first["kind"] not in UNSPOKEN_KINDS:
        yield first["kind"]
    yield from wrap(value_in_words(first.get("decays", "")), LINE_LENGTH)
    yield from wrap(", ".join(first.get("sets", ())), LINE_LENGTH)
    fields = [_telling(key, value) for key, value in first.items() if key not in NOT_IN_LINES and value]
    yield from fields[:MOST_FIELDS]
    if first.get("is_learned"):
        yield "learned"
    for node, attributes in nodes.items():
        if "num_weights" in attributes:
            layer = re.sub(r"(\d+)$", r" \1", node.rpartition(".")[2])
            yield f"{layer}: {attributes['num_weights']} weights" if node != owner else (
                f"{attributes['num_weights']} weights")


def _telling(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    return words if value is True else value if isinstance(value, str) else f"{words} {value_in_words(value)}"


def value_in_words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(value_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
