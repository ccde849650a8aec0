"""Memories: what a controller can look up of what a tensor has been through."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from optsearch.trees import Tree


class Memory(Protocol):
    """Written and read at every step; its weights are shared by all tensors, its contents are each tensor's own."""

    @property
    def num_read(self) -> int:
        """Numbers a tensor that a read gives, 0 where there is no memory."""

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree: ...

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        """An empty memory; its leaves end with one entry a tensor."""

    def update(self, weights: Tree, values: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """What is read, `[..., num_read, tensors]`, for `values` `[..., num_inputs, tensors]`, and the next state."""


@dataclass(frozen=True)
class NoMemory:
    """Nothing is kept."""

    num_read: ClassVar[int] = 0

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return {}

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return {}

    def update(self, weights: Tree, values: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return values[..., :0, :], {}


MEMORIES: dict[str, type[Memory]] = {"none": NoMemory}
