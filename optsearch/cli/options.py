"""What commands share: their options, and how results are printed."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from optsearch.errors import UsageError

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


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def slots_of(device: str, workers: int) -> list[str]:
    """One device a worker, handed out in turn; every device gets one at least."""
    devices = [part.strip() for part in device.split(",") if part.strip()]
    if not devices:
        raise UsageError("--device is empty. Expected cpu, cuda, or a list such as cuda:0,cuda:1.")
    return [devices[index % len(devices)] for index in range(max(workers, len(devices)))]
