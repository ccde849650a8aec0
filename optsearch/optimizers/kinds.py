"""The kinds of part that each slot of a design takes, and designs as plain data."""

from collections.abc import Mapping
from typing import Any

from optsearch.errors import DesignError
from optsearch.optimizers.bases import BASES
from optsearch.optimizers.controllers import CONTROLLERS
from optsearch.optimizers.features import Features
from optsearch.optimizers.heads import HEADS
from optsearch.optimizers.memory import MEMORIES
from optsearch.optimizers.mixings import MIXINGS
from optsearch.optimizers.part import Config, part_from_config, part_to_config
from optsearch.optimizers.rules import RULES
from optsearch.optimizers.schedules import SCHEDULES
from optsearch.optimizers.steering import Controls
from optsearch.optimizers.tensors import TensorFeatures

PARTS: dict[str, Mapping[str, type]] = {
    "features": {"groups": Features}, "rule": RULES, "head": HEADS, "schedule": SCHEDULES, "mixing": MIXINGS,
    "base": BASES, "controller": CONTROLLERS, "tensors": {"groups": TensorFeatures}, "memory": MEMORIES,
    "controls": {"settings": Controls}}


def to_config(design: Any) -> dict[str, Config]:
    """The parts of a design by slot, as plain data."""
    parts = {slot: getattr(design, slot) for slot in PARTS}
    return {slot: part_to_config(PARTS[slot], part) for slot, part in parts.items() if part is not None}


def parts_of(config: Mapping[str, Config]) -> dict[str, Any]:
    """The inverse; without a base where the mixing takes none. `DesignError` names a slot that there isn't."""
    unknown = set(config) - set(PARTS)
    if unknown:
        raise DesignError(f"there is no part `{min(unknown)}`. Parts: {', '.join(PARTS)}.")
    parts: dict[str, Any] = {slot: part_from_config(slot, PARTS[slot], part) for slot, part in config.items()}
    return parts if "mixing" not in parts or parts["mixing"].has_base else parts | {"base": None}
