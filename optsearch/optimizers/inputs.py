"""The features of one step as a rule consumes them: block by block, normalised and projected in one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from optsearch.optimizers.layout import Block, Layout
from optsearch.trees import Tree

# Names in `Inputs.rows`, `.columns` and `.common`.
ROW_FEATURES, COLUMN_FEATURES, SHARED = "row_features", "column_features", "shared"
Values = Callable[[Block, Tree], list[Tensor]]


@dataclass(frozen=True)
class Inputs:
    """The features of one step before they are made.

    `values` makes several `[..., f, n]` for a block from its part of the sources: `parameters` `[..., n]`, `rows`
    `[..., num_rows]` and `columns` `[..., num_columns]`, by name, and `common`, of which each block gets all. Where
    `eps` is given, each feature is divided by √(`eps` + its mean square over the tensor).
    """

    layout: Layout
    eps: float | None
    values: Values
    parameters: Tree
    rows: Tree
    columns: Tree
    common: Tree

    def blocks(self) -> "list[BlockInputs]":
        """The blocks in order.

        Where there are several, their features are made twice, which costs less than keeping them: here for the mean
        squares of whole tensors, and again to be projected.
        """
        found = [BlockInputs(self, block, self._part(block)) for block in self.layout.blocks]
        if len(found) == 1 or self.eps is None:
            return found
        means: dict[int, Tensor] = {}
        for inputs in found:
            for piece, share in zip(inputs.block.pieces, inputs.mean_squares(), strict=True):
                means[piece.index] = means[piece.index] + share if piece.index in means else share
        scales = {index: (mean + self.eps).rsqrt() for index, mean in means.items()}
        return [replace(inputs, scales=scales) for inputs in found]

    def _part(self, block: Block) -> Tree:
        return ({name: leaf[..., block.parameters] for name, leaf in self.parameters.items()}
                | {name: leaf[..., block.rows] for name, leaf in self.rows.items()}
                | {name: leaf[..., block.columns] for name, leaf in self.columns.items()} | self.common)

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for every parameter: `[..., outputs, n]`."""
        return torch.cat([inputs.project(weight, bias) for inputs in self.blocks()], dim=-1)


def normalised(values: Tensor, places: Sequence[slice], copies: Sequence[int], eps: float | None) -> Tensor:
    """Features `[..., f, n]`, each divided by its root mean square within every copy in every place."""
    if eps is None:
        return values
    parts = [_copied(values[..., place], count) for place, count in zip(places, copies, strict=True)]
    return torch.cat([(part * _scale(part, eps)[..., None]).flatten(-2) for part in parts], -1)


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

    @cached_property
    def values(self) -> Tensor:
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
        of columns and of the step are projected at their own size and broadcast.
        """
        rows, columns, shared = (self.part.get(name) for name in (ROW_FEATURES, COLUMN_FEATURES, SHARED))
        num_values, num_lines = self.values.shape[-2], 0 if rows is None else rows.shape[-2]
        own, of_rows, of_columns, of_shared = weight.split(
            [num_values, num_lines, num_lines, weight.shape[-1] - num_values - 2 * num_lines], dim=-1)
        if shared is not None:
            bias = bias + (of_shared @ shared[..., None]).squeeze(-1)
        hidden = self._own(own, bias[..., None])
        if rows is not None and columns is not None:
            # A vector's full averages stand for both its row and its column.
            has_vector = not all(piece.segment.is_matrix for piece in self.block.pieces)
            self._add_lines(hidden, of_rows @ rows, of_columns @ columns, of_columns @ rows if has_vector else None)
        return hidden

    def _own(self, weight: Tensor, bias: Tensor) -> Tensor:
        parts = []
        for piece, place in self.block.placed:
            values, copies = self.values[..., place.parameters], piece.segment.copies
            if self.inputs.eps is None:
                parts.append(weight @ values)
                continue
            copied = _copied(values, copies)
            scale = self.scales[piece.index] if self.scales else _scale(copied, self.inputs.eps)
            parts.append(weight * scale[..., None, :, 0] @ values if copies == 1
                         else weight @ (copied * scale[..., None]).flatten(-2))
        return (parts[0] if len(parts) == 1 else torch.cat(parts, -1)).add_(bias)

    def _add_lines(self, hidden: Tensor, rows: Tensor, columns: Tensor, vectors: Tensor | None) -> None:
        """What the features of rows and columns add, in place."""
        for piece, place in self.block.placed:
            target, of_rows, copies = hidden[..., place.parameters], rows[..., place.rows], piece.segment.copies
            if piece.segment.is_matrix:
                of_columns = _copied(columns[..., place.columns], copies)
                (target.unflatten(-1, (copies, -1, piece.width)).add_(_copied(of_rows, copies)[..., None])
                 .add_(of_columns[..., None, :]))
            elif vectors is not None:
                target.add_(of_rows).add_(vectors[..., place.rows])
