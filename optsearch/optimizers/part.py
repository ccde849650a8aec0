"""What all parts of a learned optimizer share: they are frozen dataclasses that come from a plain config."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from optsearch.errors import DesignError

Config = dict[str, Any]
PartType = TypeVar("PartType")


def part_to_config(registry: Mapping[str, type], part: Any) -> Config:
    """`{"kind": name, field: value, ...}`."""
    kinds = {kind: name for name, kind in registry.items()}
    return {"kind": kinds[type(part)], **{name: list(value) if isinstance(value, tuple) else value
                                          for name, value in asdict(part).items()}}


def part_from_config(slot: str, registry: Mapping[str, type[PartType]], config: Config) -> PartType:
    """The part that `part_to_config` described; fields left out keep their defaults.

    Raises `DesignError` for an unknown kind, an unknown field or a value that the part refuses.
    """
    require(slot, isinstance(config, Mapping), f"expected a table with a `kind` and its fields, not {config!r}.")
    config = dict(config)
    kind = config.pop("kind", None)
    if kind not in registry:
        raise DesignError(f"{slot}: there is no kind `{kind}`. Kinds: {', '.join(sorted(registry))}.")
    defaults = {field.name: field.default for field in fields(registry[kind])}  # type: ignore[arg-type]
    for name, value in config.items():
        if name not in defaults:
            raise DesignError(f"{slot}: `{name}` is no field of `{kind}`. "
                              f"Its fields: {', '.join(sorted(defaults)) or 'none'}.")
        if not _is_like(defaults[name], value):
            raise DesignError(f"{slot}: `{name}` of `{kind}` can't be {value!r}; "
                              f"expected something like its default {defaults[name]!r}.")
    return registry[kind](**{name: tuple(value) if isinstance(value, list) else value
                             for name, value in config.items()})


def _is_like(default: Any, value: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(_is_like(default[0], item) for item in value)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def require(slot: str, condition: bool, message: str) -> None:
    """Raise `DesignError` unless `condition` holds."""
    if not condition:
        raise DesignError(f"{slot}: {message}")
