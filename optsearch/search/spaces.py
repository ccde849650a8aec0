"""Search spaces: a TOML file whose rows are Optuna distributions, and whose tables are the parts of a design."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from optsearch.errors import DesignError, SpaceError
from optsearch.meta_training.settings import MetaTraining
from optsearch.optimizers.designs import named_design
from optsearch.optimizers.kinds import PARTS
from optsearch.optimizers.part import part_from_config
from optsearch.search import resources
from optsearch.search.asking import (
    LEFT,
    META_TRAINING,
    NEEDS,
    TABLES,
    Part,
    Space,
    is_tuple,
    only,
    registry,
    with_tuples,
)
from optsearch.search.rows import (
    Row,
    Suggest,
    Switches,
    choose,
    extremes,
    may_be_nothing,
    may_be_something,
    parse_row,
    random_suggest,
)

# Points that are tried for what no row alone shows, such as a size that a number of heads doesn't divide.
NUM_DRAWS = 50


def load_space(name: str) -> Space:
    """A shipped space by name or the user's own by path; `SpaceError` names file, row and what exists."""
    text, _ = resources.read(resources.SPACES, name)
    return parse_space(name, text)


@cache
def parse_space(name: str, text: str) -> Space:
    """A space from its text; see `load_space`."""
    content = resources.parse(resources.SPACES, name, text)
    description, design = str(content.pop("description", "")), content.pop("design", None)
    for table in content:
        if table not in TABLES:
            raise SpaceError(f"{name}: there is no part `{table}`. Parts: {', '.join(TABLES)}.")
    if design is None and not content:
        raise SpaceError(f"{name}: it is empty, so there is nothing to search. Give tables of parts "
                         f"({', '.join(TABLES)}), or `design = \"NAME\"`.")
    fixed = {} if design is None else _fixed(name, design)
    space = Space(name, text, description, {
        slot: _part(name, slot, content[slot]) if slot in content else fixed[slot]
        for slot in TABLES if slot in content or slot in fixed})
    _check_use(space)
    _check_values(space)
    draw = random_suggest(seed=0)
    for _ in range(NUM_DRAWS):
        _check_point(space, draw)
    return space


def _fixed(file: str, design: str) -> dict[str, Part]:
    """The parts of a named design, with nothing to choose."""
    try:
        config = named_design(design).to_config()
    except DesignError as error:
        raise SpaceError(f"{file}: design: {error}") from error

    def is_used(name: str) -> bool:
        if name not in NEEDS:
            return True
        slot, _, field = NEEDS[name].partition(".")
        return may_be_something(config[slot][field or "kind"])

    return {slot: Part(slot, part["kind"], {part["kind"]: {
        field: value for field, value in part.items() if field != "kind" and is_used(f"{slot}.{field}")}})
        for slot, part in config.items() if is_used(slot)}


def _part(file: str, slot: str, table: dict[str, Any]) -> Part:
    kinds = registry(slot)
    if len(kinds) == 1:
        single = only(slot)
        return Part(slot, single, {single: _rows(f"{file}: {slot}", kinds[single], table)})
    if "kind" not in table:
        raise SpaceError(f"{file}: [{slot}] has no row `kind`. Kinds: {', '.join(sorted(kinds))}.")
    kind = parse_row(f"{file}: {slot}.kind", table["kind"])
    choices = extremes(kind)
    for choice in choices:
        if choice not in kinds:
            raise SpaceError(f"{file}: {slot}.kind: there is no `{choice}`. Kinds: {', '.join(sorted(kinds))}.")
    rows = {}
    for name, value in table.items():
        if name == "kind":
            continue
        if name not in choices or not isinstance(value, dict):
            raise SpaceError(f"{file}: {slot}.{name}: not one of the kinds that can be chosen here "
                             f"({', '.join(map(str, choices))}), so the row would never be used.")
        rows[name] = _rows(f"{file}: {slot}.{name}", kinds[name], value)
    return Part(slot, kind, rows)


def _rows(where: str, part: type, table: dict[str, Any]) -> dict[str, Row]:
    """In the order of the part's fields, so that a row comes after the one that it needs."""
    known = {field.name: field for field in fields(part)}
    for name in table:
        if name not in known:
            raise SpaceError(f"{where}.{name}: no such field. Fields: {', '.join(known) or 'none'}.")
    return {name: parse_row(f"{where}.{name}", table[name], is_switchable=is_tuple(field, "str"))
            for name, field in known.items() if name in table}


def _check_use(space: Space) -> None:
    """A row that no choice would use, and a choice that leaves none of the kinds, are mistakes."""
    for name, needed in NEEDS.items():
        if space.has(name) and not may_be_something(space.row(needed)):
            raise SpaceError(f"{space.name}: {name}: changes nothing without {needed}, which is always "
                             f"{extremes(space.row(needed))[0]} here, so the row would never be used.")
    for slot, (kind, others) in LEFT.items():
        if all(may_be_nothing(space.row(other)) for other in others) and kind not in extremes(space.row(slot)):
            raise SpaceError(f"{space.name}: {slot}.kind: must be able to be {kind}, the only one that is left where "
                             f"{' and '.join(others)} can be none.")
    if space.has(f"{META_TRAINING}.horizon"):
        raise SpaceError(f"{space.name}: {META_TRAINING}.horizon: the study says it, so the row would never be used.")


def _check_values(space: Space) -> None:
    """Build every kind at the ends of its ranges and at random, so that trials meet no value that no part takes."""
    for part in space.parts.values():
        for kind, rows in part.rows.items():
            for values in _draws(rows):
                try:
                    _build(part.slot, kind, values)
                except (DesignError, TypeError) as error:
                    raise SpaceError(f"{space.name}: [{part.slot}] {error} {_in_words(values)}") from error


def _check_point(space: Space, draw: Suggest) -> None:
    """Build a whole design, for what no part alone shows."""
    values: dict[str, Any] = {}
    try:
        space.suggest(lambda name, row: values.setdefault(name, draw(name, row)))
    except DesignError as error:
        raise SpaceError(f"{space.name}: {error} {_in_words(values)}") from error


def _draws(rows: Mapping[str, Row]) -> Iterator[dict[str, Any]]:
    for end in (0, -1):
        yield {field: extremes(row)[end] for field, row in rows.items()}
    # A group that is switched off must exist all the same.
    yield {field: list(row.groups) for field, row in rows.items() if isinstance(row, Switches)}
    draw = random_suggest(seed=0)
    for _ in range(NUM_DRAWS):
        yield {field: choose(draw, field, row) for field, row in rows.items()}


def _build(slot: str, kind: str, values: dict[str, Any]) -> None:
    if slot == META_TRAINING:
        MetaTraining.from_config(values)
    else:
        part_from_config(slot, PARTS[slot], with_tuples({slot: {"kind": kind} | values})[slot])


def _in_words(values: dict[str, Any]) -> str:
    return f"(with {', '.join(f'{name} = {value}' for name, value in values.items())})"
