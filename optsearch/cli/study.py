"""`optsearch study ...`: make, run and look at studies."""

import sys
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from optsearch.cli.study_words import in_brief, in_words, roles_in_words, value_in_words
from optsearch.errors import UsageError
from optsearch.tables import columns

if TYPE_CHECKING:

    pass

studies = typer.Typer(no_args_is_help=True, help="Make, run and look at studies.")


@studies.command("create")
def create(name: NameArgument,
           space: Annotated[str, typer.Option(help="A space's name or a .toml file.")] = "all",
           task: Annotated[list[str] | None, typer.Option(
               help="A task to learn on, or ./my_tasks.py:NAME; NAME=2 has twice the turns. Several times.")] = None,
           domain: Annotated[list[str] | None, typer.Option(
               help="A domain's tasks, each in its standard role; vision=0.4 has a weight. Several times.")] = None,
           validation: Annotated[list[str] | None, typer.Option(
               help="A task that gives trials their value; by default other rows of those learned on.")] = None,
           held_out: Annotated[list[str] | None, typer.Option(help="A task that is for reports alone.")] = None,
           sampling: Annotated[str, typer.Option(
               help="uniform, loss_balanced or learning_progress: whose turn it is.")] = "uniform",
           sampler: Annotated[str, typer.Option(help="gp, tpe or random: what chooses designs.")] = "gp",
           pruner: Annotated[str, typer.Option(
               help="predictor, median or none: what stops weak trials early.")] = "predictor",
           scheduler: Annotated[str, typer.Option(
               help="full, or freeze-thaw: trials are paused, and continued when they are worth it.")] = "full",
           previous: Annotated[list[str] | None, typer.Option(
               "--from", help="An older study to learn from, perhaps of another space or other tasks. "
                              "Several times.")] = None,
           init: Annotated[Path | None, typer.Option(
               help="A file made by `optsearch export` whose weights trials begin with, as far as they fit.")] = None,
           stop_gain: Annotated[float, typer.Option(
               help="The study ends by itself when the value is expected to improve by less for a trial's full budget; "
                    "0 is never.")] = 0.0,
           pareto: Annotated[bool, typer.Option(
               "--pareto", help="Look for the front of quality, FLOPs and memory instead of one best.")] = False,
           max_flops: Annotated[float, typer.Option(
               help="FLOPs that a step may take per parameter; inf is no limit.")] = 6000.0,
           max_state_bytes: Annotated[float, typer.Option(
               help="Bytes of state that a parameter may take; inf is no limit.")] = 128.0,
           horizon: Annotated[int, typer.Option(help="Inner steps that the optimizer is to be best at.")] = 200,
           budget: Annotated[int, typer.Option(help="Inner steps that one trial may spend.")] = 200_000,
           seed: Annotated[int, typer.Option(help="Seed of sampler and trials.")] = 0,
           storage: StorageOption = None) -> None:
    """Make a study: a space to search, tasks to learn on, a budget a trial.

    Example: optsearch study create digits --task digits_mlp
    """
    from optsearch.search.definition import define
    from optsearch.search.study import Store

    tasks, domains = _weighted(task or []), _weighted(domain or [])
    is_weighted = any(weight != 1 for weight in tasks.values())
    definition = define(space=space, tasks=tasks if is_weighted else list(tasks), domains=domains,
                        validation=validation or [], held_out=held_out or [], sampling=sampling, sampler=sampler,
                        pruner=pruner, scheduler=scheduler, horizon=horizon, budget=budget, seed=seed,
                        previous=previous or [], initial=str(init or ""), stop_gain=stop_gain, pareto=pareto,
                        max_flops=_limit(max_flops), max_state_bytes=_limit(max_state_bytes))
    store = Store.at(storage)
    store.create(name, definition)
    print(f"made study {name} in {store.url}: space {space}, {roles_in_words(definition)}\n"
          f"next: optsearch study run {name} --trials 40 --workers 2")


def _limit(value: float) -> float | None:
    return None if value == inf else value


def _weighted(values: list[str]) -> dict[str, float]:
    """Names, some of them with `=weight`."""
    found: dict[str, float] = {}
    for value in values:
        name, _, weight = value.rpartition("=")
        try:
            found |= {name: float(weight)} if name else {value: 1.0}
        except ValueError:
            raise UsageError(f"`{value}` has no number after `=`. Expected something like vision=0.4.") from None
    return found


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
    from optsearch.search.definition import StudyDefinition
    from optsearch.search.duplicates import DUPLICATE_OF, state_in_words
    from optsearch.search.objectives import front_of, has_front, value_of
    from optsearch.search.study import Store, summary

    study = Store.at(storage).load(name)
    definition, counts = StudyDefinition.of(study), summary(study)
    trials = study.get_trials(deepcopy=False)
    rows = [(str(trial.number), state_in_words(trial), value_in_words(trial.values),
             in_brief(trial.user_attrs.get("design", {}))) for trial in trials]
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
    emit(counts | facts | {"trials": as_data}, as_json,
          [in_words(counts), f"space {definition.space}, horizon {definition.horizon}, budget {definition.budget}, "
           f"seed {definition.seed}; {definition.sampler} sampler, {stopping}; "
           f"allows {definition.limits} per parameter",
           roles_in_words(definition), *front, *columns(rows)])


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
