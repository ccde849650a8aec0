"""Search spaces: a TOML file whose rows are Optuna distributions, and whose tables are the parts of a design."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optsearch.errors import DesignError, SpaceError
from optsearch.meta_training.settings import MetaTraining
from optsearch.optimizers.optimizer import PARTS, LearnedOptimizer
from optsearch.optimizers.part import part_from_config
from optsearch.search import resources

META_TRAINING = "meta_training"
TABLES = (*PARTS, META_TRAINING)
BOUNDS = {"low", "high", "log", "step"}
Row = BaseDistribution | CategoricalChoiceType
Suggest = Callable[[str, BaseDistribution], Any]


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

    def suggest(self, suggest: Suggest) -> tuple[LearnedOptimizer, MetaTraining]:
        """One point of the space; `suggest(name, distribution)` chooses. Rows of parts not chosen are not asked."""
        config: dict[str, dict[str, Any]] = {}
        for part in self.parts.values():
            # Without a mixing that has a base there is none to choose.
            if part.slot == "base" and config.get("mixing", {}).get("kind") == "none":
                continue
            kind = _chosen(suggest, f"{part.slot}.kind", part.kind)
            config[part.slot] = {"kind": kind} | {
                field: _chosen(suggest, part.path(kind, field), row) for field, row in part.rows.get(kind, {}).items()}
        settings = config.pop(META_TRAINING, {})
        settings.pop("kind", None)
        return LearnedOptimizer.from_config(_tuples(config)), MetaTraining.from_config(settings)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with its dotted name."""
        for part in self.parts.values():
            if isinstance(part.kind, BaseDistribution):
                yield f"{part.slot}.kind", part.kind
            for kind, rows in part.rows.items():
                yield from ((part.path(kind, field), row) for field, row in rows.items())


def trial_suggest(trial: optuna.Trial) -> Suggest:
    """Suggestions by an Optuna trial."""
    return trial._suggest


def _chosen(suggest: Suggest, name: str, row: Row) -> Any:
    return suggest(name, row) if isinstance(row, BaseDistribution) else row


def _tuples(config: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fields that hold several values take a single one as a row."""
    for slot, part in config.items():
        types = {field.name: str(field.type) for field in fields(PARTS[slot][part["kind"]])}
        for name, value in part.items():
            if types.get(name, "").startswith("tuple") and not isinstance(value, (tuple, list)):
                part[name] = (value,)
    return config


def load_space(name: str) -> Space:
    """A shipped space by name or the user's own by path; `SpaceError` names file, row and what exists."""
    text, _ = resources.read(resources.SPACES, name)
    return parse_space(name, text)


def parse_space(name: str, text: str) -> Space:
    """A space from its text; see `load_space`."""
    content = resources.parse(resources.SPACES, name, text)
    description = str(content.pop("description", ""))
    for table in content:
        if table not in TABLES:
            raise SpaceError(f"{name}: there is no part `{table}`. Parts: {', '.join(TABLES)}.")
    space = Space(name, text, description, {slot: _part(name, slot, content[slot]) for slot in TABLES
                                            if slot in content})
    _check_values(space)
    return space


def _part(file: str, slot: str, table: dict[str, Any]) -> Part:
    registry: Mapping[str, type] = PARTS.get(slot, {"": MetaTraining})
    if len(registry) == 1:
        only = next(iter(registry))
        return Part(slot, only, {only: _rows(f"{file}: {slot}", registry[only], table)})
    if "kind" not in table:
        raise SpaceError(f"{file}: [{slot}] has no row `kind`. Kinds: {', '.join(sorted(registry))}.")
    kind = _row(f"{file}: {slot}.kind", table["kind"])
    choices = kind.choices if isinstance(kind, CategoricalDistribution) else (kind,)
    for choice in choices:
        if choice not in registry:
            raise SpaceError(f"{file}: {slot}.kind: there is no `{choice}`. Kinds: {', '.join(sorted(registry))}.")
    rows = {}
    for name, value in table.items():
        if name == "kind":
            continue
        if name not in choices or not isinstance(value, dict):
            raise SpaceError(f"{file}: {slot}.{name}: not one of the kinds that can be chosen here "
                             f"({', '.join(str(choice) for choice in choices)}), so the row would never be used.")
        rows[name] = _rows(f"{file}: {slot}.{name}", registry[name], value)
    return Part(slot, kind, rows)


def _rows(where: str, part: type, table: dict[str, Any]) -> dict[str, Row]:
    known = [field.name for field in fields(part)]
    for name in table:
        if name not in known:
            raise SpaceError(f"{where}.{name}: no such field. Fields: {', '.join(known) or 'none'}.")
    return {name: _row(f"{where}.{name}", value) for name, value in table.items()}


def _row(where: str, value: Any) -> Row:
    if isinstance(value, list):
        if not value or len(set(map(str, value))) < len(value):
            raise SpaceError(f"{where}: {value} is empty or repeats itself; expected different choices.")
        return CategoricalDistribution(value)
    if not isinstance(value, dict):
        return value
    if not {"low", "high"} <= set(value) or not set(value) <= BOUNDS:
        raise SpaceError(f"{where}: expected low and high, and perhaps log or step; got {', '.join(value)}.")
    if value["low"] > value["high"]:
        raise SpaceError(f"{where}: the range from {value['low']} to {value['high']} is empty; "
                         "low must not be above high.")
    is_int = isinstance(value["low"], int) and isinstance(value["high"], int)
    try:
        return IntDistribution(**value) if is_int else FloatDistribution(**value)
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from error


def _check_values(space: Space) -> None:
    """Build every kind once at the ends of its ranges, so that a value that no part takes is found before a trial."""
    for part in space.parts.values():
        for kind, rows in part.rows.items():
            for end in (0, -1):
                values = {field: _end(row, end) for field, row in rows.items()}
                try:
                    if part.slot == META_TRAINING:
                        MetaTraining.from_config(values)
                    else:
                        config = _tuples({part.slot: {"kind": kind} | values})[part.slot]
                        part_from_config(part.slot, PARTS[part.slot], config)
                except (DesignError, TypeError) as error:
                    raise SpaceError(f"{space.name}: [{part.slot}] {error}") from error


def _end(row: Row, end: int) -> Any:
    if isinstance(row, CategoricalDistribution):
        return row.choices[end]
    if isinstance(row, (IntDistribution, FloatDistribution)):
        return (row.low, row.high)[end]
    return row
