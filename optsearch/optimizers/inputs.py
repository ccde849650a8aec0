"""The features of one step as a rule consumes them: block by block, normalised and projected in one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsearch import compiling
from optsearch.compiling import Kernels
from optsearch.optimizers import chains
from optsearch.optimizers.blocks import Block, Piece, Place
from optsearch.optimizers.layout import Layout, joined
from optsearch.optimizers.products import NARROW, affine, stacked
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

    def blocks(self, kernels: Kernels | None = None, *, are_single: bool = False) -> "Iterator[BlockInputs]":
        """The blocks in order; who is done with one lets go of it, as its features take much memory.

        Of tensors that lie in several, features are made twice, which costs less than keeping them: here for the mean
        squares of whole tensors, by `kernels` where given, and again to be projected. `are_single` asks for a block a
        piece.
        """
        blocks = self.layout.single_blocks if are_single else self.layout.blocks
        if self.eps is None:
            return (BlockInputs(self, block, self._part(block)) for block in blocks)
        means: dict[int, Tensor] = {}
        for block in blocks:
            if block.is_whole:
                continue
            inputs = BlockInputs(self, block, self._part(block))
            for piece, share in zip(block.pieces, inputs.mean_squares(kernels), strict=True):
                means[piece.index] = means[piece.index] + share if piece.index in means else share
        scales = {index: (mean + self.eps).rsqrt() for index, mean in means.items()}
        return (BlockInputs(self, block, self._part(block), {} if block.is_whole else {
            str(number): scales[piece.index] for number, piece in enumerate(block.pieces)}) for block in blocks)

    def _part(self, block: Block) -> Tree:
        return ({name: leaf[..., block.parameters] for name, leaf in self.parameters.items()}
                | {name: leaf[..., block.rows] for name, leaf in self.rows.items()}
                | {name: leaf[..., block.columns] for name, leaf in self.columns.items()}
                | {name: leaf[..., block.tensors] for name, leaf in self.tensors.items()} | self.common)

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for every parameter: `[..., outputs, n]`."""
        return torch.cat([stacked(inputs.project(weight, bias)) for inputs in self.blocks()], dim=-1)


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
    """The features of one block; `scales` by the piece's number, empty where the block holds whole tensors alone."""

    inputs: Inputs
    block: Block
    part: Tree
    scales: Tree = field(default_factory=dict)

    @property
    def values(self) -> list[Tensor]:
        """All features of the parameters, made anew each time: whoever asks keeps them no longer than needed."""
        values = self.inputs.values(self.block, self.part)
        return values if compiling.is_fusing() else [torch.cat(values, -2)]

    def mean_squares(self, kernels: Kernels | None = None) -> tuple[Tensor, ...]:
        """What each piece adds to its tensors' mean squares, `[..., f, copies]`."""
        def measure(part: Tree) -> tuple[Tensor, ...]:
            values, shares = self.inputs.values(self.block, part), []
            for piece, place in self.block.placed:
                parts = (_copied(each[..., place.parameters], piece.segment.copies) for each in values)
                norms = torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in parts], -2)
                shares.append(norms.square() / max(1, piece.segment.size))
            return tuple(shares)

        return measure(self.part) if kernels is None else kernels(("squares", self.block.kind), measure, self.part)

    def project(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """`weight @ features + bias` for the block's parameters: `[..., outputs, n]`, or each output by itself.

        Normalising a feature is one number a tensor, so it scales the columns of `weight`; features of rows,
        of columns, of the step and of the tensor are projected at their own size and broadcast. What a tensor's
        controller asks for by FiLM, a scale and a shift of the outputs, comes last.
        """
        values = self.values
        first = self._first(weight, bias, values)
        parts = [self._projected(first, index, values) for index in range(len(self.block.pieces))]
        return [joined(list(part)) for part in zip(*parts, strict=True)]

    def through(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor | None:
        """The features through layers with ReLU between them, `[..., outputs, n]`; None where there is no kernel.

        Units stand in memory only for pieces of several tensors, for narrow ones and under FiLM.
        """
        if not compiling.is_fusing() or weights[0].shape[-2] <= NARROW or not chains.is_for(self._like, weights):
            return None
        values = self.values
        first, found = self._first(weights[0], biases[0], values), []
        for index, (piece, place) in enumerate(self.block.placed):
            if piece.segment.copies == 1 and first.film is None and (first.lines is None or not piece.segment.is_matrix
                                                                     or piece.width >= chains.TILE):
                seen = [each[..., place.parameters] for each in values]
                found.append(chains.chain(stacked(seen), [self._scaled(first.own, index, seen), *weights[1:]],
                                          [first.bias_of(place), *biases[1:]],
                                          lines=None if first.lines is None else first.lines.of(piece, place)))
            else:
                hidden = stacked(self._projected(first, index, values))
                found.append(chains.chain(hidden, weights[1:], biases[1:], begins_with_relu=True))
        return joined(found)

    @property
    def _like(self) -> Tensor:
        return next(iter(self.part.values()))

    def _first(self, weight: Tensor, bias: Tensor, values: list[Tensor]) -> "_First":
        """A map over all features, as it acts on each kind of them."""
        rows, columns, shared, context, film = (
            self.part.get(name) for name in (ROW_FEATURES, COLUMN_FEATURES, SHARED, CONTEXT, FILM))
        widths = [sum(each.shape[-2] for each in values)]
        widths += [0 if part is None else part.shape[-2] for part in (rows, columns)]
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
        return _First(own, bias, lines, None if context is None else of_context @ context, film)

    def _projected(self, first: "_First", index: int, values: list[Tensor]) -> list[Tensor]:
        """What the features of one piece's parameters give: all outputs, or each by itself."""
        piece, place = self.block.placed[index]
        found = self._affine(first.own, first.bias, index, [each[..., place.parameters] for each in values])
        for start, hidden in enumerate(found):
            outputs = slice(start, start + 1) if len(found) > 1 else slice(None)
            if first.lines is not None:
                first.lines.add(hidden, outputs, piece, place)
            if first.of_tensors is not None:
                _copied(hidden, piece.segment.copies).add_(first.of_tensors[..., outputs, place.tensors, None])
            if first.film is not None:
                scale, shift = (each[..., outputs, :, :] for each in first.film[..., place.tensors, None].chunk(2, -3))
                _copied(hidden, piece.segment.copies).mul_(1 + scale).add_(shift)
        return found

    @property
    def _has_vectors(self) -> bool:
        return not all(piece.segment.is_matrix for piece in self.block.pieces)

    def _affine(self, weight: Tensor, bias: Tensor, index: int, values: list[Tensor]) -> list[Tensor]:
        """What the own features of one piece's parameters give."""
        if self.inputs.eps is None or self.block.pieces[index].segment.copies == 1:
            return affine(self._scaled(weight, index, values), bias, values)
        copied = [_copied(each, self.block.pieces[index].segment.copies) for each in values]
        scales = self._scales(index, copied)[..., None].split([each.shape[-2] for each in values], -3)
        return affine(weight, bias, [(each * part).flatten(-2) for each, part in zip(copied, scales, strict=True)])

    def _scaled(self, weight: Tensor, index: int, values: list[Tensor]) -> Tensor:
        """What the own features of one tensor are multiplied with, which normalises them."""
        if self.inputs.eps is None:
            return weight
        return weight * self._scales(index, [each[..., None, :] for each in values])[..., None, :, 0]

    def _scales(self, index: int, copied: list[Tensor]) -> Tensor:
        """Of one piece's features, `[..., f, copies]`."""
        assert self.inputs.eps is not None
        return self.scales[str(index)] if self.scales else torch.cat(
            [_scale(each, self.inputs.eps) for each in copied], -2)


@dataclass(frozen=True)
class _First:
    """A map over a block's features: over those of parameters, and what the others add.

    `of_tensors` and `film` are `[..., outputs, tensors]` and, of scales and shifts, `[..., 2 * outputs, tensors]`.
    """

    own: Tensor
    bias: Tensor
    lines: "_Lines | None"
    of_tensors: Tensor | None
    film: Tensor | None

    def bias_of(self, place: Place) -> Tensor:
        """Of the one tensor in a place, `[..., outputs]`."""
        return self.bias if self.of_tensors is None else self.bias + self.of_tensors[..., place.tensors].squeeze(-1)


@dataclass(frozen=True)
class _Lines:
    """What a block's rows and columns give, `[..., outputs, lines]`, and what each gives in the other's place."""

    rows: Tensor
    columns: Tensor
    rows_as_columns: Tensor | None
    columns_as_rows: Tensor | None

    def add(self, hidden: Tensor, outputs: slice, piece: Piece, place: Place) -> None:
        """To some outputs of one piece, in place. A vector's full averages stand for both its row and its column."""
        copies = piece.segment.copies
        if piece.segment.is_matrix:
            of_rows, of_columns = (_copied(each[..., outputs, at], copies) for each, at in
                                   zip(self._of(piece), (place.rows, place.columns), strict=True))
            hidden.unflatten(-1, (copies, -1, piece.width)).add_(of_rows[..., None]).add_(of_columns[..., None, :])
        elif self.rows_as_columns is not None:
            hidden.add_(self.rows[..., outputs, place.rows]).add_(self.rows_as_columns[..., outputs, place.rows])

    def of(self, piece: Piece, place: Place) -> chains.Lines:
        """What is added to one tensor's outputs; a vector is one row."""
        if piece.segment.is_matrix:
            rows, columns = self._of(piece)
            return chains.Lines(rows[..., place.rows], columns[..., place.columns])
        assert self.rows_as_columns is not None
        both = self.rows[..., place.rows] + self.rows_as_columns[..., place.rows]
        return chains.Lines(torch.zeros_like(both[..., :1]), both)

    def _of(self, piece: Piece) -> tuple[Tensor, Tensor]:
        num_rows, num_columns = piece.segment.matrix
        if self.columns_as_rows is None or self.rows_as_columns is None or num_rows < num_columns:
            return self.rows, self.columns
        return self.rows_as_columns, self.columns_as_rows
