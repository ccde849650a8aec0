"""`optsearch report`: a page about a study, or about two."""

from math import exp, inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsearch.cli.options import JsonOption, QuietOption, StorageOption, WorkersOption, emit, run_as_workers_do
from optsearch.errors import UsageError

if TYPE_CHECKING:
    from optsearch.report.material import Material


def report(names: Annotated[list[str], typer.Argument(metavar="NAME [NAME2]", help="A study, or two to compare.")],
           output: Annotated[Path | None, typer.Option(help="A folder; by default reports/NAME.")] = None,
           evaluate: Annotated[bool, typer.Option(
               "--evaluate/--no-evaluate", help="Measure the best design against tuned AdamW on fresh seeds and test "
                                                "rows; takes minutes, what was measured before is kept.")] = True,
           seeds: Annotated[int, typer.Option(min=2, help="Inner seeds of that.")] = 16,
           workers: WorkersOption = 1, storage: StorageOption = None, quiet: QuietOption = False,
           as_json: JsonOption = False) -> None:
    """Write a page about a study, as one HTML file and as Markdown: what was found, what it is worth, what it cost.

    Example: optsearch report digits, or optsearch report digits digits2
    """
    if not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise UsageError(f"a report is about one study, or about two different ones, not {' '.join(names)}.")
    if evaluate:
        run_as_workers_do()
    from optsearch.report import page
    from optsearch.report.material import Wanted, gather
    from optsearch.report.pair_page import pair_page
    from optsearch.report.study_page import study_page
    from optsearch.search.study import Store

    store = Store.at(storage)
    folder = output or Path("reports") / "-vs-".join(map(page.file_name, names))
    for name in names:
        store.load(name)
    materials = []
    for name in names:
        place = folder if len(names) == 1 else folder / page.file_name(name)
        materials.append(gather(store, name, Wanted(directory=place, is_evaluated=evaluate, num_seeds=seeds,
                                                    num_workers=workers, quiet=quiet or as_json)))
    made = study_page(materials[0]) if len(materials) == 1 else pair_page(*materials)
    written = page.write(made, folder)
    emit({"written": [str(path) for path in written], "studies": [_figures(material) for material in materials]},
         as_json, [made.lead, *(f"wrote {path}" for path in written[:len(page.NAMES)])])


def _figures(material: "Material") -> dict[str, Any]:
    """The main ones of a study."""
    from optsearch.report.worth import trainings_in_steps

    snapshot, headline, trial = material.snapshot, material.headline, material.winner
    found: dict[str, Any] = {"name": material.name, "num_trials": len(snapshot.trials),
                             "inner_steps": snapshot.num_spent, "seconds": round(snapshot.seconds, 1),
                             "trial": trial.number if trial else None,
                             "loss_ratio": exp(trial.value or 0.0) if trial else None}
    if headline is not None:
        trainings = trainings_in_steps(snapshot.num_spent, headline.horizon, headline.learned.train_speedup.value)
        found |= {"evaluation": headline.to_config(), "pays_after": None if trainings == inf else trainings}
    return found
