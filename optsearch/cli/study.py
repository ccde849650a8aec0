"""`optsearch study ...`: make, run and look at studies."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from optsearch.cli.create import create
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
from optsearch.cli.study_words import in_words, roles_in_words, value_in_words
from optsearch.tables import columns

studies = typer.Typer(no_args_is_help=True, help="Make, run and look at studies.")
studies.command("create")(create)


@studies.command("run")
def run(name: NameArgument,
        trials: Annotated[int, typer.Option(min=1, help="Finished trials that the study shall have in the end, or with "
                                                        "freeze-thaw: whole trials whose inner steps it may spend; "
                                                        "the same command goes on after an interruption.")] = 40,
        workers: WorkersOption = 1, device: DeviceOption = "cpu",
        stop_gain: Annotated[float | None, typer.Option(
            help="A new bound below which the study ends by itself, from now on; 0 is never.")] = None,
        storage: StorageOption = None, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Run trials, several side by side; killed ones go on from their last checkpoint.

    A terminal shows the running trials with their curves and forecasts, a pipe gets a line a trial.

    Example: optsearch study run digits --trials 40 --workers 2
    """
    from optsearch.search.stopping import ended
    from optsearch.search.study import Store, num_done, summary
    from optsearch.watching import run_and_watch

    store = Store.at(storage)
    if stop_gain is not None:
        store.change_stop_gain(name, stop_gain)
    if missing := store.missing(name):
        print(f"{name}: not there to learn from any more: {', '.join(missing)}", file=sys.stderr)
    run_and_watch(store, name, slots_of(device, workers), trials, quiet=quiet)
    study = store.load(name)
    counts, reason = summary(study), ended(study) if num_done(study) < trials else ""
    said = [f"ended by itself: {reason}. `--stop-gain 0` goes on."] if reason else []
    emit(counts | {"ended": reason}, as_json, [in_words(counts), *said,
                                               f"next: optsearch export {name} -o best.safetensors"])


@studies.command("watch")
def watch_study(name: NameArgument,
                until_idle: Annotated[bool, typer.Option(
                    "--until-idle", help="End when nothing runs any more.")] = False,
                storage: StorageOption = None) -> None:
    """Watch a study that runs in another process or on another machine, until Ctrl-C.

    Example: optsearch study watch digits
    """
    from optsearch.search.study import Store
    from optsearch.watching import watch

    watch(Store.at(storage), name, until_idle=until_idle)


@studies.command("list")
def list_studies(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """The studies of a database, a line each.

    Example: optsearch study list
    """
    from optsearch.search.study import Store, summary

    store = Store.at(storage)
    found = [summary(store.load(name)) for name in store.names()]
    emit(found, as_json, [in_words(each) for each in found] or [f"no studies in {store.url}"])


@studies.command("show")
def show(name: NameArgument,
         predictor: Annotated[bool, typer.Option(
             "--predictor", help="Whether forecasts of trials came true, and what pruning saved.")] = False,
         storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """A study's definition and trials; a value is log(loss / tuned AdamW's), so below 0 is better.

    Trials are shown with the kinds of their parts; --json has all that was chosen.

    Example: optsearch study show digits
    """
    if predictor:
        _show_predictor(name, storage, as_json)
    else:
        _show_trials(name, storage, as_json)


def _show_predictor(name: str, storage: str | None, as_json: bool) -> None:
    from optsearch.search.definition import StudyDefinition
    from optsearch.search.forecasting.audit import audit
    from optsearch.search.objectives import quality_of
    from optsearch.search.study import Store

    store = Store.at(storage)
    study = store.load(name)
    found = audit(quality_of(study, store.records, StudyDefinition.of(study).step), store.records)
    emit({"name": name, **asdict(found), "false_prune_rate": found.false_prune_rate}, as_json, found.lines())


def _show_trials(name: str, storage: str | None, as_json: bool) -> None:
    from optsearch import live, progress
    from optsearch.optimizers.words import in_brief
    from optsearch.search.definition import StudyDefinition
    from optsearch.search.duplicates import DUPLICATE_OF, state_in_words
    from optsearch.search.objectives import design_of, front_of, has_front, value_of
    from optsearch.search.snapshot import Snapshot
    from optsearch.search.study import Store, summary

    store = Store.at(storage)
    study, width = store.load(name), progress.width(sys.stdout)
    view = live.View.of(Snapshot.of_study(study, store.records))
    definition, counts = StudyDefinition.of(study), summary(study)
    trials = study.get_trials(deepcopy=False)
    rows = [(str(trial.number), state_in_words(trial), value_in_words(trial.values),
             in_brief(design_of(trial))) for trial in trials]
    as_data = [{"number": trial.number, "state": trial.state.name, "value": value_of(trial), "values": trial.values,
                "params": trial.params,
                "duplicate_of": trial.user_attrs.get(DUPLICATE_OF)} for trial in trials]
    front = ["front:", *columns([("trial", *definition.metrics), *(
        (str(trial.number), value_in_words(trial.values), *(f"{cost:.0f}" for cost in trial.values[1:]))
        for trial in front_of(study))]), "trials:"] if has_front(study) else []
    facts = {"space": definition.space, "tasks": list(definition.tasks), "weights": list(definition.weights),
             "validation": list(definition.validation), "held_out": list(definition.held_out),
             "sampling": definition.sampling, "sampler": definition.sampler, "pruner": definition.pruner,
             "scheduler": definition.scheduler, "previous": list(definition.previous),
             "initial": definition.initial,
             "stop_gain": definition.stop_gain, "pareto": definition.pareto, "max_flops": definition.max_flops,
             "max_state_bytes": definition.max_state_bytes,
             "horizon": definition.horizon, "budget": definition.budget, "seed": definition.seed}
    stopping = "freeze-thaw" if definition.scheduler == "freeze-thaw" else f"{definition.pruner} pruner"
    table = [progress.fitting(line, sys.stdout.encoding) for line in live.table(view, width)]
    now = [*table, live.best_line(view, width),
           *live.rest_lines(view), *(["trials:"] if table else [])]
    emit(counts | facts | live.as_data(view) | {"trials": as_data}, as_json,
          [in_words(counts), f"space {definition.space}, horizon {definition.horizon}, budget {definition.budget}, "
           f"seed {definition.seed}; {definition.sampler} sampler, {stopping}; "
           f"allows {definition.limits} per parameter",
           roles_in_words(definition), *now, *front, *(live.fitted(line, width) for line in columns(rows))])


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
