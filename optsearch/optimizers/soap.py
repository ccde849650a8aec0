"""SOAP: AdamW in the eigenbasis of each matrix's gradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

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
    """The bases in which the matrices of one segment are seen, `[n, size, size]`; None where as they are."""

    left: Tensor | None
    right: Tensor | None

    def into(self, matrices: Tensor) -> Tensor:
        """`[n, rows, columns]` in these bases."""
        return _between(self.left.mT if self.left is not None else None, matrices, self.right)

    def squares(self, gradients: Tensor) -> Tensor:
        """Of what they are in these bases, where none is less than what rounding leaves of a 0."""
        squares = self.into(gradients).square()
        if self.left is None and self.right is None:
            return squares
        return squares.add(squares.mean((-2, -1), keepdim=True), alpha=ROUNDING)

    def out_of(self, matrices: Tensor) -> Tensor:
        """The inverse of `into`."""
        return _between(self.left, matrices, self.right.mT if self.right is not None else None)


def _between(left: Tensor | None, matrices: Tensor, right: Tensor | None) -> Tensor:
    matrices = matrices if left is None else left.bmm(matrices)
    return matrices if right is None else matrices.bmm(right)


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
        layout, batch = moment.layout, moment.gradient.shape[:-1]
        sizes = self._sizes(layout)
        kept = self._kept(moment, state, sizes)
        turns = [Turn(*sides) for sides in _sides(kept["bases"], sizes)]
        squared = _vector(batch, [turn.squares(part) for turn, part
                                  in zip(turns, _matrices(layout, moment.gradient), strict=True)])
        averages, scaled = self._averaged(moment, squared, state, knobs)
        turned = _vector(batch, [turn.into(part) for turn, part
                                 in zip(turns, _matrices(layout, averages["first"]), strict=True)])
        parts = zip(turns, layout.segments, _matrices(layout, scaled(turned)), strict=True)
        direction = _vector(batch, [self._sized(segment, turn.out_of(part)) for turn, segment, part in parts])
        return self._decayed(direction, moment), averages | kept

    def _sized(self, segment: Segment, steps: Tensor) -> Tensor:
        size = size_of_step(self.adjust_lr, segment) if segment.is_matrix else 1.0
        return steps if size == 1.0 else size * steps

    def _sizes(self, layout: Layout) -> list[int]:
        """Of each segment its copies, and rows and columns of the bases of one, 0 where it has none."""
        return [size for segment in layout.segments for size in (segment.copies, *self._basis_sizes(segment))]

    def _basis_sizes(self, segment: Segment) -> tuple[int, int]:
        """Rows and columns of the bases of one copy, 0 where it has none."""
        sizes = segment.matrix if segment.is_matrix else (segment.size * self.precondition_1d, 0)
        left, right = (size if 1 < size <= MAX_SIZE else 0 for size in sizes)
        return left, right

    def _kept(self, moment: Moment, state: Tree, sizes: list[int]) -> Tree:
        """The next factors and bases."""
        layout, gradient = moment.layout, moment.gradient.detach()
        batch = gradient.shape[:-1]
        products = []
        for segment, part in zip(layout.segments, _matrices(layout, gradient), strict=True):
            sides = zip(self._basis_sizes(segment), (part, part.mT), strict=True)
            flat = [seen.bmm(seen.mT).view(*batch, segment.copies, size**2) for size, seen in sides if size]
            products += [joined(flat).flatten(-2)] if flat else []
        factors = torch.lerp(joined(products), state["factors"], self.shampoo_beta) if products else state["factors"]
        is_due = (moment.step - 1) % self.precondition_frequency == 0
        return {"factors": factors,
                "bases": torch.ops.optsearch.iterated(factors, state["bases"], sizes, is_due)}


def _matrices(layout: Layout, vector: Tensor) -> Iterator[Tensor]:
    """Every segment's, `[n, rows, columns]` with one for each copy of each in the batch; vectors are one column."""
    count = prod(vector.shape[:-1])
    for segment, part in zip(layout.segments, layout.per_segment(vector), strict=True):
        shape = segment.matrix if segment.is_matrix else (segment.size, 1)
        yield part.reshape(count * segment.copies, *shape)


def _vector(batch: torch.Size, parts: list[Tensor]) -> Tensor:
    """The inverse of `_matrices`."""
    return joined([part.reshape(*batch, -1) for part in parts])


def _sides(leaf: Tensor, sizes: list[int]) -> Iterator[list[Tensor | None]]:
    """Of factors or bases `[..., n]`, the left and the right ones of each segment, `[copies in the batch, size, size]`.

    They lie segment after segment and there copy after copy, the left one and then the right one; `sizes` are `_sizes`.
    """
    count, triples = prod(leaf.shape[:-1]), list(zip(sizes[::3], sizes[1::3], sizes[2::3], strict=True))
    lengths = [copies * (left**2 + right**2) for copies, left, right in triples]
    for part, (copies, left, right) in zip(leaf.split_with_sizes(lengths, -1), triples, strict=True):
        sides = part.reshape(count * copies, -1).split_with_sizes([left**2, right**2], -1)
        yield [side.unflatten(-1, (size, size)) if size else None
               for side, size in zip(sides, (left, right), strict=True)]


def _iterated(factors: Tensor, bases: Tensor, sizes: list[int], is_due: Tensor) -> Tensor:
    """The bases after one power iteration, which a shift leaves where the factor is 0; others stay as they are."""
    if is_due.device.type != "cpu":
        # There a look at values would wait for all that was queued.
        return torch.where(is_due, _power_iterations(factors, bases, sizes), bases).contiguous()
    after = bases.clone(memory_format=torch.contiguous_format)
    (due,) = is_due.flatten().nonzero(as_tuple=True)
    if len(due) and after.numel():
        rows, seen = (leaf.reshape(is_due.numel(), -1) for leaf in (after, factors))
        rows[due] = _power_iterations(seen[due], rows[due], sizes)
    return after


def _power_iterations(factors: Tensor, bases: Tensor, sizes: list[int]) -> Tensor:
    """Of all in `[..., n]`."""
    after = []
    for pair in zip(*(_sides(leaf, sizes) for leaf in (factors, bases)), strict=True):
        flat = [_power_iteration(factor, basis).flatten(-2) for factor, basis in zip(*pair, strict=True)
                if factor is not None and basis is not None]
        after += [joined(flat).view(*bases.shape[:-1], -1)] if flat else []
    return joined(after) if after else bases


def _power_iteration(factor: Tensor, basis: Tensor) -> Tensor:
    shift = SHIFT * factor.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.qr(factor @ basis + shift * basis).Q


def _like_iterated(_factors: Tensor, bases: Tensor, _sizes: list[int], _is_due: Tensor) -> Tensor:
    return torch.empty_like(bases, memory_format=torch.contiguous_format)


# An operator of its own: what is compiled may not look at values, and decompositions are most of a step's time.
_LIBRARY = torch.library.Library("optsearch", "DEF")
_LIBRARY.define("iterated(Tensor factors, Tensor bases, int[] sizes, Tensor is_due) -> Tensor")
_LIBRARY.impl("iterated", _iterated, "CompositeExplicitAutograd")
torch.library.register_fake("optsearch::iterated", _like_iterated, lib=_LIBRARY)
