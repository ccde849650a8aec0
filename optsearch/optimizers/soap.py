"""SOAP: AdamW in the eigenbasis of each matrix's gradients."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.blocks import Segment
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import Layout, joined
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.muon import SIZES, size_of_step
from optsearch.optimizers.part import require
from optsearch.trees import Tree

# Rows or columns: a QR decomposition of 128 takes one core about a millisecond, of 256 four.
MAX_SIZE = 128
# Of the mean square of a matrix. Without it, directions without any gradient take steps as large as all others.
ROUNDING = 1e-6
# Of the mean eigenvalue. Without it, rounding alone would say how the bases lie where there is no gradient.
SHIFT = 1e-3


@dataclass(frozen=True)
class Turn:
    """The bases in which the matrices of one segment are seen, `[..., copies, size, size]`; None where as they are."""

    left: Tensor | None
    right: Tensor | None

    def into(self, matrices: Tensor) -> Tensor:
        """`[..., copies, rows, columns]` in these bases."""
        return _between(self.left.mT if self.left is not None else None, matrices, self.right)

    def squares(self, gradients: Tensor) -> Tensor:
        """Of what they are in these bases, where none is less than what rounding leaves of a 0."""
        squares = self.into(gradients).square()
        if self.left is None and self.right is None:
            return squares
        return squares + ROUNDING * squares.mean((-2, -1), keepdim=True)

    def out_of(self, matrices: Tensor) -> Tensor:
        """The inverse of `into`."""
        return _between(self.left, matrices, self.right.mT if self.right is not None else None)


def _between(left: Tensor | None, matrices: Tensor, right: Tensor | None) -> Tensor:
    matrices = matrices if left is None else left @ matrices
    return matrices if right is None else matrices @ right


@dataclass(frozen=True)
class SOAP(AdamW):
    """AdamW whose second moments are kept in the eigenbases of Shampoo's two factors (Vyas et al. 2024).

    arxiv.org/abs/2409.11321. Tensors of more than two dimensions are seen as their first against all others. Sides of
    more than 128, and vectors without `precondition_1d`, stay as they are: there it is AdamW. The factors decay with
    `shampoo_beta`, and at the first of every `precondition_frequency` steps the bases turn by one power iteration. How
    large a matrix's step is, `adjust_lr` says, as for `Muon`. What controllers see of second moments is in these bases;
    no meta-gradients flow through them.
    """

    beta1: float = 0.95
    beta2: float = 0.95
    shampoo_beta: float = 0.95
    precondition_1d: bool = False
    precondition_frequency: int = 5
    adjust_lr: str = "match_rms_adamw"

    def __post_init__(self) -> None:
        decays = self.beta1, self.beta2, self.shampoo_beta
        require("base.soap", all(0 <= decay < 1 for decay in decays),
                f"beta1, beta2 and shampoo_beta must be in [0, 1), not {decays}.")
        require("base.soap", self.precondition_frequency >= 1,
                f"precondition_frequency must be at least 1, not {self.precondition_frequency}.")
        require("base.soap", self.adjust_lr in SIZES,
                f"there is no adjust_lr `{self.adjust_lr}`. Known: {', '.join(SIZES)}.")

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        eyes = [torch.eye(size, dtype=like.dtype, device=like.device).flatten()
                for segment in layout.segments for _ in range(segment.copies) for size in self._basis_sizes(segment)]
        bases = torch.cat([like.new_zeros(0), *eyes]).repeat(*like.shape[:-1], 1)
        return super().init(layout, like, num_tuned) | {"factors": torch.zeros_like(bases), "bases": bases}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        layout = moment.layout
        turns, kept = self._turns(moment, state)
        squared = joined([turn.squares(part).flatten(-3) for turn, part
                          in zip(turns, _matrices(layout, moment.gradient), strict=True)])
        averages, scaled = self._averaged(moment, squared, state, knobs)
        turned = joined([turn.into(part).flatten(-3) for turn, part
                         in zip(turns, _matrices(layout, averages["first"]), strict=True)])
        parts = zip(turns, layout.segments, _matrices(layout, scaled(turned)), strict=True)
        direction = joined([self._sized(segment, turn.out_of(part)).flatten(-3) for turn, segment, part in parts])
        return self._decayed(direction, moment), averages | kept

    def _sized(self, segment: Segment, steps: Tensor) -> Tensor:
        size = size_of_step(self.adjust_lr, segment) if segment.is_matrix else 1.0
        return steps if size == 1.0 else size * steps

    def _basis_sizes(self, segment: Segment) -> tuple[int, int]:
        """Rows and columns of the bases of one copy, 0 where it has none."""
        sizes = segment.matrix if segment.is_matrix else (segment.size * self.precondition_1d, 0)
        left, right = (size if 1 < size <= MAX_SIZE else 0 for size in sizes)
        return left, right

    def _turns(self, moment: Moment, state: Tree) -> tuple[list[Turn], Tree]:
        """One for each segment, and the next factors and bases."""
        layout = moment.layout
        sides = zip(_matrices(layout, moment.gradient.detach()), self._sides(layout, state["factors"]), strict=True)
        factors = [[None if factor is None else torch.lerp(seen @ seen.mT, factor, self.shampoo_beta)
                    for seen, factor in zip((gradients, gradients.mT), before, strict=True)]
                   for gradients, before in sides]
        bases = list(self._sides(layout, state["bases"]))
        is_due = (moment.step - 1) % self.precondition_frequency == 0
        after = iter(torch.ops.optsearch.iterated(_present(factors), _present(bases), is_due))
        bases = [[None if basis is None else next(after) for basis in pair] for pair in bases]
        return ([Turn(left, right) for left, right in bases],
                {"factors": _joined(moment, factors), "bases": _joined(moment, bases)})

    def _sides(self, layout: Layout, leaf: Tensor) -> Iterator[list[Tensor | None]]:
        """Of `factors` or `bases`, the left and the right ones of each segment, `[..., copies, size, size]`."""
        start = 0
        for segment in layout.segments:
            sizes = self._basis_sizes(segment)
            end = start + segment.copies * sum(size**2 for size in sizes)
            parts = leaf[..., start:end].unflatten(-1, (segment.copies, -1)) if end > start else leaf
            places = (slice(0, sizes[0]**2), slice(sizes[0]**2, None))
            yield [parts[..., place].unflatten(-1, (size, size)) if size else None
                   for size, place in zip(sizes, places, strict=True)]
            start = end


def _matrices(layout: Layout, vector: Tensor) -> Iterator[Tensor]:
    """Every segment's, `[..., copies, rows, columns]`; vectors are one column."""
    for segment, part in zip(layout.segments, layout.per_segment(vector), strict=True):
        yield part.unflatten(-1, segment.matrix) if segment.is_matrix else part[..., None]


