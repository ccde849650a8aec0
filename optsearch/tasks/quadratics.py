"""Noisy least squares with random condition numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.seeds import generator as stream
from optsearch.tasks.family import Data, TaskFamily
from optsearch.trees import Tree

NUM_DIMS = 20
NUM_ROWS = 1000
LABEL_NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class Quadratics(TaskFamily):
    """Squared error of a linear model on rows whose covariance has condition number 1 to `max_condition`.

    Its Hessian is `rootᵀ root` with trace 1; the noise of the labels leaves a floor of `LABEL_NOISE² / 2`.
    """

    num_dims: int = NUM_DIMS
    max_condition: float = 1000.0

    def sample(self, generator: torch.Generator) -> Tree:
        condition = self.max_condition ** torch.rand((), generator=generator)
        eigenvalues = condition ** -torch.rand(self.num_dims, generator=generator)
        basis, _ = torch.linalg.qr(torch.randn(self.num_dims, self.num_dims, generator=generator))
        root = basis * (eigenvalues / eigenvalues.sum()).sqrt()[:, None]
        return {"root": root, "solution": torch.randn(self.num_dims, generator=generator)}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {"solution": torch.zeros(self.num_dims)}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        residuals = batch["inputs"] @ batch["root"] @ (params["solution"] - batch["solution"]) + batch["noise"]
        return residuals.square().mean() / 2


def quadratics() -> tuple[TaskFamily, ...]:
    """Noisy least squares in 20 dimensions, condition number 1 to 1,000, batch size 32."""
    generator = stream(0, "quadratics")
    data = Data(*({"inputs": torch.randn(NUM_ROWS, NUM_DIMS, generator=generator),
                   "noise": LABEL_NOISE * torch.randn(NUM_ROWS, generator=generator)} for _ in range(3)))
    return (Quadratics(name="quadratics", domain="synthetic", loss_cap=5.0, batch_size=32, data=data),)
