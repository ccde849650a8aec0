"""Pictures of graphs: boxes, and lines between them."""

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from optsearch.layering import Line, placed
from optsearch.pictures.charts import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Face and edge of boxes, by what they are; others are grey.
BOX_COLOURS = {"per parameter": ("#d6eaf0", "#00798c"), "per tensor": ("#fbe5c0", "#c98a1b"),
               "hand-made": ("#e3e3e3", "#777777"), "schedule": ("#eadff0", "#7a5195")}
OTHER_BOX, LINE_COLOUR = ("#ffffff", "#333333"), "#8a8f98"
# Points; inches; dots.
NAME_SIZE, LINE_SIZE = 9.0, 8.0
LINE_HEIGHT, MARGIN, TITLE_HEIGHT = 0.155, 0.15, 0.4
PICTURE_WIDTH, LEAST_DPI, MOST_DPI = 1600, 100, 150


@dataclass(frozen=True)
class Box:
    """A node of a drawn graph: its name, lines below that, and what it is, which gives it its colour."""

    name: str
    lines: tuple[str, ...]
    kind: str


def graph(path: Path, title: str, boxes: Mapping[str, Box], edges: Collection[tuple[str, str]]) -> None:
    """A directed acyclic graph from left to right; `edges` are pairs of keys of `boxes`."""
    drawn = _drawn(title, boxes, edges, "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=min(MOST_DPI, max(LEAST_DPI, PICTURE_WIDTH / drawn.get_figwidth())))


def graph_svg(title: str, boxes: Mapping[str, Box], edges: Collection[tuple[str, str]]) -> str:
    """The same as an `<svg>` element; what stands outside boxes takes the colour of the page's text."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        buffer = io.StringIO()
        _drawn(title, boxes, edges, INK).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg"):].replace(INK, "currentColor")


def _drawn(title: str, boxes: Mapping[str, Box], edges: Collection[tuple[str, str]], ink: str) -> "Figure":
    from matplotlib.figure import Figure

    sizes = {name: _size(box) for name, box in boxes.items()}
    places = placed(sizes, edges)
    kinds = dict.fromkeys(box.kind for box in boxes.values() if box.kind in BOX_COLOURS)
    width = max(places.width, _head_width(title, kinds)) + 2 * MARGIN
    height = places.height + 2 * MARGIN + TITLE_HEIGHT
    drawn = Figure(figsize=(width, height))
    axis = drawn.add_axes((0, 0, 1, 1), xlim=(-MARGIN, width - MARGIN),
                          ylim=(height - MARGIN - TITLE_HEIGHT, -MARGIN - TITLE_HEIGHT))
    axis.axis("off")
    _draw_head(axis, title, kinds, ink)
    _draw_lines(axis, places.lines)
    for name, box in boxes.items():
        _draw_box(axis, box, places.centres[name], places.sizes[name])
    return drawn


@cache
def _text_width(text: str, size: float = LINE_SIZE, weight: str = "normal") -> float:
    """Inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().width) / 72


def _size(box: Box) -> tuple[float, float]:
    widths = [_text_width(box.name, NAME_SIZE, "bold"), *map(_text_width, box.lines)]
    return max(widths) + 0.26, LINE_HEIGHT * (1 + len(box.lines)) + 0.12


def _head_places(title: str, kinds: Iterable[str]) -> Iterable[tuple[str, float]]:
    """Where the legend's entries begin, and where the last ends."""
    x = _text_width(title, NAME_SIZE + 2, "bold") + 0.35
    for kind in kinds:
        yield kind, x
        x += _text_width(kind) + 0.5
    yield "", x


def _head_width(title: str, kinds: Iterable[str]) -> float:
    return max(x for _, x in _head_places(title, kinds))


def _draw_head(axis: "Axes", title: str, kinds: Iterable[str], ink: str) -> None:
    """The title, and what the colours mean."""
    axis.text(0, -TITLE_HEIGHT, title, size=NAME_SIZE + 2, weight="bold", va="center", color=ink)
    for kind, x in _head_places(title, kinds):
        if kind:
            _draw_patch(axis, kind, (x + 0.07, -TITLE_HEIGHT), (0.14, 0.14))
            axis.text(x + 0.22, -TITLE_HEIGHT, kind, size=LINE_SIZE, va="center", color=ink)


def _draw_patch(axis: "Axes", kind: str, centre: tuple[float, float], size: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    face, edge = BOX_COLOURS.get(kind, OTHER_BOX)
    axis.add_patch(FancyBboxPatch((centre[0] - size[0] / 2, centre[1] - size[1] / 2), *size, facecolor=face,
                                  edgecolor=edge, linewidth=1, boxstyle="round,pad=0,rounding_size=0.05", zorder=2))


def _draw_box(axis: "Axes", box: Box, centre: tuple[float, float], size: tuple[float, float]) -> None:
    _draw_patch(axis, box.kind, centre, size)
    top = centre[1] - LINE_HEIGHT * len(box.lines) / 2
    axis.text(centre[0], top, box.name, size=NAME_SIZE, weight="bold", ha="center", va="center", zorder=3)
    for index, line in enumerate(box.lines, start=1):
        axis.text(centre[0], top + LINE_HEIGHT * index, line, size=LINE_SIZE, ha="center", va="center",
                  color="#333333", zorder=3)


def _draw_lines(axis: "Axes", lines: Iterable[Line]) -> None:
    """Flat where they leave and where they arrive."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Outline

    for line in lines:
        points, codes = [line.points[0]], [Outline.MOVETO]
        for (x, y), (to_x, to_y) in pairwise(line.points):
            points += [((x + to_x) / 2, y), ((x + to_x) / 2, to_y), (to_x, to_y)]
            codes += [Outline.CURVE4] * 3
        style = "-|>,head_length=4,head_width=2" if line.is_last else "-"
        axis.add_patch(FancyArrowPatch(path=Outline(points, codes), arrowstyle=style, color=LINE_COLOUR,
                                       fill=line.is_last, linewidth=0.9, zorder=1))
