"""How the tensors of a model lie side by side in one vector."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from optsearch import trees
from optsearch.optimizers.blocks import Block, Piece, Segment
from optsearch.optimizers.constants import constant
from optsearch.trees import Tree

# Parameters: so many that calls don't count, so few that a block's features stay in the cache.
BLOCK_SIZE = 20_000
# Numbers that a compiled kernel holds for a block, which takes fewer calls.
KERNEL_NUMBERS = 768_000
# Beside a CPU calls are all that counts, until a block's features fill the memory.
DEVICE_BLOCK_SIZE = 4_000_000


@dataclass(frozen=True)
class Layout:
    """The shapes of a tree of params, and the segments of the vector `[*batch, num_parameters]` that holds it."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    block_size: int = BLOCK_SIZE

    @staticmethod
    def of(params: Tree, batch_dims: int = 0) -> "Layout":
        """The layout of `params` whose leaves are `[*batch, *shape]`; equal shapes give the same object."""
        on_cpu = next(iter(params.values())).device.type in ("cpu", "meta")
        return _layout(tuple((name, tuple(leaf.shape[batch_dims:])) for name, leaf in params.items()),
                       BLOCK_SIZE if on_cpu else DEVICE_BLOCK_SIZE)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        segments, starts = [], [0, 0, 0, 0]
        for shape, copies in self._runs():
            size = prod(shape)
            rows, columns = (shape[0], size // max(shape[0], 1)) if len(shape) > 1 else (size, 0)
            ends = [start + copies * count for start, count in zip(starts, (size, rows, columns, 1), strict=True)]
            parameters, of_rows, of_columns, tensors = map(slice, starts, ends)
            segments.append(Segment(parameters, of_rows, of_columns, tensors, is_matrix=len(shape) > 1))
            starts = ends
        return tuple(segments)

    def _runs(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Shapes, and how many neighbours of that shape go into one block."""
        for shape, run in groupby(shape for _, shape in self.shapes):
            count, most = len(list(run)), max(1, self.block_size // max(1, prod(shape)))
            yield from ((shape, min(most, count - start)) for start in range(0, count, most))

    @property
    def num_parameters(self) -> int:
        return self.segments[-1].parameters.stop

    @property
    def num_rows(self) -> int:
        return self.segments[-1].rows.stop

    @property
    def num_columns(self) -> int:
        return self.segments[-1].columns.stop

    @property
    def num_tensors(self) -> int:
        return self.segments[-1].tensors.stop

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All parameters in blocks of about `block_size`: small tensors together, large ones row by row."""
        blocks: list[list[Piece]] = [[]]
        room = self.block_size
        for piece in self._pieces():
            size = piece.parameters.stop - piece.parameters.start
            if size > room and blocks[-1]:
                blocks.append([])
                room = self.block_size
            blocks[-1].append(piece)
            room -= size
        return tuple(Block(tuple(pieces)) for pieces in blocks)

    def for_kernels(self, width: int) -> "Layout":
        """The same in the blocks that are best where compiled kernels hold `width` numbers a parameter."""
        return self if self.block_size == DEVICE_BLOCK_SIZE else _layout(self.shapes, KERNEL_NUMBERS // max(1, width))

    @cached_property
    def single_blocks(self) -> tuple[Block, ...]:
        """As `blocks`, with one piece in each."""
        return tuple(Block((piece,)) for block in self.blocks for piece in block.pieces)

    @cached_property
    def num_kinds(self) -> int:
        """How many kinds of blocks there are."""
        return len({block.kind for block in self.blocks})

    def _pieces(self) -> Iterator[Piece]:
        for index, segment in enumerate(self.segments):
            num_rows, width = segment.matrix[0], max(1, segment.matrix[1])
            if segment.copies > 1:
                yield Piece(index, segment, 0, num_rows)
                continue
            step = max(1, self.block_size // width)
            # An empty vector has a piece too: there must be one where nothing else is.
            for first in range(0, num_rows if segment.is_matrix else max(1, num_rows), step):
                yield Piece(index, segment, first, min(first + step, num_rows))

    @staticmethod
    def flatten(tree: Tree, batch_dims: int) -> Tensor:
        """All leaves as one vector, which shares memory with a single leaf."""
        if len(tree) == 1:
            (leaf,) = tree.values()
            return leaf.reshape(*leaf.shape[:batch_dims], -1)
        return trees.ravel(tree, batch_dims)

    def unflatten(self, vector: Tensor) -> Tree:
        return trees.unravel(vector, dict(self.shapes))

    def per_segment(self, vector: Tensor) -> Iterator[Tensor]:
        """The parts of `[..., num_parameters]` that belong to each segment, `[..., copies, size]`."""
        parts = vector.split_with_sizes(self._lengths, -1)
        # Where one step is thousands of calls on small tensors, the cheapest call that does it counts.
        return (part.unsqueeze(-2) if segment.copies == 1 else torch.unflatten(part, -1, (segment.copies, segment.size))
                for segment, part in zip(self.segments, parts, strict=True))

    @cached_property
    def _lengths(self) -> list[int]:
        """Of each segment, in parameters."""
        return [segment.copies * segment.size for segment in self.segments]

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """Of each tensor, in parameters."""
        return tuple(segment.size for segment in self.segments for _ in range(segment.copies))

    def norms(self, vectors: Tensor) -> Tensor:
        """Of each tensor's part of `[..., k, num_parameters]`: `[..., k, num_tensors]`."""
        return torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in self.per_segment(vectors)], -1)

    def root_mean_squares(self, norms: Tensor) -> Tensor:
        """Of each tensor, by its norm `[..., num_tensors]`."""
        return norms / constant(self._roots, norms)

    @cached_property
    def _roots(self) -> tuple[float, ...]:
        return tuple(max(1, size)**0.5 for size in self._sizes)

    def times(self, vector: Tensor, factors: Tensor) -> Tensor:
        """`[..., num_parameters]` times one factor a tensor, `[..., num_tensors]`."""
        return vector * self.spread(factors)

    def spread(self, values: Tensor) -> Tensor:
        """One number a tensor, `[..., num_tensors]`, as one a parameter."""
        parts = zip(self.segments, values.split_with_sizes([segment.copies for segment in self.segments], -1),
                    strict=True)
        batch = values.shape[:-1]
        return joined([part.expand(*batch, segment.size) if segment.copies == 1 else
                       part[..., None].expand(*batch, segment.copies, segment.size).flatten(-2)
                       for segment, part in parts])

    def dots(self, first: Tensor, second: Tensor) -> Tensor:
        """Inner products of each tensor's parts of two vectors: `[..., num_tensors]`."""
        return torch.cat([part.sum(-1) for part in self.per_segment(first * second)], -1)

    def scaled(self, vector: Tensor, scale: Callable[[Tensor], Tensor], of: Tensor | None = None) -> Tensor:
        """`vector` with each tensor's part multiplied by `scale(part)`, computed from `of` where given."""
        sources = self.per_segment(vector if of is None else of)
        return joined([(part * scale(source)).flatten(-2) for part, source
                       in zip(self.per_segment(vector), sources, strict=True)])


def joined(parts: list[Tensor]) -> Tensor:
    """Along the last dimension, without a copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


@lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...], block_size: int) -> Layout:
    return Layout(shapes, block_size)
