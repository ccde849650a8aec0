"""Pictures of curves and points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
COLOURS = {"AdamW + cosine, tuned": "#888888"}
LEARNED_COLOUR = "#d1495b"
FURTHER_COLOURS = (LEARNED_COLOUR, "#00798c", "#edae49", "#7a5195", "#888888")
PROFILE_COLOURS = (LEARNED_COLOUR, "#333333", "#00798c", "#edae49", "#7a5195", "#8ab17d", "#e76f51", "#577590",
                   "#b5838d", "#9a9a9a")
POINT_COLOURS = (LEARNED_COLOUR, *PROFILE_COLOURS[2:])


@dataclass(frozen=True)
class Panel:
    """One of several small pictures side by side: the axes' labels, and a line a label."""

    vertical: str
    horizontal: str
    curves: Mapping[str, Curve]


def figure(width: float = 5.0, height: float = 3.4, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure without a window, and its axes."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width * columns, height), layout="constrained")
    axes = [drawn.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def comparison(path: Path, panels: Mapping[str, Mapping[str, Curve]]) -> None:
    """One panel each of loss over inner steps, with one line an optimizer; the loss axis is logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter

    drawn, axes = figure(columns=len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, (steps, losses) in curves.items():
            axis.plot(steps, losses, label=label, color=COLOURS.get(label, LEARNED_COLOUR), linewidth=1.8)
        axis.set(title=title, xlabel="inner steps", ylabel="loss", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)


def scaling(path: Path, panels: Sequence[Panel]) -> None:
    """Costs over sizes, both axes logarithmic, one panel a kind of size."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator

    drawn, axes = figure(width=3.4, height=3.2, columns=len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for (label, (sizes, values)), colour in zip(panel.curves.items(), cycle(FURTHER_COLOURS), strict=False):
            axis.plot(sizes, values, label=label, color=colour, linewidth=1.6, marker="o", markersize=3)
        axis.set(xlabel=panel.horizontal, ylabel=panel.vertical, xscale="log", yscale="log")
        axis.set_xticks(sorted({size for sizes, _ in panel.curves.values() for size in sizes}))
        axis.xaxis.set_major_formatter(EngFormatter(sep="", places=0))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)


def profile(path: Path, curves: Mapping[str, Curve]) -> None:
    """The part of trainings that end within each ratio of the baseline's loss; the first curve stands out."""
    from matplotlib.ticker import NullLocator, PercentFormatter

    drawn, (axis,) = figure(width=8.0, height=4.0)
    for (label, (ratios, parts)), colour in zip(curves.items(), cycle(PROFILE_COLOURS), strict=False):
        axis.plot(ratios, parts, label=label, color=colour, linewidth=2.4 if colour == LEARNED_COLOUR else 1.4)
    axis.axvline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
    axis.set(xlabel="final loss / that of tuned AdamW + cosine", ylabel="part of trainings at or below", xscale="log",
             ylim=(0, 1.02))
    axis.set_xticks([0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)


def dots(path: Path, label: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One panel each of values by name, a line a name and a dot a value, on a logarithmic axis with a mark at 1."""
    from matplotlib.ticker import LogLocator, NullFormatter

    most = max(len(values) for values in panels.values())
    drawn, axes = figure(width=6.0, height=0.8 + 0.27 * most, columns=len(panels))
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        axis.axvline(1, color="#888888", linewidth=1, linestyle="--")
        for place, each in enumerate(values.values()):
            axis.plot(each, [place] * len(each), "o", color=LEARNED_COLOUR, markersize=5, alpha=0.75)
        axis.set(xlabel=label, xscale="log", yticks=range(len(values)), ylim=(len(values) - 0.5, -0.5))
        axis.set_title(title, fontsize="medium")
        axis.set_yticklabels(list(values))
        axis.grid(axis="y", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)


def races(path: Path, budgets: Sequence[float], bands: Mapping[str, Sequence[Sequence[float | None]]],
          ranks: Mapping[str, Sequence[float | None]]) -> None:
    """Regret (low, median, high by name) and average rank of searchers against budgets, which are logarithmic.

    None is where there is none.
    """
    drawn, (regret, rank) = figure(width=4.6, height=3.6, columns=2)
    for (name, band), colour in zip(bands.items(), cycle(PROFILE_COLOURS), strict=False):
        low, median, high = ([nan if value is None else value for value in values] for values in band)
        regret.plot(budgets, median, label=name, color=colour, linewidth=1.8)
        regret.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
        rank.plot(budgets, [nan if value is None else value for value in ranks[name]], color=colour, linewidth=1.8)
    for axis, label in ((regret, "normalised regret"), (rank, "average rank")):
        axis.set(xlabel="full trials' worth of inner steps", ylabel=label, xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
    regret.set_yscale("log")
    rank.invert_yaxis()
    rank.legend(*regret.get_legend_handles_labels(), frameon=False, fontsize="small", loc="center left",
                bbox_to_anchor=(1.01, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)


@dataclass(frozen=True)
class Colouring:
    """One way to colour points: the class of each, `indices` into `names`."""

    title: str
    names: Sequence[str]
    indices: Sequence[int]


def clouds(path: Path, points: Curve, axes: tuple[str, str], colourings: Sequence[Colouring]) -> None:
    """The same points in panels side by side, each coloured by something else; legends stand below.

    `axes` are the labels of the horizontal and the vertical one. What is drawn first may be hidden: shuffle the points.
    """
    from matplotlib.lines import Line2D

    drawn, panels = figure(width=4.2, height=4.6, columns=len(colourings))
    for axis, colouring in zip(panels, colourings, strict=True):
        axis.scatter(*points, c=[POINT_COLOURS[index % len(POINT_COLOURS)] for index in colouring.indices],
                     s=6, alpha=0.5, linewidths=0)
        axis.set(title=colouring.title, xlabel=axes[0], ylabel=axes[1] if axis is panels[0] else "")
        handles = [Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=name)
                   for name, colour in zip(colouring.names, cycle(POINT_COLOURS), strict=False)]
        axis.legend(handles=handles, frameon=False, fontsize="small", ncols=3, loc="upper center",
                    bbox_to_anchor=(0.5, -0.16), handletextpad=0.1, columnspacing=1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)
