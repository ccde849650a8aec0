"""What a search space asks, in what order, and what of it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from optuna.distributions import BaseDistribution

from optsearch.errors import DesignError
from optsearch.meta_training.settings import MetaTraining
from optsearch.optimizers.kinds import PARTS
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.rows import Leaf, Row, Suggest, Switches, choose, extremes, leaves, may_be_something, nearest

META_TRAINING = "meta_training"
# The order of asking: a part comes after those that it needs.
TABLES = ("controller", "rule", "features", "head", "mixing", "base", "schedule", "tensors", "memory", "controls",
          META_TRAINING)
# What is asked only where something else is neither "none" nor 0; without it, it would change nothing.
NEEDS = {"features": "rule", "head": "rule", "base": "mixing", "tensors": "controller", "memory": "controller",
         "controls": "controller", "controls.context_size": "rule", "controls.film": "controls.context_size",
         "controls.tunes_base": "mixing"}
# Parts of which one kind is left where these others are all "none": the rest would be no design, or learn nothing.
LEFT = {"mixing": ("residual", ("rule",)), "schedule": ("progress", ("rule", "controller"))}
DEFAULTS = LearnedOptimizer().to_config()

Config = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """One table of a space: which kinds may be chosen, and the rows of each kind."""

    slot: str
    kind: Row
    rows: Mapping[str, Mapping[str, Row]]

    def path(self, kind: str, field: str) -> str:
        return f"{self.slot}.{field}" if len(PARTS.get(self.slot, {})) < 2 else f"{self.slot}.{kind}.{field}"


@dataclass(frozen=True)
class Space:
    """A space that has been checked: every row is a field that exists, every kind can be chosen."""

    name: str
    text: str
    description: str
    parts: Mapping[str, Part]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def longest_truncation(self) -> int:
        """The shortest horizon that a study of this space can have."""
        return max(extremes(self.row(f"{META_TRAINING}.truncation")))

    def suggest(self, suggest: Suggest) -> tuple[LearnedOptimizer, MetaTraining]:
        """One point of the space; `suggest(name, distribution)` chooses.

        What would change nothing, by what was chosen before, is not asked.
        """
        config: Config = {}
        for slot, part in self.parts.items():
            if not _is_asked(slot, config):
                continue
            kind = _left(slot, config) or choose(suggest, f"{slot}.kind", part.kind)
            config[slot] = {"kind": kind}
            for field, row in part.rows.get(kind, {}).items():
                if _is_asked(f"{slot}.{field}", config):
                    config[slot][field] = choose(suggest, part.path(kind, field), row)
        settings = config.pop(META_TRAINING, {})
        settings.pop("kind", None)
        return LearnedOptimizer.from_config(with_tuples(config)), MetaTraining.from_config(settings)

    def point_of(self, design: LearnedOptimizer, settings: MetaTraining) -> dict[str, Any] | None:
        """The values of the rows that give this design, with settings as near as rows allow; None where none do."""
        config: dict[str, Any] = design.to_config() | {META_TRAINING: settings.__dict__}
        if isinstance(self.row("features.groups"), Switches):
            config["features"]["groups"] = design.features.names
        point: dict[str, Any] = {}

        def answer(name: str, distribution: BaseDistribution) -> Any:
            slot, _, row = name.partition(".")
            point[name] = nearest(_value(row, config[slot]), distribution)
            return point[name]

        try:
            found, _ = self.suggest(answer)
        except (DesignError, KeyError):
            return None
        return point if found.fingerprint == design.fingerprint else None

    def rows(self) -> Iterator[tuple[str, Leaf]]:
        """Every row with its dotted name."""
        for part in self.parts.values():
            if isinstance(part.kind, BaseDistribution):
                yield f"{part.slot}.kind", part.kind
            for kind, rows in part.rows.items():
                for field, row in rows.items():
                    yield from leaves(part.path(kind, field), row)

    def row(self, name: str) -> Row:
        """The kinds of a part ("rule"), or a row of a part that has one kind only, or what stands where it has none."""
        slot, _, field = name.partition(".")
        if not field:
            return self.parts[slot].kind if slot in self.parts else DEFAULTS[slot]["kind"]
        default = MetaTraining().__dict__ if slot == META_TRAINING else DEFAULTS[slot]
        return self.parts[slot].rows[only(slot)].get(field, default[field]) if slot in self.parts else default[field]

    def has(self, name: str) -> bool:
        """Whether the file has such a table or, in one of a single kind, such a row."""
        slot, _, field = name.partition(".")
        return slot in self.parts and (not field or field in self.parts[slot].rows[only(slot)])


def registry(slot: str) -> Mapping[str, type]:
    """The kinds of a part by name."""
    return PARTS.get(slot, {"": MetaTraining})


def only(slot: str) -> str:
    """The kind of a part that has no other."""
    (kind,) = registry(slot)
    return kind


def _is_asked(name: str, config: Config) -> bool:
    return name not in NEEDS or not _is_nothing(NEEDS[name], config)


def _is_nothing(name: str, config: Config) -> bool:
    slot, _, field = name.partition(".")
    return not may_be_something((DEFAULTS[slot] | config.get(slot, {}))[field or "kind"])


def _left(slot: str, config: Config) -> str | None:
    """The only kind that earlier choices leave, None where there are several."""
    kind, others = LEFT.get(slot, (None, ()))
    return kind if all(_is_nothing(other, config) for other in others) else None


def _value(row: str, part: Mapping[str, Any]) -> Any:
    """What the part of a design has in the row of this name."""
    words = row.split(".")
    if words[0] not in part:
        # Parts of several kinds name theirs first.
        words = words[1:]
    value = part[words[0]]
    if len(words) > 1:
        return words[1] in value
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def is_tuple(field: "Field[Any]", of: str = "") -> bool:
    """Whether a part's field holds several values, of type `of` if it is given."""
    return str(field.type).startswith(f"tuple[{of}")


def with_tuples(config: Config) -> Config:
    """Fields that hold several values take a single one as a row."""
    for slot, part in config.items():
        several = {field.name for field in fields(PARTS[slot][part["kind"]]) if is_tuple(field)}
        for name, value in part.items():
            if name in several and not isinstance(value, (tuple, list)):
                part[name] = (value,)
    return config
