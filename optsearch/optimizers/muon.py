"""Muon: momentum whose singular values are all made about 1, matrix by matrix."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from optsearch.optimizers.adam import AdamW, Decay
from optsearch.optimizers.blocks import Segment
from optsearch.optimizers.constants import constant
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import joined
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

# Of x, x³ and x⁵: steepest at 0 of those that lead all of 0..1 to about 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NORM_FLOOR = 1e-7
# The root mean square of AdamW's steps (Liu et al. 2025, arxiv.org/abs/2502.16982).
ADAMW_SIZE = 0.2
# Rows and columns up to which `mup` leaves steps as large as AdamW's; for `spectral`, of the square matrix for which
# it does, so that one range of rates serves all.
BASE_WIDTH = 64


def _as_adamw(rows: int, columns: int) -> float:
    return ADAMW_SIZE * sqrt(max(rows, columns))


def _spectral(rows: int, columns: int) -> float:
    return ADAMW_SIZE * sqrt(BASE_WIDTH * rows / columns)


def _mup(rows: int, columns: int) -> float:
    base_rows, base_columns = min(rows, BASE_WIDTH), min(columns, BASE_WIDTH)
    return _as_adamw(base_rows, base_columns) * sqrt(rows / base_rows / (columns / base_columns))


# The largest singular value of a matrix's step, from its shape.
SIZES: dict[str, Callable[[int, int], float]] = {
    "match_rms_adamw": _as_adamw, "spectral": _spectral, "mup": _mup}


def size_of_step(adjust_lr: str, segment: Segment) -> float:
    """How many times as large as AdamW's the steps of a segment's matrices are."""
    return SIZES[adjust_lr](*segment.matrix) / _as_adamw(*segment.matrix)


@dataclass(frozen=True)
class Muon(AdamW):
    """Orthogonalised Nesterov momentum for tensors of two and more dimensions, AdamW for all others.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon. How large a matrix's step is, `adjust_lr` says:
    `match_rms_adamw`: as large as AdamW's (Liu et al. 2025, arxiv.org/abs/2502.16982), as in `torch.optim.Muon`;
    `spectral`: so large that what it changes in a layer's outputs is the same for any shape (Yang et al. 2023,
    arxiv.org/abs/2310.17813); `mup`: the first up to 64 rows and columns, from there on as the second grows and falls,
    so that the best rate of a small model is that of a large one (Yang et al. 2022, arxiv.org/abs/2203.03466).

    Tensors of more dimensions are seen as their first against all others. `momentum` and `num_iterations`
    (Newton-Schulz, in the precision of the gradient) are the matrices', `beta1`, `beta2` and `eps` the others',
    `weight_decay` is everyone's. Second moments are kept of matrices, too, though only controllers look at these.
    """

    beta2: float = 0.95
    weight_decay: float = 0.1
    momentum: float = 0.95
    num_iterations: int = 5
    adjust_lr: str = "match_rms_adamw"
    knobs: ClassVar[tuple[str, ...]] = ("momentum", "beta1", "beta2", "eps")

    def __post_init__(self) -> None:
        require("base.muon", all(0 <= decay < 1 for decay in (self.momentum, self.beta1, self.beta2)),
                f"momentum, beta1 and beta2 must be in [0, 1), not {self.momentum}, {self.beta1} and {self.beta2}.")
        require("base.muon", self.num_iterations > 0, f"num_iterations must be at least 1, not {self.num_iterations}.")
        require("base.muon", self.adjust_lr in SIZES,
                f"there is no adjust_lr `{self.adjust_lr}`. Known: {', '.join(SIZES)}.")

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        layout = moment.layout
        adapted, after = super().direction(moment, state, knobs)
        momenta = None if knobs is None else knobs.tensor_decay("momentum", self.momentum)[..., None]
        parts = [part.flatten(-2) for part in layout.per_segment(adapted)]
        for index, (segment, gradient, first, params) in enumerate(zip(layout.segments, *map(
                layout.per_segment, (moment.gradient, after["first"], moment.params)), strict=True)):
            if segment.is_matrix:
                momentum = self.momentum if momenta is None else momenta[..., segment.tensors, :]
                ahead = torch.lerp(gradient, first, momentum)
                matrices = orthogonal(ahead.unflatten(-1, segment.matrix), self.num_iterations)
                scaled = SIZES[self.adjust_lr](*segment.matrix) * matrices.flatten(-2)
                parts[index] = scaled.add(params, alpha=self.weight_decay).flatten(-2)
        return joined(parts), after

    def _decays(self, moment: Moment, knobs: Knobs | None) -> tuple[Decay, Decay]:
        """The first is `momentum` for matrices and `beta1` for all others."""
        names = "beta1", "momentum", "beta2"
        beta1, momentum, beta2 = (getattr(self, name) if knobs is None else
                                  knobs.tensor_decay(name, getattr(self, name)) for name in names)
        is_matrix = constant(tuple(float(segment.is_matrix) for segment in moment.layout.segments
                                   for _ in range(segment.copies)), moment.gradient)
        return beta1 + is_matrix * (momentum - beta1), beta2


def orthogonal(matrices: Tensor, num_iterations: int) -> Tensor:
    """`[..., rows, columns]` with the same singular vectors and singular values of about 1.

    After 5 iterations they are in 0.68..1.21, where they were above 1/500 of the Frobenius norm; others are below.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    values = wide.reshape(-1, *wide.shape[-2:])
    squares = values.square().sum((-2, -1), keepdim=True)
    values = values / squares.clamp(min=NORM_FLOOR**2).sqrt()
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(num_iterations):
        gram = values @ values.mT
        factor = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        values = torch.baddbmm(values, factor, values, beta=linear)
    values = values.view(wide.shape)
    return values.mT if is_tall else values
