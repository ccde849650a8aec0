"""Families seen through a change: in other units, with noise in their gradients, on fewer rows, or in fewer bits."""

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from math import log
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from optsearch.tasks.family import Data, TaskFamily
from optsearch.trees import Tree, prefixed

Level = Literal["global", "tensor", "parameter"]
LEVELS = get_args(Level)
# Leaves of tasks and batches, under names that no family takes for its own.
UNIT, NOISE, SHARE, DRAW = "changed.unit", "changed.noise", "changed.share", "changed.draw"
# Multipliers of a Murmur-like hash (Appleby 2011), as signed 64-bit numbers.
_MIX = (-49064778989728563, -4265267296055464877)


# Normal numbers that noise is taken from, at least.
LEAST_TABLE = 2**18


@dataclass(frozen=True, kw_only=True)
class Changed(TaskFamily):
    """A family that passes everything on to `original`, whose name, data and module it has."""

    original: TaskFamily

    @classmethod
    def of(cls, original: TaskFamily, **change: Any) -> Self:
        """`original` with the change."""
        shared = {field.name: getattr(original, field.name) for field in fields(TaskFamily)}
        return cls(**shared | {"original": original} | change)

    @property
    def module(self) -> nn.Module | None:
        return self.original.module

    def sample(self, generator: torch.Generator) -> Tree:
        return self.original.sample(generator)

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return self.original.init(generator, task)

    @abstractmethod
    def loss(self, params: Tree, batch: Tree) -> Tensor: ...

    def on(self, device: torch.device | str) -> Self:
        return replace(self, data=self.data.to(device), original=self.original.on(device))


@dataclass(frozen=True, kw_only=True)
class Reparametrized(Changed):
    """The same tasks with params in other units: what is trained is params ÷ unit, drawn anew for every task.

    Units are log-uniform between 1 / `most` and `most`: one a task, one a tensor, or one a parameter (`level`). The
    loss of the untrained params stays the same, gradients and the right step sizes don't (Metz et al. 2020,
    arxiv.org/abs/2009.11243).
    """

    most: float
    level: Level = "global"

    def sample(self, generator: torch.Generator) -> Tree:
        task = self.original.sample(generator)
        if self.level == "global":
            return task | {UNIT: self._units((), generator)}
        # Params are made only to be told their shapes.
        params = self.original.init(torch.Generator().manual_seed(0), task)
        return task | prefixed(UNIT, {name: self._units(leaf.shape if self.level == "parameter" else (), generator)
                                      for name, leaf in params.items()})

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {name: leaf / self._unit(task, name) for name, leaf in self.original.init(generator, task).items()}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return self.original.loss({name: leaf * self._unit(batch, name) for name, leaf in params.items()}, batch)

    def _units(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return ((2 * torch.rand(shape, generator=generator) - 1) * log(self.most)).exp()

    def _unit(self, task: Tree, name: str) -> Tensor:
        return task[UNIT] if self.level == "global" else task[f"{UNIT}.{name}"]


@dataclass(frozen=True, kw_only=True)
class NoisyGradients(Changed):
    """The same losses; each tensor's gradient has Gaussian noise of `most` times its RMS at most.

    How much is drawn log-uniformly between `most` / 100 and `most` for every task. The noise follows from the rows
    of a batch, so it is new at every step and the same for both halves of an antithetic pair. It is a stretch of one
    table, as in Salimans et al. 2017, arxiv.org/abs/1703.03864: to make it anew took half of an inner step's time.
    """

    most: float
    table: Tensor = field(repr=False, compare=False)

    @classmethod
    def of(cls, original: TaskFamily, **change: Any) -> Self:
        length = max(LEAST_TABLE, 1 << (2 * original.num_parameters).bit_length())
        table = torch.randn(length, generator=torch.Generator().manual_seed(0))
        return super().of(original, **{"data": _numbered(original.data), "table": table} | change)

    def on(self, device: torch.device | str) -> Self:
        return replace(super().on(device), table=self.table.to(device))

    def sample(self, generator: torch.Generator) -> Tree:
        amount = self.most * 100 ** -torch.rand((), generator=generator)
        return self.original.sample(generator) | {NOISE: amount}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        start = _hash(_hash(_hash(batch[DRAW]).sum()))
        leaves = _Noisy.apply(start, batch[NOISE], self.table, *params.values())
        return self.original.loss(dict(zip(params, leaves, strict=True)), batch)


@dataclass(frozen=True, kw_only=True)
class FewerRows(Changed):
    """The same tasks on smaller batches: a part of the rows, between `least` and all, stands for the whole batch.

    The part is drawn for every task; shapes stay as they are, since rows are repeated.
    """

    least: float

    def sample(self, generator: torch.Generator) -> Tree:
        share = self.least + (1 - self.least) * torch.rand((), generator=generator)
        return self.original.sample(generator) | {SHARE: share}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        names = list(self.data.inner)
        num_rows = len(batch[names[0]])
        kept = (batch[SHARE] * num_rows).round().clamp(min=1).long()
        chosen = torch.arange(num_rows, device=kept.device) % kept
        return self.original.loss(params, batch | {name: batch[name][chosen] for name in names})


@dataclass(frozen=True, kw_only=True)
class LowPrecision(Changed):
    """The same tasks with losses and gradients computed in bfloat16; params stay as they are."""

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return self.original.loss(_lowered(params), _lowered(batch)).float()


def _lowered(tree: Tree) -> Tree:
    return {name: leaf.bfloat16() if leaf.is_floating_point() else leaf for name, leaf in tree.items()}


def _numbered(data: Data) -> Data:
    """The data with each row's number, counted over all splits."""
    start, splits = 0, []
    for rows in (data.inner, data.meta, data.test):
        first = next(iter(rows.values()))
        splits.append(rows | {DRAW: torch.arange(start, start + len(first), device=first.device)})
        start += len(first)
    return Data(*splits)


class _Noisy(torch.autograd.Function):
    """Nothing on the way forward; on the way back, `amount` · RMS of the table's numbers from `start` on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(start: Tensor, amount: Tensor, table: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf.view_as(leaf) for leaf in leaves)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        context.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        start, amount, table = context.saved_tensors
        sizes = [gradient.numel() for gradient in gradients]
        numbers = table[(start + torch.arange(sum(sizes), device=start.device)) & (len(table) - 1)]
        return None, None, None, *(
            gradient + (amount * gradient.square().mean().sqrt() * noise.view(gradient.shape)).to(gradient.dtype)
            for gradient, noise in zip(gradients, numbers.split(sizes), strict=True))


def _hash(numbers: Tensor) -> Tensor:
    """Well-mixed 64-bit numbers."""
    for factor in _MIX:
        numbers = (numbers ^ ((numbers >> 33) & 0x7fffffff)) * factor
    return numbers ^ ((numbers >> 33) & 0x7fffffff)
