"""Schedules: the learning rate over the course of a run, fixed or learned."""

from dataclasses import dataclass
from math import pi
from typing import Protocol

import torch
from torch import Tensor

from optsearch.optimizers.part import require
from optsearch.trees import Tree

# The first steps, at progress 0, should not be lost.
WARMUP, LEAST = 0.05, 0.02


class Schedule(Protocol):
    def init_weights(self) -> Tree:
        """Zeros: every schedule starts as it is by hand."""

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
        slot = f"schedule.{type(self).__name__.lower()}"
        _require_positive(slot, self.initial_lr)
        require(slot, self.num_knots > 1, f"num_knots must be at least 2, not {self.num_knots}.")

    def init_weights(self) -> Tree:
        return {"level": torch.zeros(1), "knots": torch.zeros(self.num_knots)}

    def learning_rate(self, weights: Tree, progress: Tensor) -> Tensor:
        positions = torch.arange(self.num_knots, dtype=progress.dtype, device=progress.device)
        hats = (1 - (progress * (self.num_knots - 1) - positions).abs()).clamp(min=0)
        exponent = weights["level"] + (hats * weights["knots"]).sum(-1, keepdim=True)
        return self.initial_lr * (self.gain * exponent).exp()


@dataclass(frozen=True)
class Cosine(Progress):
    """Warm-up over a twentieth of the run and a cosine down to 0, times what `Progress` learns.

    So it starts where hand-made schedules are, and what is learned is by how much to leave them.
    """

    def learning_rate(self, weights: Tree, progress: Tensor) -> Tensor:
        falling = (1 + torch.cos(pi * ((progress - WARMUP) / (1 - WARMUP)).clamp(0, 1))) / 2
        shape = torch.where(progress < WARMUP, progress / WARMUP, falling).clamp(min=LEAST)
        return shape * super().learning_rate(weights, progress)


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "progress": Progress, "cosine": Cosine}
