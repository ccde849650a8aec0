"""`optsearch evaluate`: a learned optimizer against hand-made ones."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, QuietOption, StorageOption, WorkersOption, emit, run_as_workers_do


def evaluate(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`.")],
             task: Annotated[list[str] | None, typer.Option(
                 help="A task, or ./my_tasks.py:NAME; several times. By default what its study held out.")] = None,
             suite: Annotated[str | None, typer.Option(
                 help="Held-out tasks of a domain, `standard`: of all, or `study`: its own; every opponent, "
                      "more horizons.")] = None,
             opponent: Annotated[list[str] | None, typer.Option(
                 help="Beside AdamW + cosine: all, or one of sgdm_cosine, muon_cosine, ...; several times.")] = None,
             beside: Annotated[list[Path] | None, typer.Option(
                 help="Another learned optimizer to compare with; several times.")] = None,
             horizon: Annotated[int | None, typer.Option(min=10, help="Inner steps; by default the study's.")] = None,
             seeds: Annotated[int | None, typer.Option(min=2, help="Inner seeds; by default 16, of a suite 5.")] = None,
             seed: Annotated[int, typer.Option(help="The first inner seed.")] = 0,
             tune: Annotated[bool, typer.Option("--tune", help="Also with its rate tuned as AdamW's is.")] = False,
             picture: Annotated[Path | None, typer.Option(help="Draw both curves into this .png.")] = None,
             output: Annotated[Path | None, typer.Option(help="A folder for page, picture and figures.")] = None,
             workers: WorkersOption = 1, storage: StorageOption = None, quiet: QuietOption = False,
             as_json: JsonOption = False) -> None:
    """Compare a learned optimizer with tuned AdamW + cosine, or with many more, on fresh seeds and test data.

    With a database, what was measured before is not measured again, so an interrupted run goes on.

    Example: optsearch evaluate best.safetensors --suite study --output reports/best --workers 2
    """
    run_as_workers_do()
    from optsearch.report import yardstick
    from optsearch.report.headline import evaluate_file, in_words
    from optsearch.report.measuring import ask

    asked = ask(file, tasks=task or [], suite=suite, opponents=opponent or [],
                beside=tuple(beside or ()), horizon=horizon or 0, first_seed=seed,
                num_seeds=seeds, tunes_learning_rate=tune, url=storage)
    headline = evaluate_file(asked, workers, quiet=quiet or as_json)
    if picture is not None:
        headline.draw(picture)
    is_long = bool(suite or opponent or beside or tune)
    written = [] if output is None else yardstick.write(headline, output, f"optsearch {shlex.join(sys.argv[1:])}")
    lines = [line for table in yardstick.tables(headline) for line in [*table.plain(), ""]] if is_long else []
    extra = {"standings": yardstick.standings(headline), "duels": yardstick.duels(headline)} if is_long else {}
    emit(headline.to_config() | extra, as_json,
         [*(lines or in_words(headline)), *(f"wrote {path}" for path in written)])
