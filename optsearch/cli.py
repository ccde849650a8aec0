"""The command line: parses, calls, prints. `main` is the console script."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from optsearch.errors import OptsearchError, UsageError

# The exit status that typer makes of Ctrl-C.
INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Find the learned optimizer that trains your kind of model fastest.")
studies = typer.Typer(no_args_is_help=True, help="Make, run and look at studies.")
app.add_typer(studies, name="study")

StorageOption = Annotated[str | None, typer.Option(
    "--storage", envvar="OPTUNA_STORAGE", show_envvar=True,
    help="Database URL; by default sqlite:///studies/optsearch.db.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NameArgument = Annotated[str, typer.Argument(help="The study's name.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Trials side by side; one process each.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, or a list such as cuda:0,cuda:1.")]


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


def _emit(content: Any, as_json: bool, lines: Iterable[str]) -> None:
    if as_json:
        print(json.dumps(content, allow_nan=False))
    else:
        print("\n".join(lines))


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def slots_of(device: str, workers: int) -> list[str]:
    """One device a worker, handed out in turn."""
    devices = [part.strip() for part in device.split(",") if part.strip()]
    for name in devices:
        if name != "cpu" and not name.startswith("cuda"):
            raise UsageError(f"there is no device `{name}`. Expected cpu, cuda, or a list such as cuda:0,cuda:1.")
    if not devices:
        raise UsageError("--device is empty. Expected cpu, cuda, or a list such as cuda:0,cuda:1.")
    return [devices[index % len(devices)] for index in range(max(workers, len(devices)))]


@studies.command("create")
def create(name: NameArgument,
           space: Annotated[str, typer.Option(help="A space's name or a .toml file.")] = "all",
           task: Annotated[list[str] | None, typer.Option(help="A task; may be given several times.")] = None,
           domain: Annotated[str | None, typer.Option(help="All tasks of a domain.")] = None,
           horizon: Annotated[int, typer.Option(help="Inner steps that the optimizer is to be best at.")] = 200,
           budget: Annotated[int, typer.Option(help="Inner steps that one trial may spend.")] = 200_000,
           seed: Annotated[int, typer.Option(help="Seed of sampler and trials.")] = 0,
           storage: StorageOption = None) -> None:
    """Make a study: a space to search, tasks to learn on, a budget a trial.

    Example: optsearch study create digits --task digits_mlp
    """
    from optsearch.search.definition import define
    from optsearch.search.study import Store

    definition = define(space=space, tasks=task or [], domain=domain, horizon=horizon, budget=budget, seed=seed)
    store = Store.at(storage)
    store.create(name, definition)
    print(f"made study {name} in {store.url}: space {space}, tasks {', '.join(definition.tasks)}\n"
          f"next: optsearch study run {name} --trials 40 --workers 2")


@studies.command("run")
def run(name: NameArgument,
        trials: Annotated[int, typer.Option(min=1, help="Finished trials that the study shall have in the end; "
                                                        "the same command goes on after an interruption.")] = 40,
        workers: WorkersOption = 1, device: DeviceOption = "cpu", storage: StorageOption = None,
        quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Run trials, several side by side; killed ones go on from their last checkpoint.

    Example: optsearch study run digits --trials 40 --workers 2
    """
    from optsearch.search.study import Store, summary
    from optsearch.watching import run_and_watch

    store = Store.at(storage)
    run_and_watch(store, name, slots_of(device, workers), trials, quiet=quiet)
    counts = summary(store.load(name))
    _emit(counts, as_json, [_in_words(counts), f"next: optsearch export {name} -o best.safetensors"])


def _in_words(counts: dict[str, Any]) -> str:
    best = "no value yet" if counts["best_value"] is None else f"best value {counts['best_value']:.4f}"
    return (f"{counts['name']}: {counts['complete']} complete, {counts['pruned']} pruned, {counts['fail']} failed, "
            f"{counts['running']} running, {counts['waiting']} waiting; {best}")


