"""Where the tiles lie that programs on a GPU work on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from optsearch.errors import CompileError
from optsearch.optimizers.layout import Layout

# What a program has side by side, and how many times it goes down from there.
LANES = 128
MOST = 16
# Kept of a row, or of an entry of a vector, where it has fewer parameters than that.
MOST_NUMBERS_A_ROW = 64


@dataclass(frozen=True)
class Tiles:
    """The tiles of a layout, in an order in which each tensor's are neighbours.

    `narrow` and `wide` `[tiles, 3]` hold a tensor's number, the first row and the first column. The lanes of a wide
    tile all lie in one row. `tensors` `[tensors, 6]` holds a tensor's first parameter, row and column, its rows and
    columns, and the lanes that lie in one row; `ends` `[tensors, 2]` the first of its tiles and the one after the last,
    counted over narrow and wide ones. A vector is a column whose place is after those of all matrices.
    """

    narrow: Tensor
    wide: Tensor
    tensors: Tensor
    ends: Tensor
    sizes: Tensor
    is_vector_row: Tensor

    @staticmethod
    @lru_cache(maxsize=16)
    def of(layout: Layout, device: torch.device) -> "Tiles":
        """Made once for each."""
        tensors = list(_tensors(layout))
        if any(num_rows * max(width, MOST_NUMBERS_A_ROW) >= 2**31 for _, _, _, num_rows, width, _ in tensors):
            raise CompileError("a tensor is too large for places of 32 bits")
        tiles = [_tiles(index, *tensor[3:]) for index, tensor in enumerate(tensors)]
        is_wide = [tensor[-1] == LANES for tensor in tensors]
        parts = [torch.cat([torch.zeros(0, 3, dtype=torch.int32), *(
            tile for tile, is_one in zip(tiles, is_wide, strict=True) if is_one == kind)]) for kind in (False, True)]
        ends, counts = [(0, 0)] * len(tensors), [0, len(parts[0])]
        for index, (tile, kind) in enumerate(zip(tiles, is_wide, strict=True)):
            ends[index] = (counts[kind], counts[kind] + len(tile))
            counts[kind] += len(tile)
        sizes = torch.tensor([float(max(1, tensor[3] * tensor[4])) for tensor in tensors])
        is_vector = torch.cat([torch.full((tensor[3],), float(len(shape) < 2))
                               for tensor, (_, shape) in zip(tensors, layout.shapes, strict=True)])
        return Tiles(*(table.to(device) for table in (
            *parts, torch.tensor(tensors), torch.tensor(ends, dtype=torch.int32), sizes, is_vector)))

    @property
    def count(self) -> int:
        return len(self.narrow) + len(self.wide)

    def parts(self, values: Tensor) -> Iterator[tuple[Tensor, bool, Tensor]]:
        """Narrow and wide tiles, as far as there are any, whether they are wide, and their rows of `values`."""
        split = len(self.narrow)
        yield from ((tiles, is_wide, rows) for tiles, is_wide, rows in (
            (self.narrow, False, values[:split]), (self.wide, True, values[split:])) if len(tiles))


def _tensors(layout: Layout) -> Iterator[tuple[int, ...]]:
    """What `Tiles.tensors` says of each."""
    shapes = [shape for _, shape in layout.shapes]
    matrices = [(shape[0], prod(shape[1:])) if len(shape) > 1 else (prod(shape), 0) for shape in shapes]
    starts = zip(*(accumulate(counts, initial=0) for counts in (
        map(prod, shapes), (rows for rows, _ in matrices), (columns for _, columns in matrices))), strict=True)
    for shape, (rows, columns), (parameter, row, column) in zip(shapes, matrices, starts, strict=False):
        width = columns if len(shape) > 1 else 1
        yield (parameter, row, column if len(shape) > 1 else layout.num_columns, rows, width,
               min(LANES, 1 << max(0, width - 1).bit_length()))


def _tiles(tensor: int, num_rows: int, width: int, across: int) -> Tensor:
    """Those of one tensor."""
    rows, columns = torch.arange(0, num_rows, MOST * (LANES // across)), torch.arange(0, width, across)
    places = torch.cartesian_prod(rows, columns) if len(rows) and len(columns) else torch.zeros(0, 2)
    return torch.cat([torch.full((len(places), 1), tensor), places], -1).to(torch.int32)
