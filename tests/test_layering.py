"""Boxes of graphs at random: none on top of another, no line through one, all lines to the right."""

import random
from itertools import combinations, pairwise

import pytest

from optsearch.layering import placed


def random_graph(seed):
    """Sizes of boxes, and edges from earlier to later ones."""
    choice = random.Random(seed)
    names = [f"box{index}" for index in range(choice.randint(2, 20))]
    sizes = {name: (choice.uniform(0.5, 2), choice.uniform(0.2, 1)) for name in names}
    edges = {(names[choice.randrange(index)], names[index]) for index in range(1, len(names)) for _ in range(2)}
    return sizes, edges


def overlaps(one, other):
    return all(abs(a - b) < (size_a + size_b) / 2 - 1e-9 for a, b, size_a, size_b in zip(*one[:1], *other[:1],
               *one[1:], *other[1:], strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_lie_apart_and_inside(seed):
    sizes, edges = random_graph(seed)
    found = placed(sizes, edges)
    boxes = [(found.centres[name], found.sizes[name]) for name in sizes]
    assert not any(overlaps(one, other) for one, other in combinations(boxes, 2))
    for name, ((x, y), (width, height)) in zip(sizes, boxes, strict=True):
        assert width >= sizes[name][0]
        assert height == sizes[name][1]
        assert 0 <= x - width / 2 < x + width / 2 <= found.width + 1e-9
        assert 0 <= y - height / 2 < y + height / 2 <= found.height + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_lines_lead_to_the_right_and_around_boxes(seed):
    sizes, edges = random_graph(seed)
    found = placed(sizes, edges)
    right = {name: (x + found.sizes[name][0] / 2, y) for name, (x, y) in found.centres.items()}
    left = {name: (x - found.sizes[name][0] / 2, y) for name, (x, y) in found.centres.items()}
    after = {}
    for line in found.lines:
        assert all(x < to_x + 1e-9 for (x, _), (to_x, _) in pairwise(line.points))
        after.setdefault(line.points[0], set()).add(line.points[-1])
        if not line.is_last:
            # A waypoint's way through its column.
            (x, y), (to_x, to_y) = line.points[1:]
            assert y == to_y
            assert not any(overlaps((((x + to_x) / 2, y), (to_x - x, 0)), (found.centres[name], found.sizes[name]))
                           for name in sizes)

    def reached(point):
        return {point}.union(*(reached(other) for other in after.get(point, ())))

    for start, end in edges:
        assert left[end] in reached(right[start])
