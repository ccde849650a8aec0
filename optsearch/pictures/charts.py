"""A chart as data, drawn once by matplotlib for pages and files; `interactive` draws the same for a dashboard."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optsearch.pictures.curves import LEARNED_COLOUR, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Readable on white and on black; the first stands out.
CHART_COLOURS = (LEARNED_COLOUR, "#2a9d8f", "#e09f3e", "#8d6bb8", "#5b8fd6", "#8a9a5b", "#e76f51", "#7f8c8d")
QUIET_COLOUR = "#8c8c8c"
# Inches, so that words can be read where a phone shows all of it; the characters of a legend's line.
WIDTH, LEGEND_CHARACTERS = 4.8, 66
# Logarithmic axes over less than this have ticks as others do.
NARROW = 5.0
# Stands in a drawing for the colour of the text around it.
INK = "#0a0b0c"

Look = Literal["line", "step", "points", "bars"]


@dataclass(frozen=True)
class Series:
    """One line, cloud or row of bars; `x` may be words for bars.

    `low` and `high` are a band around `y`, or for bars and points the ends of error bars. `texts` say what each point
    is, where somebody can point at it. What is `quiet` is drawn thin and grey, without a place in the legend.
    """

    label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    look: Look = "line"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    texts: Sequence[str] = ()
    quiet: bool = False


@dataclass(frozen=True)
class Chart:
    """What is to be seen; `mark` is a dashed horizontal line, `note` a sentence on how to read it.

    Bars lie: their words stand on the vertical axis, and `horizontal` is the axis of their values.
    """

    title: str
    horizontal: str
    vertical: str
    series: Sequence[Series] = field(default_factory=tuple)
    log_x: bool = False
    log_y: bool = False
    mark: float | None = None
    note: str = ""

    def __repr__(self) -> str:
        return f"<Chart {self.title!r}: {self.vertical} over {self.horizontal}>"

    def _repr_html_(self) -> str:
        return chart_svg(self)


def save_chart(path: Path, chart: Chart) -> None:
    """Draw to `path`, whose ending says as what: .png or .svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drawn(chart, "#222222").savefig(path, dpi=130)


def chart_svg(chart: Chart) -> str:
    """An `<svg>` element for a page: text and axes take the colour of the page's text, the ground is the page's."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.title}):
        buffer = io.StringIO()
        _drawn(chart, INK).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg"):].replace(INK, "currentColor")


def _drawn(chart: Chart, ink: str) -> "Figure":
    bars = [series for series in chart.series if series.look == "bars"]
    labels = [series.label for series in chart.series if not series.quiet]
    num_columns = max(1, int(LEGEND_CHARACTERS / (max(map(len, labels), default=0) + 6)))
    num_rows = ceil(len(labels) / num_columns) if len(labels) > 1 else 0
    height = 1.1 + 0.3 * max(map(len, (series.x for series in bars))) * len(bars) if bars else 3.2
    drawn, (axis,) = figure(width=WIDTH, height=height + 0.19 * num_rows)
    colours = cycle(CHART_COLOURS)
    for place, series in enumerate(chart.series):
        _draw(axis, series, QUIET_COLOUR if series.quiet else next(colours), (place, len(bars)))
    if chart.mark is not None:
        axis.axhline(chart.mark, color=QUIET_COLOUR, linewidth=1, linestyle="--", zorder=0)
    axis.set(xlabel=chart.horizontal, ylabel=chart.vertical, **_scales(chart))
    axis.set_title(chart.title, fontsize="medium", loc="left", color=ink)
    _format(axis, chart, is_words=bool(bars))
    axis.xaxis.label.set_color(ink)
    axis.yaxis.label.set_color(ink)
    if num_rows:
        # Of those that Matplotlib finds, quiet ones would fill the picture; error bars it finds last.
        found = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        drawn.legend([found[label] for label in labels], labels, frameon=False, fontsize="small", labelcolor=ink,
                     loc="outside lower left", ncols=num_columns)
    axis.tick_params(colors=ink, which="both")
    axis.spines[:].set_color(ink)
    return drawn


def _scales(chart: Chart) -> dict[str, str]:
    return {name: "log" for name, is_log in (("xscale", chart.log_x), ("yscale", chart.log_y)) if is_log}


def _draw(axis: "Axes", series: Series, colour: str, place: tuple[int, int]) -> None:
    if series.look == "bars":
        index, count = place
        heights = [row + 0.8 * ((index + 0.5) / count - 0.5) for row in range(len(series.x))]
        axis.barh(heights, series.y, 0.8 / count, label=series.label, color=colour, xerr=_errors(series),
                  error_kw={"ecolor": QUIET_COLOUR})
        axis.set_yticks(range(len(series.x)), list(map(str, series.x)))
        axis.set_ylim(len(series.x) - 0.5, -0.5)
        return
    if series.look == "points":
        axis.errorbar(series.x, series.y, yerr=_errors(series), fmt="o", label=series.label, color=colour,
                      markersize=3 if series.quiet else 5, alpha=0.8, elinewidth=0.8)
        return
    style = "steps-post" if series.look == "step" else "default"
    axis.plot(series.x, series.y, label=series.label, color=colour, linewidth=0.8 if series.quiet else 1.8,
              alpha=0.55 if series.quiet else 1.0, marker="o" if len(series.x) == 1 else None, markersize=3,
              drawstyle=style)
    if series.low:
        axis.fill_between(series.x, series.low, series.high, color=colour, alpha=0.15, linewidth=0,
                          step="post" if series.look == "step" else None)


def _errors(series: Series) -> list[list[float]] | None:
    """Lengths of error bars below and above."""
    if not series.low:
        return None
    rows = list(zip(series.y, series.low, series.high, strict=True))
    return [[max(0.0, y - low) for y, low, _ in rows], [max(0.0, high - y) for y, _, high in rows]]


def _format(axis: "Axes", chart: Chart, *, is_words: bool) -> None:
    """Few ticks with short names, on every axis that has numbers."""
    if is_words:
        _ticks(axis.xaxis, chart.log_x, [series.y for series in chart.series])
        return
    _ticks(axis.xaxis, chart.log_x, [series.x for series in chart.series])
    _ticks(axis.yaxis, chart.log_y, [series.y for series in chart.series])


def _ticks(part: "Axis", is_log: bool, values: Sequence[Sequence[float] | Sequence[str]]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    numbers = [value for row in values for value in row if not isinstance(value, str)]
    is_whole = all(isinstance(value, int) for value in numbers)
    low, high = part.get_view_interval()
    # Between few powers of ten no round number may lie.
    is_wide = is_log and high > NARROW * low
    part.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8) if is_wide
                          else MaxNLocator(6, integer=is_whole))
    if is_wide:
        part.set_minor_formatter(NullFormatter())
    elif is_log:
        part.set_minor_locator(NullLocator())
    if any(abs(value) >= 1000 for value in numbers):
        part.set_major_formatter(EngFormatter(sep=""))
    elif is_log:
        part.set_major_formatter("{x:g}")
