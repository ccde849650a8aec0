"""The command line: parses, calls, prints. `main` is the console script."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.adapt import adapt
from optsearch.cli.average import average
from optsearch.cli.bench import benches
from optsearch.cli.designs import designs
from optsearch.cli.embeddings import embeddings
from optsearch.cli.evaluate import evaluate
from optsearch.cli.explain import explain
from optsearch.cli.finalists import finalists
from optsearch.cli.importing import imports
from optsearch.cli.models import models
from optsearch.cli.options import (
    DeviceOption,
    JsonOption,
    NameArgument,
    QuietOption,
    StorageOption,
    WorkersOption,
    emit,
    slots_of,
)
from optsearch.cli.report import report
from optsearch.cli.study import studies
from optsearch.cli.tasks import check, tasks
from optsearch.errors import OptsearchError
from optsearch.tables import columns

# The exit status that typer makes of Ctrl-C.
INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Find the learned optimizer that trains your kind of model fastest.")
app.add_typer(studies, name="study")
app.add_typer(benches, name="bench")
app.add_typer(designs, name="designs")
app.add_typer(imports, name="import")
app.add_typer(models, name="models")


def main() -> None:
    """Run the command line; errors of ours are one line and an exit status, no traceback unless --debug."""
    try:
        app(standalone_mode=True)
    except OptsearchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"optsearch: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except SystemExit as status:
        if status.code == INTERRUPTED:
            print("optsearch: interrupted; run the same command again to go on.", file=sys.stderr)
        raise


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
         debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    if version:
        import optsearch

        print(optsearch.__version__)
        raise typer.Exit


@app.command()
def dashboard(name: Annotated[str | None, typer.Argument(help="A study; by default all.")] = None,
              storage: StorageOption = None, host: Annotated[str, typer.Option(help="Address.")] = "127.0.0.1",
              port: Annotated[int, typer.Option(help="Port.")] = 8080,
              browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
              ) -> None:
    """Watch studies in Optuna Dashboard: plots, and pictures, curves and weights of every trial. It has no passwords.

    Example: optsearch dashboard digits
    """
    from optsearch.dashboard.serving import serve
    from optsearch.search.study import Store

    serve(Store.at(storage), name, (host, port), open_browser=browser)


@app.command()
def export(name: NameArgument,
           output: Annotated[Path, typer.Option("--output", "-o", help="The file.")] = Path("best.safetensors"),
           trial: Annotated[int | None, typer.Option(help="A trial's number; by default the best.")] = None,
           storage: StorageOption = None) -> None:
    """Write a trial's learned optimizer to a file that `optsearch.load` reads.

    Example: optsearch export digits -o best.safetensors
    """
    from optsearch.search.study import Store
    from optsearch.search.study import export as write

    found = write(Store.at(storage), name, output, trial)
    front = found.provenance.get("num_front")
    chosen = f", the best by value of a front of {front}; --trial takes another" if front else ""
    print(f"{output}: trial {found.provenance['trial']} of {name}, value {found.provenance['value']:.4f}{chosen}\n"
          f'use it: optimizer = optsearch.load("{output}")(model.parameters(), num_steps=...)')


@app.command()
def quickstart(directory: Annotated[Path, typer.Option(help="Where weights and picture go.")] = Path("quickstart"),
               workers: WorkersOption = 2, device: DeviceOption = "cpu", storage: StorageOption = None,
               quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """The whole way in minutes: a small study on handwritten digits, its best optimizer, and how good it is.

    Example: optsearch quickstart
    """
    from optsearch.quickstart import walk, what_next
    from optsearch.report.headline import in_words
    from optsearch.search.study import Store

    headline = walk(Store.at(storage), directory, slots_of(device, workers), quiet=quiet)
    emit(headline.to_config(), as_json, [*in_words(headline), *what_next(directory)])


@app.command()
def spaces(as_json: JsonOption = False) -> None:
    """The search spaces that are shipped, a line each.

    Example: optsearch spaces
    """
    from optsearch.search import resources
    from optsearch.search.spaces import load_space

    found = [(name, load_space(name).description) for name in resources.names(resources.SPACES)]
    emit(dict(found), as_json, columns(found))


studies.command()(finalists)
app.command()(adapt)
app.command()(average)
app.command()(evaluate)
app.command()(report)
app.command()(embeddings)
app.command()(explain)
app.command()(tasks)
app.command()(check)
