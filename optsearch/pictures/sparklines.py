"""A curve as small as a word."""

from collections.abc import Sequence
from math import isfinite

from optsearch.pictures.curves import LEARNED_COLOUR

WIDTH, HEIGHT, MARGIN = 180, 36, 3


def sparkline_svg(xs: Sequence[float], ys: Sequence[float], mark: float | None = None) -> str:
    """An `<svg>` element; `mark` is a dashed line in the colour of the text around. Empty without finite points."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if isfinite(y)]
    if not points:
        return ""
    heights = [*(y for _, y in points), *([] if mark is None else [mark])]
    last, low = max(x for x, _ in points), min(heights)
    span = max(heights) - low or 1.0

    def at(y: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (y - low) / span, 1)

    places = " ".join(f"{round(MARGIN + (WIDTH - 2 * MARGIN) * x / (last or 1), 1)},{at(y)}" for x, y in points)
    dashed = "" if mark is None else (f'<line x1="0" x2="{WIDTH}" y1="{at(mark)}" y2="{at(mark)}" '
                                      'stroke="currentColor" stroke-dasharray="3 3" opacity="0.5"/>')
    return (f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="curve">{dashed}<polyline points="{places}" '
            f'fill="none" stroke="{LEARNED_COLOUR}" stroke-width="2"/>'
            f'<circle cx="{places.split(" ")[-1].split(",")[0]}" cy="{at(points[-1][1])}" r="2.5" '
            f'fill="{LEARNED_COLOUR}"/></svg>')
