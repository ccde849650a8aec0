"""What is measured along an unroll, and what of it is to be lowered."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.meta_training import inner

# Below this a loss is as good as 0 and its logarithm says nothing more.
MIN_LOSS = 1e-6
LATE = 0.5


@dataclass(frozen=True)
class MetaLosses:
    """Raw losses `[k, n]` at `k` places of an unroll of `n` trainings, with each training's `progress` there.

    Losses above `cap`, and those that are not finite, count as `cap`: such a training has failed.
    """

    losses: Tensor
    progress: Tensor
    cap: float
    late_emphasis: float

    @property
    def capped(self) -> Tensor:
        return inner.capped(self.losses, self.cap)

    @property
    def logs(self) -> Tensor:
        return self.capped.clamp(min=MIN_LOSS).log()

    @property
    def values(self) -> Tensor:
        """`[n]`: log loss · (1 + e) progress^e, with e the late emphasis: ratios count, above all at the end."""
        return (self.logs * (1 + self.late_emphasis) * self.progress**self.late_emphasis).mean(0)

    @property
    def failed_share(self) -> Tensor:
        return (self.capped >= self.cap).float().mean()

    @property
    def late_log(self) -> Tensor:
        """Mean log loss at the end of the unroll of those past half of their training; nan where there is none."""
        is_late = self.progress[-1] > LATE
        return (self.logs[-1] * is_late).sum() / is_late.sum()

    @staticmethod
    def joined(parts: "list[MetaLosses]") -> "MetaLosses":
        """All trainings of all parts, in order."""
        first = parts[0]
        return first if len(parts) == 1 else MetaLosses(
            torch.cat([part.losses for part in parts], 1), torch.cat([part.progress for part in parts], 1),
            first.cap, first.late_emphasis)
