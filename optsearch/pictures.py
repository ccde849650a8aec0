"""Pictures of curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
COLOURS = {"AdamW + cosine, tuned": "#888888"}
LEARNED_COLOUR = "#d1495b"


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
