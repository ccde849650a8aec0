"""How often the rows and columns of matrices have a gradient at all: those of rare tokens seldom do."""

from math import log

import torch
from torch import Tensor

from optsearch.optimizers.layout import Layout, joined
from optsearch.trees import Tree

DECAY = 0.99
# Shares of steps below this are all alike.
LEAST_SHARE = 1e-3
WIDTH = 2


def init(layout: Layout, like: Tensor) -> Tree:
    """`row_use` and `column_use` `[..., 2, lines]`: an average of whether there was a gradient, and steps without."""
    batch = like.shape[:-1]
    return {"row_use": like.new_zeros(*batch, WIDTH, layout.num_rows),
            "column_use": like.new_zeros(*batch, WIDTH, layout.num_columns)}


def observed(layout: Layout, gradient: Tensor, state: Tree) -> Tree:
    """The state after another gradient `[..., n]`; only one of exactly 0 is none. A vector's entries are its rows."""
    rows, columns = [], []
    for segment, part in zip(layout.segments, layout.per_segment(gradient != 0), strict=True):
        matrices = part.unflatten(-1, segment.matrix) if segment.is_matrix else part[..., None]
        rows.append(matrices.any(-1).flatten(-2))
        columns.append((matrices.any(-2) if segment.is_matrix else part[..., :0]).flatten(-2))
    return {name: _counted(state[name], joined(lines)) for name, lines in (("row_use", rows), ("column_use", columns))}


def _counted(state: Tensor, used: Tensor) -> Tensor:
    average, idle = state.unbind(-2)
    return torch.stack([torch.lerp(used.to(average.dtype), average, DECAY),
                        torch.where(used, torch.zeros_like(idle), idle + 1)], -2)


def values(state: Tensor, step: Tensor) -> Tensor:
    """Features `[..., 2, lines]` in about 0..1: the log of the share of steps, and 1 / (1 + steps without)."""
    average, idle = state.unbind(-2)
    share = average / (1 - DECAY**step)
    return torch.stack([1 - (share + LEAST_SHARE).log() / log(LEAST_SHARE), 1 / (1 + idle)], -2)
