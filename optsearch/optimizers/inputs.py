"""The features of one step as a rule consumes them: block by block, normalised and projected in one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsearch.optimizers.layout import Block, Layout, Piece, Place, joined
from optsearch.trees import Tree

# Names in `Inputs.rows`, `.columns`, `.common` and `.tensors`.
ROW_FEATURES, COLUMN_FEATURES, SHARED, CONTEXT, FILM = "row_features", "column_features", "shared", "context", "film"
Values = Callable[[Block, Tree], list[Tensor]]


@dataclass(frozen=True)
class Inputs:
    """The features of one step before they are made.

    `values` makes several `[..., f, n]` for a block from its part of the sources, by name: `parameters` `[..., n]`,
    `rows` `[..., num_rows]`, `columns` `[..., num_columns]`, `tensors` `[..., num_tensors]`, and `common`, of which
    each block gets all. Where `eps` is given, each feature is divided by √(`eps` + its mean square over the tensor).
    `turns_tall` takes rows for columns, and columns for rows, where a matrix has at least as many rows as columns.
    """

    layout: Layout
    eps: float | None
    values: Values
    parameters: Tree
    rows: Tree
    columns: Tree
    common: Tree
    tensors: Tree = field(default_factory=dict)
    turns_tall: bool = False

    def blocks(self) -> "Iterator[BlockInputs]":
        """The blocks in order; who is done with one lets go of it, as its features take much memory.

        Where there are several, their features are made twice, which costs less than keeping them: here for the mean
        squares of whole tensors, and again to be projected.
        """
        blocks = self.layout.blocks
        if len(blocks) == 1 or self.eps is None:
            return (BlockInputs(self, block, self._part(block)) for block in blocks)
        means: dict[int, Tensor] = {}
        for block in blocks:
            inputs = BlockInputs(self, block, self._part(block))
            for piece, share in zip(block.pieces, inputs.mean_squares(), strict=True):
                means[piece.index] = means[piece.index] + share if piece.index in means else share
        scales = {index: (mean + self.eps).rsqrt() for index, mean in means.items()}
        return (BlockInputs(self, block, self._part(block), scales) for block in blocks)

    def _part(self, block: Block) -> Tree:
        return ({name: leaf[..., block.parameters] for name, leaf in self.parameters.items()}
                | {name: leaf[..., block.rows] for name, leaf in self.rows.items()}
                | {name: leaf[..., block.columns] for name, leaf in self.columns.items()}
                | {name: leaf[..., block.tensors] for name, leaf in self.tensors.items()} | self.common)

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for every parameter: `[..., outputs, n]`."""
        return torch.cat([inputs.project(weight, bias) for inputs in self.blocks()], dim=-1)


def normalised(values: Tensor, places: Sequence[slice], copies: Sequence[int], eps: float | None) -> Tensor:
    """Features `[..., f, n]`, each divided by its root mean square within every copy in every place."""
    if eps is None:
        return values
    parts = [_copied(values[..., place], count) for place, count in zip(places, copies, strict=True)]
    return joined([(part * _scale(part, eps)[..., None]).flatten(-2) for part in parts])


