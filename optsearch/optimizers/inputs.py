"""The features of one step as a rule consumes them: block by block, normalised and projected in one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers.layout import Block, Layout, Piece


@dataclass(frozen=True)
class Inputs:
    """Features before normalisation: `values(block)` `[..., f, n]` a parameter, others a row, a column, shared.

    `rows` is `[..., f, num_rows]`, `columns` `[..., f, num_columns]`, `shared` `[..., f]`. Where `eps` is given,
    all but the shared ones are divided by √(`eps` + their mean square over the tensor).
    """

    layout: Layout
    eps: float | None
    values: Callable[[Block], Tensor]
    rows: Tensor | None
    columns: Tensor | None
    shared: Tensor | None

    def blocks(self) -> "Iterator[BlockInputs]":
        """The blocks in order.

        Where there are several, their features are made twice, which costs less than keeping them: once for the
        mean squares, once to be projected.
        """
        blocks = self.layout.blocks
        scales = self._scales(self.eps) if len(blocks) > 1 and self.eps is not None else {}
        for block in blocks:
            yield BlockInputs(self, block, self.values(block), scales)

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for every parameter: `[..., outputs, n]`."""
        return torch.cat([block.project(weight, bias) for block in self.blocks()], dim=-1)

    def scale(self, values: Tensor) -> Tensor | None:
        """What the features `[..., f, n]` of one whole tensor are multiplied with: `[..., f]`."""
        if self.eps is None:
            return None
        mean_square = torch.linalg.vector_norm(values, dim=-1).square() / max(values.shape[-1], 1)
        return (mean_square + self.eps).rsqrt()

    def _scales(self, eps: float) -> dict[int, Tensor]:
        """By tensor, from the mean squares of all its pieces."""
        means: dict[int, Tensor] = {}
        for block in self.layout.blocks:
            values = self.values(block)
            for piece, place in block.placed:
                size = max(1, piece.segment.parameters.stop - piece.segment.parameters.start)
                share = torch.linalg.vector_norm(values[..., place], dim=-1).square() / size
                means[piece.index] = means[piece.index] + share if piece.index in means else share
        return {index: (mean + eps).rsqrt() for index, mean in means.items()}


@dataclass(frozen=True)
class BlockInputs:
    """The features of one block; `scales` by tensor, empty where the block holds whole tensors alone."""

    inputs: Inputs
    block: Block
    values: Tensor
    scales: dict[int, Tensor]

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """`weight @ features + bias` for the block's parameters: `[..., outputs, n]`.

        Normalising a feature is one number a tensor, so it scales the columns of `weight`; features of rows,
        of columns and of the step are projected at their own size and broadcast.
        """
        inputs = self.inputs
        widths = [self.values.shape[-2], *(() if inputs.rows is None else (inputs.rows.shape[-2],) * 2)]
        widths.append(weight.shape[-1] - sum(widths))
        parts = weight.split(widths, dim=-1)
        if inputs.shared is not None:
            bias = bias + (parts[-1] @ inputs.shared[..., None]).squeeze(-1)
        bias = bias[..., None]
        projected = [self._piece(piece, self.values[..., place], parts, bias) for piece, place in self.block.placed]
        return projected[0] if len(projected) == 1 else torch.cat(projected, dim=-1)

    def _piece(self, piece: Piece, values: Tensor, weights: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        inputs, segment = self.inputs, piece.segment
        scale = self.scales[piece.index] if self.scales else inputs.scale(values)
        hidden = (_scaled(weights[0], scale) @ values).add_(bias)
        if inputs.rows is None or inputs.columns is None:
            return hidden
        rows, all_rows = inputs.rows[..., piece.rows], inputs.rows[..., segment.rows]
        from_rows = _scaled(weights[1], inputs.scale(all_rows)) @ rows
        if not segment.is_matrix:
            # A vector's full averages stand for both its row and its column.
            return hidden + from_rows + _scaled(weights[2], inputs.scale(all_rows)) @ rows
        columns = inputs.columns[..., segment.columns]
        from_columns = _scaled(weights[2], inputs.scale(columns)) @ columns
        return (hidden.unflatten(-1, (-1, piece.width))
                .add_(from_rows[..., None]).add_(from_columns[..., None, :]).flatten(-2))


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale[..., None, :]
