"""`optsearch designs`: the named designs, and what one is made of."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsearch.cli.options import JsonOption, emit
from optsearch.tables import columns

if TYPE_CHECKING:
    from optsearch.optimizers import Costs, LearnedOptimizer, Structure

ARTIFACT = ".safetensors"
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

designs = typer.Typer(help="The named designs of learned optimizers, and what one is made of.")


@designs.callback(invoke_without_command=True)
def listing(context: typer.Context, as_json: JsonOption = False) -> None:
    """The named designs of learned optimizers, a line each; `show` tells more of one.

    Costs are those of one step of a layer with 128 inputs and 128 outputs: FLOPs of matrix products, bytes of state.

    Example: optsearch designs
    """
    if context.invoked_subcommand is not None:
        return
    from optsearch.optimizers import DESIGNS

    costs = {name: design.costs() for name, (design, _) in DESIGNS.items()}
    rows = [(name, f"{cost.num_weights} weights", f"{cost.flops_per_parameter:.0f} FLOPs/parameter",
             f"{cost.state_bytes_per_parameter:.0f} bytes/parameter", DESIGNS[name][1])
            for name, cost in costs.items()]
    emit({name: {"num_weights": costs[name].num_weights, "costs": _costs(costs[name]), "description": text,
                 "fingerprint": design.fingerprint, "design": design.to_config()}
          for name, (design, text) in DESIGNS.items()}, as_json, columns(rows))


@designs.command("show")
def show(name: Annotated[str, typer.Argument(help="A design's name, or a file made by `optsearch export`.")],
         png: Annotated[Path | None, typer.Option(help="Draw the parts and what flows between them here.")] = None,
         as_json: JsonOption = False) -> None:
    """The parts of one design, what they cost, and a picture of it.

    Example: optsearch designs show celo2 --png celo2.png
    """
    design, text = _found(name)
    costs, structure = design.costs(), design.structure
    if png is not None:
        draw(png, f"{Path(name).stem}: {costs.num_weights} weights", structure)
    content = {"name": name, "description": text, "fingerprint": design.fingerprint, "costs": _costs(costs),
               "design": design.to_config(), "nodes": structure.nodes, "edges": sorted(structure.edges)}
    rows = [(node, str(attributes["kind"]), ", ".join(
        f"{field} {_value(value)}" for field, value in attributes.items() if field not in ("slot", "kind")))
        for node, attributes in structure.nodes.items()]
    emit(content, as_json, [f"{name}: {text}", "", *columns(rows), "", _in_words(costs),
                            f"fingerprint {design.fingerprint}", *([] if png is None else [f"wrote {png}"])])


def draw(path: Path, title: str, structure: "Structure") -> None:
    """A box a node, but one for all layers of the rule and one for those of the controller."""
    from optsearch import pictures

    owners = {node: attributes["slot"] if attributes["slot"] in STACKS else node
              for node, attributes in structure.nodes.items()}
    boxes = {}
    for owner in dict.fromkeys(owners.values()):
        nodes = {node: attributes for node, attributes in structure.nodes.items() if owners[node] == owner}
        first = next(iter(nodes.values()))
        boxes[owner] = pictures.Box(_title(owner, first), tuple(_lines(owner, nodes)), KINDS.get(first["slot"], ""))
    edges = {(owners[start], owners[end]) for start, end in structure.edges}
    pictures.graph(path, title, boxes, {(start, end) for start, end in edges if start != end})


def _found(name: str) -> "tuple[LearnedOptimizer, str]":
    """A design, and a few words about it."""
    from optsearch.optimizers import DESIGNS, named_design

    if not name.endswith(ARTIFACT):
        return named_design(name), DESIGNS[name][1]
    from optsearch.export import Artifact

    artifact = Artifact.load(Path(name))
    source = artifact.provenance
    adapted = "" if "trial" in source or "initial" not in source else f"adapted to {', '.join(source['tasks'])} from "
    source = source["initial"] if adapted else source
    return artifact.design, adapted + (f"trial {source['trial']} of {source['study']}" if "trial" in source
                                       else "another one" if adapted else "exported")


def _costs(costs: "Costs") -> dict[str, Any]:
    return asdict(costs) | {"flops_per_parameter": costs.flops_per_parameter,
                            "flops_per_tensor": costs.flops_per_tensor,
                            "state_bytes_per_parameter": costs.state_bytes_per_parameter}


def _in_words(costs: "Costs") -> str:
    return (f"{costs.num_weights} weights; a layer with 128 inputs and 128 outputs takes "
            f"{costs.flops_per_parameter:.0f} FLOPs a parameter and {costs.flops_per_tensor:.0f} a tensor in matrix "
            f"products, {costs.state_bytes_per_parameter:.1f} bytes of state a parameter")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _title(node: str, attributes: dict[str, Any]) -> str:
    words = node.rpartition(".")[2].replace("_", " ")
    return f"{words} × {attributes['width']}" if attributes.get("width", 1) > 1 else words


def _lines(owner: str, nodes: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What tells most of the nodes in one box; the first has the fields of its part."""
    first = next(iter(nodes.values()))
    if not owner.endswith(first["kind"]) and first["kind"] not in UNSPOKEN_KINDS:
        yield first["kind"]
    yield from wrap(_value(first.get("decays", "")), LINE_LENGTH)
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
    return words if value is True else value if isinstance(value, str) else f"{words} {_value(value)}"
