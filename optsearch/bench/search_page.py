"""The comparison of searchers for a person: tables, a picture, a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optsearch import pictures
from optsearch.bench.searchers import available
from optsearch.errors import FileError
from optsearch.tables import Table

Content = Mapping[str, Any]
# Parts of all trials at which the table shows the regret.
PARTS = (0.1, 0.25, 0.5, 1.0)
NOTHING = "-"


def search_tables(content: Content) -> list[Table]:
    """The methods, the forecasts of the predictor, the problems."""
    tables = [_methods(content), _families(content)]
    return [tables[0], _predictor(content["predictor"]), tables[1]] if content.get("predictor") else tables


def write_search(content: Content, directory: Path) -> list[Path]:
    """`search.md`, `search.png` and `summary.json`; returns what was written."""
    page, picture, figures = directory / "search.md", directory / "search.png", directory / "summary.json"
    lines = ["# Searchers, compared", "", *_words(content), "",
             "![Regret and rank against the number of trials](search.png)"]
    for table in search_tables(content):
        lines += ["", *table.markdown()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines) + "\n")
        figures.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        pictures.races(picture, content["budgets"], content["regret"], content["rank"])
    except OSError as error:
        raise FileError(f"{directory} could not be written to: {error.strerror or error}. "
                        "Choose another folder with --output.") from error
    return [page, picture, figures]


def _words(content: Content) -> list[str]:
    """How the figures were made."""
    table = content["table"]
    return [
        f"Made by `optsearch bench search` from {table['curves']} learning curves of {table['designs']} random "
        f"designs, each meta-trained with our own engine for {table['budget']:,} inner steps. Every family is a "
        f"problem; each method searched it from {content['seeds']} seeds. A design of the table answers with its own "
        "curve, any other with that of extremely randomised trees fitted on the table (a model of another kind than "
        "those of the searchers) and with chance as between two meta-trainings of the same design.",
        "",
        "A trial is a full trial's worth of inner steps: what is spent on trials that are pruned or paused counts, and "
        "so does the searcher's own processor time, as the inner steps that the table's machine makes meanwhile. Of "
        "the designs that were trained to their end, the one with the lowest value that the searcher saw is the "
        "incumbent, and its regret is taken without chance: 0 is the best that is known of the table, random designs "
        "and all runs, 1 the worst. Regrets are means over the families; figures are medians over seeds (quartiles)."]


def _methods(content: Content) -> Table:
    cap = content["budgets"][-1]
    places = [min(range(len(content["budgets"])), key=lambda index: abs(content["budgets"][index] - part * cap))
              for part in PARTS]
    counts, bare = content["trial_equivalents"], content["trial_equivalents_without_time"]
    described = {name: method.description for name, method in available().items()}
    rows = [(name, described.get(name, ""), count_in_words(counts[name]),
             count_in_words(bare[name]), *(_figure(content["regret"][name][1][place], 3) for place in places),
             _figure(_known(content["rank"][name])[-1]), str(content["limits"][name]),
             f"{content['trials'][name]:.0f}", f"{content['seconds_per_trial'][name]:.2f}")
            for name in sorted(counts, key=lambda name: (_is_censored(counts[name]), counts[name]["median"],
                                                         _known(content["regret"][name][1])[-1]))]
    return Table(
        f"Trials until the regret that random search has after {cap:.0f}",
        "Bare: without the searcher's own time. Then the regret at so many trials, the average rank at the last place "
        "where all still search, when it was stopped (costly ones earlier; >= where half of the seeds were not there "
        "by then), how many trials were begun, and processor seconds of the searcher for each.",
        ("method", "what it is", "trials", "bare", *(f"at {content['budgets'][place]:.0f}" for place in places),
         "rank", "until", "begun", "seconds"), rows)


def count_in_words(count: Mapping[str, float]) -> str:
    """Median (low..high); >= where half of the seeds, or more than the quartile, did not come there."""
    censored, seeds = count["num_censored"], count["num_seeds"]
    median = f"{'>= ' if _is_censored(count) else ''}{count['median']:.1f}"
    high = f"{'>= ' if 4 * censored > seeds else ''}{count['high']:.1f}"
    return f"{median} ({count['low']:.1f}..{high})" + (f", {censored} of {seeds} not" if censored else "")


def _is_censored(count: Mapping[str, float]) -> bool:
    """Whether the median is only known to be at least what it says."""
    return 2 * count["num_censored"] > count["num_seeds"]


def _families(content: Content) -> Table:
    rows = [(family, _figure(found["rank_correlation"]), _figure(found["r2"]), _figure(found["repeat_correlation"]),
             f"{found['best']:.3f}..{found['worst']:.3f}", f"{found['steps_per_second']:.0f}")
            for family, found in content["families"].items()]
    return Table(
        "The problems", "How well the trees tell the ends of designs that they have not seen (Kendall's rank "
        "correlation, R2, ten folds), beside the rank correlation of two meta-trainings of the same designs; the "
        "values that regret 0 and 1 stand for; inner steps per second.",
        ("family", "rank correlation", "R2", "of repeats", "values", "steps/s"), rows)


def _predictor(found: Mapping[str, Any]) -> Table:
    rows = [(f"{part} %", _figure(value), _figure(_of_part(found["last_value_tau"], part)))
            for part, value in found["tau"].items()]
    return Table(
        "The performance predictor", "Kendall's rank correlation of forecast and end, and of last value and end, by "
        f"the part of the budget spent. Of 90 % intervals {_percent(found['coverage_90'])} hold the end; of the best "
        f"tenth {_percent(found['false_prune'])} would be pruned, which saves {_percent(found['compute_saved'])} of "
        "the inner steps.", ("budget spent", "forecast", "last value"), rows)


def _of_part(value: Any, part: str) -> float | None:
    return value.get(part) if isinstance(value, Mapping) else value


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _figure(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(part: float | Mapping[str, float] | None) -> str:
    if isinstance(part, Mapping):
        return ", ".join(f"{_percent(value)} ({name} %)" for name, value in part.items())
    return NOTHING if part is None else f"{part:.0%}"
