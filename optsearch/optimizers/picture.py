"""What a design looks like: a box a part, and what flows between them; or a few words."""

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from optsearch import pictures
from optsearch.optimizers.graph import Structure

if TYPE_CHECKING:
    from optsearch.optimizers.optimizer import LearnedOptimizer

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
# Parts in the order in which a reader asks for them.
PARTS = ("controller", "memory", "rule", "head", "mixing", "base", "schedule")


def kinds(config: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The kind of each part that tells designs apart, without those that a design, as plain data, lacks."""
    found = {slot: config.get(slot, {}).get("kind", "none") for slot in PARTS}
    # Without a rule no head is read.
    found |= {"head": "none"} if found["rule"] == "none" else {}
    return {slot: kind for slot, kind in found.items() if kind != "none"}


def in_brief(config: Mapping[str, Mapping[str, Any]]) -> str:
    """The kinds of its parts, such as "mlp rule, adamw base"."""
    return ", ".join(f"{kind} {slot}" for slot, kind in kinds(config).items())


def line(design: "LearnedOptimizer") -> str:
    return f"<LearnedOptimizer: {in_brief(design.to_config())}; {design.costs().num_weights:,} weights>"


def html(design: "LearnedOptimizer") -> str:
    """For a notebook: its graph and its costs."""
    costs = design.costs()
    drawn = pictures.graph_svg(f"{costs.num_weights:,} weights", *_boxes_and_edges(design.structure))
    caption = (f"{in_brief(design.to_config())}: {costs.flops_per_parameter:,.0f} FLOPs and "
               f"{costs.state_bytes_per_parameter:,.1f} bytes of state a parameter and step, in a layer of 128 inputs "
               "and 128 outputs")
    return f'<div style="overflow-x: auto">{drawn}</div><small>{escape(caption)}</small>'


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
