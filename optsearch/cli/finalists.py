"""`optsearch study finalists`: the best trials once more, with new seeds, until the best is known."""

from typing import TYPE_CHECKING, Annotated

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
from optsearch.tables import Table

if TYPE_CHECKING:
    from optsearch.search.finals import Finals


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
        *_table(found).plain(), "", found.statement,
        f"next: optsearch export {found.winner.study} -o best.safetensors"])


def _table(finals: "Finals") -> Table:
    race = finals.race
    rows = []
    for index in race.order:
        mean, seen, behind = finals.mean(index), finals.candidates[index].seen_value, race.behind[index]
        rows.append((finals.name(index), str(mean), f"{seen:.3f}", f"{finals.luck(index):+.3f}",
                     str(len(race.values[index])), "" if behind is None else str(behind),
                     f"after {len(race.values[index])}" if index in race.left else ""))
    return Table(
        f"Finalists of {' and '.join(dict.fromkeys(each.study for each in finals.candidates))}",
        f"values are log(loss / tuned AdamW's), below 0 is better; {finals.confidence} intervals; luck is how much "
        "better the search saw a trial than it is with new meta-seeds",
        ("", "new seeds", "the search saw", "luck", "seeds", "behind", "dropped out"), rows)
