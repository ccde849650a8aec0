"""`optsearch designs`: the named designs, and what one is made of."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsearch.cli.options import JsonOption, emit
from optsearch.tables import columns

if TYPE_CHECKING:
    from optsearch.optimizers import Costs, LearnedOptimizer

ARTIFACT = ".safetensors"

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
    from optsearch.optimizers.picture import draw, value_in_words

    design, text = _found(name)
    costs, structure = design.costs(), design.structure
    if png is not None:
        draw(png, f"{Path(name).stem}: {costs.num_weights} weights", structure)
    content = {"name": name, "description": text, "fingerprint": design.fingerprint, "costs": _costs(costs),
               "design": design.to_config(), "nodes": structure.nodes, "edges": sorted(structure.edges)}
    rows = [(node, str(attributes["kind"]), ", ".join(
        f"{field} {value_in_words(value)}" for field, value in attributes.items() if field not in ("slot", "kind")))
        for node, attributes in structure.nodes.items()]
    emit(content, as_json, [f"{name}: {text}", "", *columns(rows), "", _in_words(costs),
                            f"fingerprint {design.fingerprint}", *([] if png is None else [f"wrote {png}"])])


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
