"""Charts for a page that must open fast, however many trials there are."""

from dataclasses import replace
from math import ceil, nan
from typing import Any

from optsearch.pictures import Chart, Series
from optsearch.pictures.interactive import interactive

# Numbers in a plot of quiet lines together; points of any other series.
MOST_QUIET, MOST_POINTS = 1500, 400
DIGITS = 4


def plot(chart: Chart) -> Any:
    """A plotly figure of few, short numbers."""
    figure = interactive(lean(chart))
    # The dashboard brings its own, for light and for dark.
    figure.update_layout(template="none")
    return figure


def lean(chart: Chart) -> Chart:
    """The chart with one line for all quiet ones, of which some are left out if there are many."""
    quiet = [series for series in chart.series if series.quiet and series.look == "line"]
    others = [thin(series) for series in chart.series if series not in quiet]
    return replace(chart, series=[*([_together(quiet)] if quiet else []), *others])


def thin(series: Series) -> Series:
    """At most `MOST_POINTS` of the points, the last of them among these, and short numbers."""
    every = ceil(len(series.y) / MOST_POINTS)
    part = slice((len(series.y) - 1) % every, None, every) if every else slice(None)
    x: list[Any] = [value if isinstance(value, str) else _short(value) for value in series.x[part]]
    return replace(series, x=x, y=list(map(_short, series.y[part])), low=list(map(_short, series.low[part])),
                   high=list(map(_short, series.high[part])), texts=series.texts[part])


def _together(quiet: list[Series]) -> Series:
    every = max(1, ceil(sum(len(series.y) for series in quiet) / MOST_QUIET))
    x, y = [], []
    for series in quiet[::every]:
        # No number, no line: one ends there and the next begins.
        x += [*(float(value) for value in series.x), nan]
        y += [*map(_short, series.y), nan]
    return Series("others", x, y, quiet=True)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
