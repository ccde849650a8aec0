"""What a design is, in a few words for a prompt, and with its picture for a notebook."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optsearch.optimizers.optimizer import LearnedOptimizer

# The parts that tell designs apart, in the order in which a reader asks for them.
TELLING = ("controller", "memory", "rule", "head", "mixing", "base", "schedule")


def kinds(config: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The kind of each part that tells designs apart, without those that a design, as plain data, lacks."""
    found = {slot: config.get(slot, {}).get("kind", "none") for slot in TELLING}
    # Without a rule no head is read.
    found |= {"head": "none"} if found["rule"] == "none" else {}
    return {slot: kind for slot, kind in found.items() if kind != "none"}


def in_brief(config: Mapping[str, Mapping[str, Any]]) -> str:
    """The kinds of its parts, such as "mlp rule, adamw base"."""
    return ", ".join(f"{kind} {slot}" for slot, kind in kinds(config).items())


def line(design: "LearnedOptimizer") -> str:
    return f"<LearnedOptimizer: {in_brief(design.to_config())}; {design.costs().num_weights:,} weights>"


def html(design: "LearnedOptimizer") -> str:
    """Its graph and its costs."""
    # Who only trains with a design draws nothing.
    from optsearch.optimizers.picture import svg

    costs = design.costs()
    drawn = svg(f"{costs.num_weights:,} weights", design.structure)
    caption = (f"{in_brief(design.to_config())}: {costs.flops_per_parameter:,.0f} FLOPs and "
               f"{costs.state_bytes_per_parameter:,.1f} bytes of state a parameter and step, in a layer of 128 inputs "
               "and 128 outputs")
    return f'<div style="overflow-x: auto">{drawn}</div><small>{escape(caption)}</small>'
