"""Points of the learning curve, and what is gathered between them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.outcome import Outcome
from optsearch.meta_training.plan import Snapshot
from optsearch.trees import Tree


@dataclass(frozen=True)
class Point:
    """One point of the learning curve, and the weights there.

    `inner_steps` counts the budget spent. The rest is about the meta-steps since the last point: the mean `meta_loss`,
    the share of its losses at the cap (`failed_share`), the squared norm of the mean meta-gradient over the gradients'
    variance (`signal_to_noise`, None after a single meta-step), the speed, and whether steps were compiled.
    """

    index: int
    inner_steps: int
    meta_loss: float
    failed_share: float
    signal_to_noise: float | None
    inner_steps_per_second: float
    is_compiled: bool
    outcome: Outcome | None
    weights: Tree
    snapshot: Snapshot


@dataclass
class Gathered:
    """The estimates since the last point; tensors stay on their device until somebody asks."""

    values: list[Tensor] = field(default_factory=list)
    failed: list[Tensor] = field(default_factory=list)
    late: dict[int, list[Tensor]] = field(default_factory=dict)
    squares: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None

    def add(self, turn: int, estimate: Estimate) -> None:
        """One estimate of family number `turn`."""
        self.values.append(estimate.meta_losses.values.mean())
        self.failed.append(estimate.meta_losses.failed_share)
        self.late.setdefault(turn, []).append(estimate.meta_losses.late_log)
        self.squares.append(estimate.gradient.square().sum())
        self.total = estimate.gradient if self.total is None else self.total + estimate.gradient

    @property
    def meta_loss(self) -> float:
        return float(torch.stack(self.values).mean())

    @property
    def failed_share(self) -> float:
        return float(torch.stack(self.failed).mean())

    @property
    def signal_to_noise(self) -> float | None:
        count = len(self.squares)
        if self.total is None or count < 2:
            return None
        signal = (self.total / count).square().sum()
        noise = (torch.stack(self.squares).sum() - count * signal) / (count - 1)
        return float(signal / noise.clamp(min=torch.finfo(noise.dtype).tiny))

    def late_logs(self, turn: int) -> Tensor:
        """One a meta-step: the mean log loss of trainings of family number `turn` that were past their half."""
        logs = torch.stack(self.late.get(turn, [torch.tensor(torch.nan)]))
        return logs[logs.isfinite()]
