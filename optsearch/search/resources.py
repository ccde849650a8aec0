"""Search spaces and study definitions: the shipped ones by name, the user's own by path."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import optsearch
from optsearch.errors import OptsearchError, SpaceError, StudyError

SPACES, STUDIES = "search_spaces", "studies"
ERRORS: dict[str, type[OptsearchError]] = {SPACES: SpaceError, STUDIES: StudyError}


def folder(kind: str) -> Path:
    """Where the shipped files of a kind lie: inside the package once installed, beside it in a bare checkout."""
    try:
        module = import_module(f"optsearch.{kind}")
    except ModuleNotFoundError:
        return Path(str(optsearch.__file__)).parent.parent / kind
    return Path(str(module.__file__)).parent


def names(kind: str) -> list[str]:
    """The shipped ones."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def read(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    """The text and the content of a shipped file (`name`) or of the user's own (a path that ends in .toml).

    Raises `SpaceError` or `StudyError` when there is none or it is no TOML.
    """
    path = Path(name) if name.endswith(".toml") else folder(kind) / f"{name}.toml"
    error_type, noun = ERRORS[kind], kind.replace("_", " ")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise error_type(f"there is no `{name}` among the {noun}: {', '.join(names(kind))}. "
                         "Give one of these or the path of a .toml file.") from error
    return text, parse(kind, name, text)


def parse(kind: str, name: str, text: str) -> dict[str, Any]:
    """TOML text as data."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ERRORS[kind](f"{name} is not valid TOML: {error}.") from error
