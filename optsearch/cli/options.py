"""What commands share: their options, and how results are printed."""

import json
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from optsearch.search.slots import slots_of

__all__ = ["DeviceOption", "JsonOption", "NameArgument", "QuietOption", "StorageOption", "WorkersOption", "emit",
           "run_as_workers_do", "slots_of"]

StorageOption = Annotated[str | None, typer.Option(
    "--storage", envvar="OPTUNA_STORAGE", show_envvar=True,
    help="Database URL; by default sqlite:///studies/optsearch.db.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NameArgument = Annotated[str, typer.Argument(help="The study's name.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Trials side by side; one process each.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, or a list such as cuda:0,cuda:1.")]


def emit(content: Any, as_json: bool, lines: Iterable[str]) -> None:
    """Print the content as one JSON object, or else the lines."""
    if as_json:
        print(json.dumps(content, allow_nan=False))
    else:
        print("\n".join(lines))


def run_as_workers_do() -> None:
    """Start over with the settings that workers give their processes; they are read before a program begins."""
    from optsearch.search.processes import ENVIRONMENT

    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ENVIRONMENT)
