"""Small matrices times the features of many parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optsearch import compiling

# Products of more terms are faster as matrix products, and take long to compile when written out.
MOST_TERMS = 160
# Units of wider rules stand in memory: fused, they are better off without being joined for all tensors.
NARROW = 8


def affine(weight: Tensor, bias: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """`weight` `[..., outputs, f]` times all `values` `[..., f, n]` one under the other, plus `bias`.

    Gives `[..., outputs, n]`. Where it will be fused and is small, it gives as many `[..., 1, n]`, each written out as
    a sum: then neither features nor units stand in memory.
    """
    if not compiling.is_fusing() or weight.shape[-2] * weight.shape[-1] > MOST_TERMS:
        return [(weight @ stacked(values)).add_(bias[..., None])]
    # A `cat` is computed once; anything else here would be anew for each few parameters.
    numbers = torch.cat([weight, bias[..., None]], -1)
    rows = [row for each in values for row in each.unbind(-2)]
    found = []
    for of_output in numbers.unbind(-2):
        *factors, total = (number[..., None] for number in of_output.unbind(-1))
        for factor, row in zip(factors, rows, strict=True):
            total = total + factor * row
        found.append(total[..., None, :])
    return found


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """All `[..., k, n]` one under the other, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -2)
