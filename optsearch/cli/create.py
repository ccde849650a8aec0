"""`optsearch study create`: a study from options, or from a file that has them."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optsearch.cli.options import NameArgument, StorageOption
from optsearch.cli.study_words import roles_in_words
from optsearch.errors import UsageError

if TYPE_CHECKING:
    from optsearch.search.definition import StudyDefinition
    from optsearch.search.study import Store

# What goes with a preset.
BESIDE_PRESET = {"name", "preset", "seed", "storage"}


def create(context: typer.Context, name: NameArgument,
           preset: Annotated[str | None, typer.Option(
               help="A shipped study (vision, nlp, speech, ...) or your .toml file, in place of all other options but "
                    "--seed and --storage.")] = None,
           space: Annotated[str, typer.Option(help="A space's name or a .toml file.")] = "all",
           task: Annotated[list[str] | None, typer.Option(
               help="A task to learn on, or ./my_tasks.py:NAME; NAME=2 has twice the turns. Several times.")] = None,
           domain: Annotated[list[str] | None, typer.Option(
               help="A domain's tasks, some of them held out; vision=0.4 has a weight. Several times.")] = None,
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

    Example: optsearch study create digits --task digits_mlp, or optsearch study create mine --preset vision
    """
    from optsearch.search.definition import define
    from optsearch.search.study import Store

    if preset is not None:
        _create_preset(context, name, preset, seed, storage)
        return
    tasks, domains = _weighted(task or []), _weighted(domain or [])
    is_weighted = any(weight != 1 for weight in tasks.values())
    definition = define(space=space, tasks=tasks if is_weighted else list(tasks), domains=domains,
                        validation=validation or [], held_out=held_out or [], sampling=sampling, sampler=sampler,
                        pruner=pruner, scheduler=scheduler, horizon=horizon, budget=budget, seed=seed,
                        previous=previous or [], initial=str(init or ""), stop_gain=stop_gain, pareto=pareto,
                        max_flops=_limit(max_flops), max_state_bytes=_limit(max_state_bytes))
    _keep(Store.at(storage), name, definition, 40)


def _create_preset(context: typer.Context, name: str, preset: str, seed: int, storage: str | None) -> None:
    from optsearch.search.definition import preset as load
    from optsearch.search.study import Store

    given = [option for option in context.params if (source := context.get_parameter_source(option))
             and source.name != "DEFAULT"]
    for option in given:
        if option not in BESIDE_PRESET:
            raise UsageError(f"--preset says all about a study but --seed; leave out `{option}`, or put it into a "
                             ".toml file of your own.")
    definition, num_trials = load(preset)
    _keep(Store.at(storage), name, replace(definition, seed=seed) if "seed" in given else definition, num_trials)


def _keep(store: "Store", name: str, definition: "StudyDefinition", num_trials: int) -> None:
    store.create(name, definition)
    print(f"made study {name} in {store.url}: space {definition.space}, {roles_in_words(definition)}\n"
          f"next: optsearch study run {name} --trials {num_trials} --workers 2")


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
