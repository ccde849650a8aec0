"""Schedules: the learning rate over the course of a run, fixed or learned."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optsearch.optimizers.part import require
from optsearch.trees import Tree


class Schedule(Protocol):
    def init_weights(self) -> Tree:
        """Zeros: every schedule starts flat at its initial learning rate."""

    def learning_rate(self, weights: Tree, progress: Tensor) -> Tensor:
        """`[..., 1]` for `progress` `[..., 1]` in 0..1."""


def _require_positive(slot: str, learning_rate: float) -> None:
    require(slot, learning_rate > 0, f"initial_lr must be above 0, not {learning_rate}.")


@dataclass(frozen=True)
class Constant:
    """The same learning rate all along; nothing is learned."""

    initial_lr: float = 1e-3

    def __post_init__(self) -> None:
        _require_positive("schedule.constant", self.initial_lr)

    def init_weights(self) -> Tree:
        return {}

    def learning_rate(self, weights: Tree, progress: Tensor) -> Tensor:
        return torch.full_like(progress, self.initial_lr)


@dataclass(frozen=True)
class Progress:
    """log learning rate = log `initial_lr` + `gain` · (level + knots, linear between them, over progress)."""

    initial_lr: float = 1e-3
    num_knots: int = 9
    gain: float = 10.0

    def __post_init__(self) -> None:
        _require_positive("schedule.progress", self.initial_lr)
        require("schedule.progress", self.num_knots > 1, f"num_knots must be at least 2, not {self.num_knots}.")

    def init_weights(self) -> Tree:
        return {"level": torch.zeros(1), "knots": torch.zeros(self.num_knots)}

    def learning_rate(self, weights: Tree, progress: Tensor) -> Tensor:
        positions = torch.arange(self.num_knots, dtype=progress.dtype, device=progress.device)
        hats = (1 - (progress * (self.num_knots - 1) - positions).abs()).clamp(min=0)
        exponent = weights["level"] + (hats * weights["knots"]).sum(-1, keepdim=True)
        return self.initial_lr * (self.gain * exponent).exp()


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "progress": Progress}