def _present(sides: Iterable[Sequence[Tensor | None]]) -> list[Tensor]:
    return [side for pair in sides for side in pair if side is not None]


def _joined(moment: Moment, sides: Iterable[Sequence[Tensor | None]]) -> Tensor:
    """Of each segment, copy after copy, the left one and then the right one."""
    parts = [[side.flatten(-2) for side in pair if side is not None] for pair in sides]
    flat = [joined(pair).flatten(-2) for pair in parts if pair]
    return joined(flat) if flat else moment.gradient[..., :0]


def _iterated(factors: list[Tensor], bases: list[Tensor], is_due: Tensor) -> list[Tensor]:
    """The bases after one power iteration, which a shift leaves where the factor is 0; others stay as they are."""
    # Elsewhere a look at values would wait for all that was queued.
    if is_due.device.type == "cpu" and not is_due.any():
        return [basis.clone(memory_format=torch.contiguous_format) for basis in bases]
    return [torch.where(is_due[..., None, None], _power_iteration(factor, basis), basis).contiguous()
            for factor, basis in zip(factors, bases, strict=True)]


def _power_iteration(factor: Tensor, basis: Tensor) -> Tensor:
    shift = SHIFT * factor.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.qr(factor @ basis + shift * basis).Q


def _like_iterated(_factors: list[Tensor], bases: list[Tensor], _is_due: Tensor) -> list[Tensor]:
    return [torch.empty_like(basis, memory_format=torch.contiguous_format) for basis in bases]


# An operator of its own: what is compiled may not look at values, and decompositions are most of a step's time.
_LIBRARY = torch.library.Library("optsearch", "DEF")
_LIBRARY.define("iterated(Tensor[] factors, Tensor[] bases, Tensor is_due) -> Tensor[]")
_LIBRARY.impl("iterated", _iterated, "CompositeExplicitAutograd")
torch.library.register_fake("optsearch::iterated", _like_iterated, lib=_LIBRARY)
