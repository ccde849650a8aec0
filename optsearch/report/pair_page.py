"""Two studies side by side."""

from dataclasses import replace

from optsearch.pictures import Chart
from optsearch.report.charts import progress_chart
from optsearch.report.material import WEIGHTS, Material
from optsearch.report.page import Block, Page, Section, file_name
from optsearch.report.study_page import asked, standing
from optsearch.report.winner import best_in_words, winner
from optsearch.report.worth import duration, worth
from optsearch.search.finalists import SHARED
from optsearch.tables import Table


def pair_page(one: Material, other: Material) -> Page:
    """Facts, the best so far of both in one chart, and both best designs."""
    both = [one, other]
    return Page(f"Studies {one.name} and {other.name}", _comparable(one, other), [
        Section("What was asked, and what was found", [asked(both), _found(both)]),
        Section("The best so far", [best_so_far(both)]),
        *(Section(f"How good the best of {each.name} is", [best_in_words(each), *standing(each.headline, each.name)])
          for each in both),
        *(Section(f"The winner of {each.name}", winner(each, f"{file_name(each.name)}/{WEIGHTS}")) for each in both),
        *(Section(f"What {each.name} cost", _cost(each)) for each in both)])


def _cost(material: Material) -> list[Block]:
    return worth(material.snapshot, material.headline)


def _comparable(one: Material, other: Material) -> str:
    """Whether values mean the same in both."""
    differing = [entry for entry in SHARED if getattr(one.snapshot.definition, entry)
                 != getattr(other.snapshot.definition, entry)]
    if not differing:
        return "Both learn and are judged on the same tasks with the same budget, so their values can be compared."
    return (f"They differ in {', '.join(differing)}, so that a lower value in one does not say that its search is "
            "better.")


def best_so_far(materials: list[Material]) -> Chart:
    """Each study's line over the inner steps that it has spent."""
    charts = [progress_chart(material.snapshot) for material in materials]
    lines = [replace(chart.series[-1], label=material.name) for chart, material in zip(charts, materials, strict=True)]
    return replace(charts[0], series=lines)


def _found(materials: list[Material]) -> Table:
    rows: list[tuple[str, ...]] = [
        ("best design", *(each.winner.in_brief if each.winner else "none yet" for each in materials)),
        ("inner steps spent", *(f"{each.snapshot.num_spent:,}" for each in materials)),
        ("process time of all trials", *(duration(each.snapshot.seconds) for each in materials))]
    for word, name in (("relative loss on test rows", "relative_loss"), ("speedup", "speedup"),
                       ("train speedup", "train_speedup"), ("time of a step, in AdamW's", "seconds_ratio")):
        rows.append((word, *(str(getattr(each.headline.learned, name)) if each.headline else "not measured"
                             for each in materials)))
    return Table("Found", "Intervals are of 95 %.", ("", *(each.name for each in materials)), rows)
