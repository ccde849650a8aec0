"""Numbers that never change, as tensors."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """Numbers, or tuples of them, in the type and on the device of `like`; nobody may write into them.

    On a GPU they are kept: copying them there would wait for it each time, and no graph can hold that.
    """
    return _kept(values, like.dtype, like.device) if is_kept(like) else like.new_tensor(values)


def is_kept(like: Tensor) -> bool:
    """Whether constants like this stay."""
    return like.is_cuda


@lru_cache(maxsize=1024)
def _kept(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
