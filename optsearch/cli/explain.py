"""`optsearch explain`: what a learned optimizer does, in words and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, QuietOption, emit, run_as_workers_do

STANDARD_TASK = "digits_mlp"
DEFAULT_HORIZON, LEAST, LONGEST_BY_DEFAULT = 200, 30, 500


def explain(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`.")],
            task: Annotated[str | None, typer.Option(
                help="A task, or ./my_tasks.py:NAME; by default the first of those learned on.")] = None,
            horizon: Annotated[int | None, typer.Option(
                min=LEAST, help="Inner steps; by default as learned, 500 at most.")] = None,
            output: Annotated[Path, typer.Option("--output", "-o", help="A folder for page, pictures and "
                                                                       "figures.")] = Path("explanation"),
            quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Say what a learned optimizer does: its step sizes, momentum, and response to scale and noise, beside AdamW's.

    Example: optsearch explain best.safetensors --task digits_mlp/32 -o reports/best
    """
    run_as_workers_do()
    from optsearch.export import Artifact
    from optsearch.report import explaining
    from optsearch.tasks import families

    provenance = Artifact.load(file).provenance
    chosen = task or next(iter(provenance.get("tasks") or ()), STANDARD_TASK)
    steps = horizon or min(max(int(provenance.get("horizon", DEFAULT_HORIZON)), LEAST), LONGEST_BY_DEFAULT)
    found = explaining.explain(file, families(chosen)[0], steps, quiet=quiet or as_json)
    written = explaining.write(found, output)
    emit(found.to_config() | {"findings": explaining.in_words(found), "written": [str(path) for path in written]},
         as_json, [*explaining.in_words(found), "", f"wrote {written[0]}, figures and {len(written) - 2} pictures"])
