"""`optsearch study finalists`: the best trials once more, with new seeds, until the best is known."""

from typing import Annotated

import typer

from optsearch.cli.options import (
    DeviceOption,
    JsonOption,
    QuietOption,
    StorageOption,
    WorkersOption,
    emit,
    slots_of,
)


def finalists(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="A study, or several to compare.")],
              top: Annotated[int, typer.Option(min=1, help="How many of the best trials of each take part.")] = 4,
              confidence: Annotated[float, typer.Option(
                  help="The best drops out with a probability of at most 1 minus this.")] = 0.95,
              max_seeds: Annotated[int, typer.Option(help="Meta-trainings of each at most.")] = 8,
              margin: Annotated[float, typer.Option(
                  help="A difference in value that is none to you; 0.01 is 1 % of the loss.")] = 0.01,
              workers: WorkersOption = 1, device: DeviceOption = "cpu", storage: StorageOption = None,
              quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Meta-train the best trials again with new seeds until the best is known; then `export` takes its new weights.

    The best of many trials is partly the luckiest, so the trials' own values don't count. Each finalist is trained
    with the same new seeds and measured where no trial was; after three seeds and each further one, those clearly
    worse than the first drop out. The same command goes on after an interruption.

    Example: optsearch study finalists digits --workers 2
    """
    from optsearch.search.finalists import Asked, hold
    from optsearch.search.racing import Rules
    from optsearch.search.study import Store

    asked = Asked(tuple(names), top, Rules(confidence, max_seeds, margin))
    found = hold(Store.at(storage), asked, slots_of(device, workers), quiet=quiet)
    emit(found.to_config(), as_json, [
        *found.table.plain(), "", found.statement,
        f"next: optsearch export {found.winner.study} -o best.safetensors"])

