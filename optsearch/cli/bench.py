"""`optsearch bench ...`: how fast it is here."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, QuietOption, columns, emit

benches = typer.Typer(no_args_is_help=True, help="Measure how fast optsearch is on this machine.")


@benches.command("engine")
def engine(quick: Annotated[bool, typer.Option("--quick", help="Under a minute: not compiled, no peers.")] = False,
           output: Annotated[Path | None, typer.Option(help="A folder for engine.json, .md and .png.")] = None,
           quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Time meta-training and the exported step against plain torch, AdamW and what else is installed; takes minutes.

    Example: optsearch bench engine --quick
    """
    _as_workers_run()
    from optsearch import bench

    content = bench.measure(bench.QUICK if quick else bench.FULL, quiet=quiet or as_json)
    written = [] if output is None else bench.write(content, output)
    lines = bench.sentences(content)
    for table in bench.tables(content):
        lines += ["", table.title, table.note, "", *columns([table.header, *table.rows])]
    emit(content, as_json, [*lines, *([""] if written else []), *(f"wrote {path}" for path in written)])


def _as_workers_run() -> None:
    """Start over with the settings that workers give their processes; they are read before a program begins."""
    from optsearch.search.processes import ENVIRONMENT

    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ENVIRONMENT)
