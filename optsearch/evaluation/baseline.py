"""The opponent: AdamW with linear warm-up and cosine decay, its learning rate tuned on the task itself."""

from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from torch import Tensor

from optsearch.evaluation import metrics, runs
from optsearch.evaluation.runs import Runs, Setup
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.bases import Base
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment, Observation
from optsearch.trees import Tree, prefixed, within

LEARNING_RATES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))
WARMUP_RATIO = 0.05


@dataclass(frozen=True)
class CosineDecay:
    """A hand-made optimizer under linear warm-up and cosine decay to 0, one learning rate `lr` `[n, 1]` a training."""

    base: Base

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        like = Layout.flatten(params, batch_dims)
        return {"step": like.new_zeros(*like.shape[:-1], 1)} | prefixed("base", self.base.init(like))

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        batch_dims = state["step"].dim() - 1
        step = state["step"] + 1
        params = Layout.flatten(observation.params, batch_dims)
        gradient = Layout.flatten(observation.gradients, batch_dims)
        assert observation.progress is not None
        moment = Moment(Layout.of(observation.params, batch_dims), gradient, params, step, observation.progress)
        direction, base = self.base.direction(moment, within("base", state))
        updates = -weights["lr"] * self.schedule(observation.progress) * direction
        return moment.layout.unflatten(updates), {"step": step} | prefixed("base", base)

    @staticmethod
    def schedule(progress: Tensor) -> Tensor:
        """The factor on the peak learning rate; the first step has one already."""
        rising = progress / WARMUP_RATIO
        falling = (1 + torch.cos(pi * (progress - WARMUP_RATIO) / (1 - WARMUP_RATIO))) / 2
        return torch.where(progress < WARMUP_RATIO, rising.clamp(min=0.01), falling)


@dataclass(frozen=True)
class Baseline:
    """AdamW+cosine at the learning rate of the grid that gave the lowest final loss on one family and horizon.

    `is_interior` says that the grid went on at both sides of the best.
    """

    family: str
    horizon: int
    learning_rate: float
    final_loss: float
    is_interior: bool

    def to_config(self) -> dict[str, Any]:
        return dict(vars(self))

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Baseline":
        return Baseline(**config)


def tune(setup: Setup) -> Baseline:
    """Run the whole grid on all seeds of the setup, as one batch."""
    rates = torch.tensor(LEARNING_RATES)[:, None]
    grid = runs.run(CosineDecay(AdamW()), {"lr": rates.to(_device(setup))}, setup)
    finals = metrics.final_loss(grid.measured).view(len(LEARNING_RATES), -1).mean(1)
    best = int(finals.argmin())
    return Baseline(setup.family.name, setup.horizon, LEARNING_RATES[best], float(finals[best]),
                    0 < best < len(LEARNING_RATES) - 1)


def run(baseline: Baseline, setup: Setup) -> Runs:
    """The tuned baseline on a setup, one column a seed."""
    return runs.run(CosineDecay(AdamW()), {"lr": torch.tensor([[baseline.learning_rate]]).to(_device(setup))}, setup)


def _device(setup: Setup) -> torch.device:
    return next(iter(setup.family.data.inner.values())).device
