"""Pictures of curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
COLOURS = {"AdamW + cosine, tuned": "#888888"}
LEARNED_COLOUR = "#d1495b"
FURTHER_COLOURS = (LEARNED_COLOUR, "#00798c", "#edae49", "#7a5195", "#888888")


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


def learning_curve(path: Path, title: str, inner_steps: Sequence[int], values: Sequence[float]) -> None:
    """A trial's curve: log(relative loss) over the inner steps spent; below 0 it beats the tuned baseline."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    drawn, (axis,) = figure()
    axis.axhline(0, color="#888888", linewidth=1, linestyle="--")
    axis.plot(inner_steps, values, marker="o", markersize=3, color=LEARNED_COLOUR)
    axis.set(title=title, xlabel="inner steps spent", ylabel="log(loss / tuned AdamW's)")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    drawn.savefig(path, dpi=110)


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