def _copied(values: Tensor, copies: int) -> Tensor:
    """`[..., copies * n]` as `[..., copies, n]`."""
    return values.unflatten(-1, (copies, values.shape[-1] // copies))


def _scale(values: Tensor, eps: float) -> Tensor:
    """`[..., f, copies]` for the features `[..., f, copies, n]` of whole tensors."""
    mean_square = torch.linalg.vector_norm(values, dim=-1).square() / max(values.shape[-1], 1)
    return (mean_square + eps).rsqrt()


@dataclass(frozen=True)
class BlockInputs:
    """The features of one block; `scales` by segment, empty where the block holds whole tensors alone."""

    inputs: Inputs
    block: Block
    part: Tree
    scales: dict[int, Tensor] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        """All features of the parameters, made anew each time: whoever asks keeps them no longer than needed."""
        return torch.cat(self.inputs.values(self.block, self.part), -2)

    def mean_squares(self) -> Iterator[Tensor]:
        """What each piece adds to its tensors' mean squares, `[..., f, copies]`."""
        values = self.inputs.values(self.block, self.part)
        for piece, place in self.block.placed:
            parts = (_copied(each[..., place.parameters], piece.segment.copies) for each in values)
            norms = torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in parts], -2)
            yield norms.square() / max(1, piece.segment.size)

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for the block's parameters: `[..., outputs, n]`.

        Normalising a feature is one number a tensor, so it scales the columns of `weight`; features of rows,
        of columns, of the step and of the tensor are projected at their own size and broadcast. What a tensor's
        controller asks for by FiLM, a scale and a shift of the outputs, comes last.
        """
        rows, columns, shared, context, film = (
            self.part.get(name) for name in (ROW_FEATURES, COLUMN_FEATURES, SHARED, CONTEXT, FILM))
        values = self.values
        widths = [0 if part is None else part.shape[-2] for part in (values, rows, columns)]
        widths.append(0 if shared is None else shared.shape[-1])
        own, of_rows, of_columns, of_shared, of_context = weight.split(
            [*widths, weight.shape[-1] - sum(widths)], dim=-1)
        if shared is not None:
            bias = bias + (of_shared @ shared[..., None]).squeeze(-1)
        lines = None
        if rows is not None and columns is not None:
            needs_both = self._has_vectors or self.inputs.turns_tall
            lines = _Lines(of_rows @ rows, of_columns @ columns, of_columns @ rows if needs_both else None,
                           of_rows @ columns if self.inputs.turns_tall else None)
        of_tensors = None if context is None else of_context @ context
        parts = []
        for piece, place in self.block.placed:
            hidden = self._own(own, piece, values[..., place.parameters]).add_(bias[..., None])
            if lines is not None:
                lines.add(hidden, piece, place)
            if of_tensors is not None:
                _copied(hidden, piece.segment.copies).add_(of_tensors[..., place.tensors, None])
            if film is not None:
                scale, shift = film[..., place.tensors, None].chunk(2, dim=-3)
                _copied(hidden, piece.segment.copies).mul_(1 + scale).add_(shift)
            parts.append(hidden)
        return joined(parts)

    @property
    def _has_vectors(self) -> bool:
        return not all(piece.segment.is_matrix for piece in self.block.pieces)

    def _own(self, weight: Tensor, piece: Piece, values: Tensor) -> Tensor:
        """What the parameters' own features give."""
        if self.inputs.eps is None:
            return weight @ values
        copied = _copied(values, piece.segment.copies)
        scale = self.scales[piece.index] if self.scales else _scale(copied, self.inputs.eps)
        return (weight * scale[..., None, :, 0] @ values if piece.segment.copies == 1
                else weight @ (copied * scale[..., None]).flatten(-2))


@dataclass(frozen=True)
class _Lines:
    """What a block's rows and columns give, `[..., outputs, lines]`, and what each gives in the other's place."""

    rows: Tensor
    columns: Tensor
    rows_as_columns: Tensor | None
    columns_as_rows: Tensor | None

    def add(self, hidden: Tensor, piece: Piece, place: Place) -> None:
        """To one piece, in place. A vector's full averages stand for both its row and its column."""
        copies = piece.segment.copies
        if piece.segment.is_matrix:
            of_rows, of_columns = self._of(piece)
            (hidden.unflatten(-1, (copies, -1, piece.width)).add_(_copied(of_rows[..., place.rows], copies)[..., None])
             .add_(_copied(of_columns[..., place.columns], copies)[..., None, :]))
        elif self.rows_as_columns is not None:
            hidden.add_(self.rows[..., place.rows]).add_(self.rows_as_columns[..., place.rows])

    def _of(self, piece: Piece) -> tuple[Tensor, Tensor]:
        num_rows, num_columns = piece.segment.matrix
        if self.columns_as_rows is None or self.rows_as_columns is None or num_rows < num_columns:
            return self.rows, self.columns
        return self.rows_as_columns, self.columns_as_rows
