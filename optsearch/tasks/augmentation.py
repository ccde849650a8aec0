"""Families seen through a change: in other units, or in fewer bits."""

from dataclasses import dataclass, replace
from math import log
from typing import Self

import torch
from torch import Tensor, nn

from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

UNIT = "reparametrization"


@dataclass(frozen=True, kw_only=True)
class Reparametrized(TaskFamily):
    """The same tasks with params in other units: what is trained is params ÷ unit, drawn anew for every task.

    Units are log-uniform between 1 / `most` and `most`; the loss of the untrained params stays the same, gradients and
    the right step sizes don't (Metz et al. 2020, arxiv.org/abs/2009.11243).
    """

    original: TaskFamily
    most: float

    @staticmethod
    def of(family: TaskFamily, most: float) -> "Reparametrized":
        return Reparametrized(name=family.name, domain=family.domain, loss_cap=family.loss_cap,
                              batch_size=family.batch_size, data=family.data, original=family, most=most)

    @property
    def module(self) -> nn.Module | None:
        return self.original.module

    def sample(self, generator: torch.Generator) -> Tree:
        exponent = (2 * torch.rand((), generator=generator) - 1) * log(self.most)
        return self.original.sample(generator) | {UNIT: exponent.exp()}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {name: leaf / task[UNIT] for name, leaf in self.original.init(generator, task).items()}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        unit = batch[UNIT]
        return self.original.loss({name: leaf * unit for name, leaf in params.items()}, batch)

    def on(self, device: torch.device | str) -> Self:
        return replace(self, data=self.data.to(device), original=self.original.on(device))


@dataclass(frozen=True, kw_only=True)
class LowPrecision(TaskFamily):
    """The same tasks with losses and gradients computed in bfloat16; params stay as they are."""

    original: TaskFamily

    @staticmethod
    def of(family: TaskFamily) -> "LowPrecision":
        return LowPrecision(name=family.name, domain=family.domain, loss_cap=family.loss_cap,
                            batch_size=family.batch_size, data=family.data, original=family)

    @property
    def module(self) -> nn.Module | None:
        return self.original.module

    def sample(self, generator: torch.Generator) -> Tree:
        return self.original.sample(generator)

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return self.original.init(generator, task)

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return self.original.loss(_lowered(params), _lowered(batch)).float()

    def on(self, device: torch.device | str) -> Self:
        return replace(self, data=self.data.to(device), original=self.original.on(device))


def _lowered(tree: Tree) -> Tree:
    return {name: leaf.bfloat16() if leaf.is_floating_point() else leaf for name, leaf in tree.items()}
