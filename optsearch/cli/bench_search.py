"""`optsearch bench table` and `optsearch bench search`: how good searchers are, on real learning curves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from optsearch.cli.options import JsonOption, QuietOption, WorkersOption, emit
from optsearch.tables import columns

TABLE = Path("reports/design_table/table.json.gz")


def table(designs: Annotated[int, typer.Option(min=1, help="How many designs, drawn at random.")] = 300,
          task: Annotated[list[str] | None, typer.Option(help="Families, one at a time; by default two.")] = None,
          budget: Annotated[int, typer.Option(min=1000, help="Inner steps of a meta-training.")] = 16_000,
          horizon: Annotated[int, typer.Option(min=20, help="Inner steps of a training.")] = 60,
          space: Annotated[str, typer.Option(help="The search space: a name or a file.")] = "all",
          output: Annotated[Path, typer.Option(help="The file.")] = TABLE,
          workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Make a table of learning curves for `bench search`; takes hours, goes on where it was stopped.

    Example: optsearch bench table --designs 300
    """
    from optsearch.bench.table_facts import facts
    from optsearch.bench.table_making import Recipe, make_table

    recipe = Recipe(tuple(task) if task else Recipe().families, designs, space, horizon, budget)
    content = facts(make_table(recipe, output, workers, quiet=quiet or as_json))
    rows = [("family", "designs", "curves", "ended early", "ends", "of repeats"),
            *((name, str(found["designs"]), str(found["curves"]), str(found["ended_early"]),
               f"{found['best']:.2f}..{found['worst']:.2f}", _figure(found["repeat_correlation"]))
              for name, found in content["families"].items())]
    emit({"path": str(output)} | content, as_json, [
        f"{output}: {content['curves']} curves of {content['designs']} designs, {budget:,} inner steps each", "",
        *columns(rows), "", "of repeats: Kendall's rank correlation of two meta-trainings of the same designs"])


def search(table: Annotated[Path, typer.Option(help="A file by `optsearch bench table`.")] = TABLE,
           method: Annotated[list[str] | None, typer.Option(help="Searchers; by default all. random is always one.")]
           = None,
           seeds: Annotated[int, typer.Option(min=1, help="Searches of each method on each family.")] = 20,
           trials: Annotated[int, typer.Option(min=2, help="Full trials' worth of inner steps a search.")] = 100,
           costly_trials: Annotated[int, typer.Option(min=2, help="For methods that take seconds a suggestion.")] = 30,
           workers: WorkersOption = 2,
           output: Annotated[Path | None, typer.Option(help="A folder; by default reports, none if quick.")] = None,
           quick: Annotated[bool, typer.Option("--quick", help="Under a minute: few methods, seeds, trials.")] = False,
           quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Let searchers search a table of learning curves; takes hours, goes on where it was stopped.

    SMAC3 and NePS (smac, smac_hyperband, neps_bo, neps_priorband) join where OPTSEARCH_SMAC_PYTHON or
    OPTSEARCH_NEPS_PYTHON is the Python of an environment that has them.

    Example: optsearch bench search --quick
    """
    from optsearch.bench import search as bench
    from optsearch.bench.search_page import search_tables, write_search

    comparison = bench.quick(table, method) if quick else bench.Comparison(
        table, bench.chosen(method), seeds, trials, costly_trials)
    folder = Path("reports") if output is None and not quick else output
    # A second process would spend most of a minute on starting.
    rows = bench.compare(comparison, folder / "search.json" if folder else None, 1 if quick else workers,
                         quiet=quiet or as_json)
    content: dict[str, Any] = bench.summary(comparison, rows)
    written = write_search(content, folder) if folder else []
    lines = []
    for found in search_tables(content):
        lines += [found.title, found.note, "", *columns([found.header, *found.rows]), ""]
    emit(content, as_json, [*lines, *(f"wrote {path}" for path in written)])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
