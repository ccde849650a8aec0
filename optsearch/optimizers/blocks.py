"""Pieces of tensors, and the blocks of neighbouring pieces that are worked on at once."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Segment:
    """The place of `copies` neighbouring tensors of one shape: among all parameters, rows, columns and tensors.

    Tensors of two and more dimensions are seen as matrices `rows x columns`, the first dimension against all
    others; vectors and scalars have one row a parameter and no columns (`is_matrix` is false).
    """

    parameters: slice
    rows: slice
    columns: slice
    tensors: slice
    is_matrix: bool

    @cached_property
    def copies(self) -> int:
        return self.tensors.stop - self.tensors.start

    @cached_property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of one copy."""
        return ((self.rows.stop - self.rows.start) // self.copies,
                (self.columns.stop - self.columns.start) // self.copies)

    @cached_property
    def size(self) -> int:
        """Parameters of one copy."""
        return (self.parameters.stop - self.parameters.start) // self.copies


@dataclass(frozen=True)
class Piece:
    """Rows `first` to `last` of a segment that is one tensor, or all of one; `index` is the segment's number."""

    index: int
    segment: Segment
    first: int
    last: int

    @property
    def width(self) -> int:
        return self.segment.matrix[1] if self.segment.is_matrix else 1

    @property
    def is_whole(self) -> bool:
        return self.last - self.first == self.segment.matrix[0]

    @cached_property
    def rows(self) -> slice:
        start = self.segment.rows.start
        return slice(start + self.first, start + self.last) if self.segment.copies == 1 else self.segment.rows

    @cached_property
    def parameters(self) -> slice:
        start = self.segment.parameters.start
        return (slice(start + self.first * self.width, start + self.last * self.width) if self.segment.copies == 1
                else self.segment.parameters)


@dataclass(frozen=True)
class Place:
    """Where a piece lies in vectors of a block's parameters, rows, columns and tensors alone."""

    parameters: slice
    rows: slice
    columns: slice
    tensors: slice


@dataclass(frozen=True)
class Block:
    """Neighbouring pieces that are worked on at once."""

    pieces: tuple[Piece, ...]

    @cached_property
    def parameters(self) -> slice:
        return slice(self.pieces[0].parameters.start, self.pieces[-1].parameters.stop)

    @cached_property
    def rows(self) -> slice:
        return slice(self.pieces[0].rows.start, self.pieces[-1].rows.stop)

    @cached_property
    def columns(self) -> slice:
        return slice(self.pieces[0].segment.columns.start, self.pieces[-1].segment.columns.stop)

    @cached_property
    def tensors(self) -> slice:
        return slice(self.pieces[0].segment.tensors.start, self.pieces[-1].segment.tensors.stop)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all of it are whole tensors."""
        return all(piece.is_whole for piece in self.pieces)

    @cached_property
    def kind(self) -> tuple[tuple[int, ...], ...]:
        """Equal for blocks that lie alike, so that what is done with them is the same."""
        return tuple((piece.last - piece.first, piece.segment.copies, piece.segment.size, *piece.segment.matrix)
                     for piece in self.pieces)

    @cached_property
    def placed(self) -> tuple[tuple[Piece, Place], ...]:
        """Every piece and its place."""
        starts = [whole.start for whole in (self.parameters, self.rows, self.columns, self.tensors)]
        parts = [(piece.parameters, piece.rows, piece.segment.columns, piece.segment.tensors) for piece in self.pieces]
        return tuple((piece, Place(*(_moved(place, start) for place, start in zip(part, starts, strict=True))))
                     for piece, part in zip(self.pieces, parts, strict=True))


def _moved(place: slice, start: int) -> slice:
    return slice(place.start - start, place.stop - start)