@studies.command("list")
def list_studies(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """The studies of a database, a line each.

    Example: optsearch study list
    """
    from optsearch.search.study import Store, summary

    store = Store.at(storage)
    found = [summary(store.load(name)) for name in store.names()]
    _emit(found, as_json, [_in_words(each) for each in found] or [f"no studies in {store.url}"])


@studies.command("show")
def show(name: NameArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """A study's definition and trials; a value is log(loss / tuned AdamW's), so below 0 is better.

    Example: optsearch study show digits
    """
    from optsearch.search.definition import StudyDefinition
    from optsearch.search.study import Store, summary

    study = Store.at(storage).load(name)
    definition, counts = StudyDefinition.of(study), summary(study)
    trials = study.get_trials(deepcopy=False)
    rows = [(str(trial.number), trial.state.name.lower(), "" if trial.value is None else f"{trial.value:.4f}",
             " ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
                      for key, value in sorted(trial.params.items()))) for trial in trials]
    as_data = [{"number": trial.number, "state": trial.state.name, "value": trial.value, "params": trial.params}
               for trial in trials]
    facts = {"space": definition.space, "tasks": list(definition.tasks), "horizon": definition.horizon,
             "budget": definition.budget, "seed": definition.seed}
    _emit(counts | facts | {"trials": as_data}, as_json,
          [_in_words(counts), ", ".join(f"{key} {value}" for key, value in facts.items()), *_columns(rows)])


@studies.command("stop")
def stop(name: NameArgument, storage: StorageOption = None) -> None:
    """Start no more trials in any worker; running ones end by themselves.

    Example: optsearch study stop digits
    """
    from optsearch.search.study import Store

    Store.at(storage).stop(name)
    print(f"{name}: no more trials are started; `optsearch study run {name}` goes on")


@studies.command("delete")
def delete(name: NameArgument, yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
           storage: StorageOption = None) -> None:
    """Delete a study with its curves, weights and pictures.

    Example: optsearch study delete digits --yes
    """
    from optsearch.search.study import Store

    store = Store.at(storage)
    store.load(name)
    if not yes and not typer.confirm(f"Delete study {name} with all its trials and files?"):
        raise typer.Exit(1)
    store.delete(name)
    print(f"deleted study {name}")


@app.command()
def dashboard(storage: StorageOption = None, host: Annotated[str, typer.Option(help="Address.")] = "127.0.0.1",
              port: Annotated[int, typer.Option(help="Port.")] = 8080) -> None:
    """Watch studies in Optuna Dashboard: curves, weights and pictures of every trial. It has no passwords.

    Example: optsearch dashboard --port 8080
    """
    from optsearch.dashboard import serve
    from optsearch.search.study import Store

    serve(Store.at(storage), host, port)


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
    print(f"{output}: trial {found.provenance['trial']} of {name}, value {found.provenance['value']:.4f}\n"
          f'use it: optimizer = optsearch.load("{output}")(model.parameters(), num_steps=...)')


@app.command()
def evaluate(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`.")],
             task: Annotated[list[str], typer.Option(help="A task; may be given several times.")],
             horizon: Annotated[int | None, typer.Option(min=10, help="Inner steps; by default the study's.")] = None,
             seed: Annotated[int, typer.Option(help="The first inner seed.")] = 0,
             picture: Annotated[Path | None, typer.Option(help="Draw both curves into this .png.")] = None,
             storage: StorageOption = None, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Compare a learned optimizer with tuned AdamW + cosine on fresh seeds and test data.

    Example: optsearch evaluate best.safetensors --task digits_mlp
    """
    from optsearch.report.headline import evaluate_file, in_words

    headline = evaluate_file(file, task, horizon=horizon, first_seed=seed, url=storage, quiet=quiet)
    if picture is not None:
        headline.draw(picture)
    _emit(headline.to_config(), as_json, in_words(headline))


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
    _emit(headline.to_config(), as_json, [*in_words(headline), *what_next(directory)])


@app.command()
def spaces(as_json: JsonOption = False) -> None:
    """The search spaces that are shipped, a line each.

    Example: optsearch spaces
    """
    from optsearch.search import resources
    from optsearch.search.spaces import load_space

    found = [(name, load_space(name).description) for name in resources.names(resources.SPACES)]
    _emit(dict(found), as_json, _columns(found))


@app.command()
def tasks(as_json: JsonOption = False) -> None:
    """The tasks that can be learned on, a line each.

    Example: optsearch tasks
    """
    from optsearch.tasks import TASKS

    found = [(name, families()[0].domain, (families.__doc__ or "").strip()) for name, families in TASKS.items()]
    _emit({name: {"domain": domain, "description": text} for name, domain, text in found}, as_json, _columns(found))


@app.command()
def designs(as_json: JsonOption = False) -> None:
    """The named designs of learned optimizers, a line each.

    Example: optsearch designs
    """
    from optsearch.optimizers import DESIGNS, num_weights

    found = [(name, f"{num_weights(design)} weights", text) for name, (design, text) in DESIGNS.items()]
    _emit({name: {"num_weights": num_weights(design), "description": text, "design": design.to_config()}
           for name, (design, text) in DESIGNS.items()}, as_json, _columns(found))
