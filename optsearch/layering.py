"""Where the boxes of a directed acyclic graph go so that it can be read (Sugiyama et al. 1981).

Each box stands in a column, left of all that it leads to and as near to it as can be; an edge over several columns
passes waypoints between their boxes. Lengths are in inches, y grows downwards.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Edge = tuple[str, str]
Point = tuple[float, float]
# Between columns, between boxes, and around lines that pass a column.
COLUMN_GAP, BOX_GAP, LINE_ROOM = 0.4, 0.1, 0.06
NUM_SWEEPS = 24
# How much straighter edges are that lead from one thing to one thing.
STRAIGHTNESS = 10.0


@dataclass(frozen=True)
class Line:
    """A part of an edge, through all its points; the last part ends at a box."""

    points: tuple[Point, ...]
    is_last: bool


@dataclass(frozen=True)
class Placed:
    """Boxes as wide as their columns, by their centres and sizes; edges; the size of the whole."""

    centres: dict[str, Point]
    sizes: dict[str, Point]
    lines: tuple[Line, ...]
    width: float
    height: float


def placed(sizes: Mapping[str, Point], edges: Collection[Edge]) -> Placed:
    """Boxes of these widths and heights, with edges (from, to)."""
    columns, steps = _with_waypoints(_columns(sizes, edges), edges)
    order = _ordered(columns, steps)
    heights = {name: sizes[name][1] + BOX_GAP if name in sizes else 2 * LINE_ROOM for name in columns}
    ys = _heights(order, steps, heights)
    widths = [max((sizes[name][0] for name in column if name in sizes), default=0.0) for column in order]
    lefts = list(accumulate((width + COLUMN_GAP for width in widths), initial=0.0))
    centres = {name: (lefts[place] + widths[place] / 2, ys[name]) for name, place in columns.items()}
    reach = {name: widths[place] / 2 for name, place in columns.items()}
    lines = tuple(_line(start, end, centres, reach, is_last=end in sizes) for start, end in steps)
    wide = {name: (widths[columns[name]], height) for name, (_, height) in sizes.items()}
    return Placed({name: centres[name] for name in sizes}, wide, lines, lefts[-1] - COLUMN_GAP,
                  max(ys[name] + heights[name] / 2 for name in columns))


def _line(start: str, end: str, centres: Mapping[str, Point], reach: Mapping[str, float], *, is_last: bool) -> Line:
    """From the right of one to the left of the other, and on through it where that is a waypoint."""
    (x, y), (to_x, to_y) = centres[start], centres[end]
    points = ((x + reach[start], y), (to_x - reach[end], to_y))
    return Line(points if is_last else (*points, (to_x + reach[end], to_y)), is_last)


def _columns(names: Iterable[str], edges: Collection[Edge]) -> dict[str, int]:
    """The number of each one's column: the last have the greatest, what nothing leads to is in column 0."""
    after: dict[str, list[str]] = {name: [end for start, end in edges if start == name] for name in names}
    distances: dict[str, int] = {}

    def distance(name: str) -> int:
        if name not in distances:
            distances[name] = max((distance(end) + 1 for end in after[name]), default=0)
        return distances[name]

    most = max(map(distance, after))
    targets = {end for _, end in edges}
    return {name: most - distances[name] if name in targets else 0 for name in after}


def _with_waypoints(columns: dict[str, int], edges: Collection[Edge]) -> tuple[dict[str, int], list[Edge]]:
    """With a waypoint in each column that an edge crosses; edges from one box share theirs."""
    columns, steps = dict(columns), dict[Edge, None]()
    for start, end in sorted(edges):
        way = [start, *(f"{start} {column}" for column in range(columns[start] + 1, columns[end])), end]
        columns |= {name: columns[start] + index for index, name in enumerate(way[:-1])}
        steps |= dict.fromkeys(pairwise(way))
    return columns, list(steps)


def _neighbours(names: Iterable[str], steps: Collection[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in before}
    for start, end in steps:
        before[end].append(start)
        after[start].append(end)
    return before, after


def _ordered(columns: Mapping[str, int], steps: Collection[Edge]) -> list[list[str]]:
    """Names by column, from top to bottom, with few crossings: each in turn where its neighbours are on average."""
    order: list[list[str]] = [[] for _ in range(max(columns.values()) + 1)]
    for name, place in columns.items():
        order[place].append(name)
    before, after = _neighbours(columns, steps)
    best, fewest = order, _crossings(order, after)
    for sweep in range(NUM_SWEEPS):
        towards = before if sweep % 2 == 0 else after
        places = {name: index / len(column) for column in order for index, name in enumerate(column)}
        for column in order if sweep % 2 == 0 else order[::-1]:
            wanted = {name: _mean([places[other] for other in towards[name]], places[name]) for name in column}
            column.sort(key=wanted.__getitem__)
            places |= {name: index / len(column) for index, name in enumerate(column)}
        if (count := _crossings(order, after)) < fewest:
            best, fewest = [list(column) for column in order], count
    return best


def _crossings(order: Sequence[Sequence[str]], after: Mapping[str, Sequence[str]]) -> int:
    count = 0
    for column, following in pairwise(order):
        places = {name: index for index, name in enumerate(following)}
        ends = [sorted(places[end] for end in after[name]) for name in column]
        count += sum(lower < upper for index, uppers in enumerate(ends) for upper in uppers
                     for lowers in ends[index + 1:] for lower in lowers)
    return count


def _heights(order: Sequence[Sequence[str]], steps: Collection[Edge], heights: Mapping[str, float]) -> dict[str, float]:
    """The y of each centre, near those of its neighbours; the topmost box begins at 0."""
    before, after = _neighbours(heights, steps)
    pulls: dict[str, list[tuple[str, float]]] = {name: [] for name in heights}
    for start, end in steps:
        pull = STRAIGHTNESS if len(after[start]) == len(before[end]) == 1 else 1.0
        pulls[start].append((end, pull))
        pulls[end].append((start, pull))
    ys = dict.fromkeys(heights, 0.0)
    for sweep in range(10 * NUM_SWEEPS):
        for column in order if sweep % 2 == 0 else order[::-1]:
            wanted = [sum(ys[other] * pull for other, pull in pulls[name]) / sum(pull for _, pull in pulls[name])
                      for name in column]
            ys |= zip(column, _apart(wanted, [heights[name] for name in column]), strict=True)
    top = min(y - heights[name] / 2 for name, y in ys.items())
    return {name: y - top for name, y in ys.items()}


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The places nearest to those wanted, by least squares, where neighbours don't overlap."""
    offsets = list(accumulate(((one + other) / 2 for one, other in pairwise(heights)), initial=0.0))
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        pools.append((want - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, count), (other, others) = pools.pop(), pools.pop()
            pools.append(((mean * count + other * others) / (count + others), count + others))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [place + offset for place, offset in zip(flat, offsets, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
