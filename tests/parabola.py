"""The inner problem whose trainings have a closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers.optimizer import Observation
from optsearch.tasks import Data, TaskFamily
from optsearch.trees import Tree


@dataclass(frozen=True)
class LinearOptimizer:
    """Steps of minus weight · gradient: its inner trainings have a closed form."""

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        return {"step": torch.zeros(len(params["x"]), 1)}

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        return {"x": -weights["rate"] * observation.gradients["x"]}, state


@dataclass(frozen=True, kw_only=True)
class Parabola(TaskFamily):
    """x²/2 from x = 1: after t steps at rate r, x is (1 - r)^t."""

    def sample(self, generator: torch.Generator) -> Tree:
        return {}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {"x": torch.ones_like(self.data.inner["nothing"][:1])}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return params["x"].square().sum() / 2 + 0 * batch["nothing"].sum()


def parabola(dtype: torch.dtype = torch.float32) -> Parabola:
    rows = {"nothing": torch.zeros(4, dtype=dtype)}
    return Parabola(name="parabola", domain="synthetic", loss_cap=10.0, batch_size=1, data=Data(rows, rows, rows))
