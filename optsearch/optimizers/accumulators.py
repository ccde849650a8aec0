"""Running averages of gradients and their squares, full and factored."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from optsearch.optimizers.blocks import Block
from optsearch.optimizers.constants import constant
from optsearch.optimizers.layout import Layout, joined
from optsearch.trees import Tree

# A learned decay is 1 - exp(10 (log(1 - decay) / 10 + offset)), so that small offsets move it on its own scale.
DECAY_GAIN = 10.0
FACTORED_EPS = 1e-30
FACTOR_EPS = 1e-9
# Keeps the slope of the root of a second moment finite where a gradient is 0; beside Adam's eps it is nothing.
ROOT_FLOOR = 1e-30


@dataclass(frozen=True)
class Decays:
    """The decays of one step, each `[..., k, 1]`."""

    momentum: Tensor
    second_moment: Tensor
    factored: Tensor


def decay(values: tuple[float, ...], offset: Tensor | None, like: Tensor) -> Tensor:
    """Decays `[..., k, 1]`, moved by the learned `offset` `[..., k]` where there is one."""
    if offset is None:
        return constant(values, like)[:, None]
    start = constant(tuple(log(1 - value) for value in values), like)
    return (1 - torch.exp(start + DECAY_GAIN * offset)).clamp(0, 1)[..., None]


def averaged(state: Tensor, values: Tensor, decays: Tensor, *, in_place: bool = False) -> Tensor:
    """Running averages `[..., k, n]` after `values` `[..., n]`; `in_place` writes them where they stood."""
    return torch.lerp(values[..., None, :], state, decays, out=state if in_place else None)


@dataclass(frozen=True)
class Factored:
    """Adafactor's row and column averages (Shazeer and Stern 2018, arxiv.org/abs/1804.04235).

    `rows` is `[..., k, num_rows]`, `columns` `[..., k, num_columns]`; a vector keeps its full averages as rows.
    """

    layout: Layout
    rows: Tensor
    columns: Tensor

    @staticmethod
    def averaged(layout: Layout, state: Tree, squared: Tensor, decays: Tensor) -> "Factored":
        """After the squares `[..., n]` of another gradient."""
        rows, columns = [], []
        for segment, part in zip(layout.segments, layout.per_segment(squared), strict=True):
            if segment.is_matrix:
                matrices = part.unflatten(-1, segment.matrix)
                rows.append(matrices.mean(-1).flatten(-2))
                columns.append(matrices.mean(-2).flatten(-2))
            else:
                rows.append(part.flatten(-2))
                columns.append(part.flatten(-2)[..., :0])
        return Factored(layout, averaged(state["rows"], joined(rows) + FACTORED_EPS, decays),
                        averaged(state["columns"], joined(columns) + FACTORED_EPS, decays))

    def factors(self) -> tuple[Tensor, Tensor]:
        """For rows and for columns: their product is the inverse root of the second moment."""
        rows, columns = [], (self.columns.clamp(min=FACTOR_EPS)).rsqrt()
        for segment in self.layout.segments:
            part = self.rows[..., segment.rows].unflatten(-1, (segment.copies, segment.matrix[0]))
            part = ((part / (part.mean(-1, keepdim=True) + FACTOR_EPS)).clamp(min=FACTOR_EPS) if segment.is_matrix
                    else part + FACTOR_EPS)
            rows.append(part.flatten(-2))
        return joined(rows).rsqrt(), columns


def of_block(block: Block, row_factors: Tensor, column_factors: Tensor) -> Tensor:
    """Factors `[..., k, n]` of a block's parameters, from those of its rows and of its columns."""
    parts = []
    for piece, place in block.placed:
        of_rows = row_factors[..., place.rows]
        if piece.segment.is_matrix:
            copies = (piece.segment.copies, -1)
            of_columns = column_factors[..., place.columns].unflatten(-1, copies)
            of_rows = (of_rows.unflatten(-1, copies)[..., None] * of_columns[..., None, :]).flatten(-3)
        parts.append(of_rows)
    return joined(parts)
