"""Memories: what a controller can look up of what a tensor has been through."""

from dataclasses import dataclass
from math import exp, sqrt
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from optsearch.optimizers.part import require
from optsearch.optimizers.rules import init_layer, linear
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


@dataclass(frozen=True)
class KeyValueMemory:
    """What a tensor looked like, and what it looked like one step later, in `size` slots a tensor.

    Read by attention over keys, then written, as neural memories are (Graves et al. 2014, arxiv.org/abs/1410.5401;
    Pritzel et al. 2017, arxiv.org/abs/1703.01988): a read tells what came next when the tensor looked as it does now.
    A slot's strength is 1 when written, decays with a lifetime of `size` / 2 steps and grows by the attention that the
    slot gets; the weakest is written next, empty ones first.
    """

    size: int = 32
    key_size: int = 8
    value_size: int = 8

    def __post_init__(self) -> None:
        sizes = (self.size, self.key_size, self.value_size)
        require("memory.key_value", min(sizes) > 0, f"size, key_size and value_size must be at least 1, not {sizes}.")

    @property
    def num_read(self) -> int:
        return self.value_size

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return (init_layer(generator, "query", num_inputs, self.key_size)
                | init_layer(generator, "key", num_inputs, self.key_size)
                | init_layer(generator, "value", num_inputs, self.value_size))

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        shapes = {"keys": (self.key_size, self.size), "values": (self.value_size, self.size), "strengths": (self.size,),
                  "last_key": (self.key_size,)}
        return {name: like.new_zeros(*like.shape[:-1], *shape, num_tensors) for name, shape in shapes.items()}

    def update(self, weights: Tree, values: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        read, attention = self._read(linear(weights, "query", values), state)
        key, value = linear(weights, "key", values), linear(weights, "value", values).tanh()
        strengths = state["strengths"]
        # The first write ever goes to slot 0, and a slot once written never comes down to 0.
        last_key = torch.where(strengths[..., :1, :] > 0, state["last_key"], key)
        # Were the lifetime `size` steps, even attention would keep old slots stronger than new ones.
        # Strengths only choose slots, and no slope passes a choice.
        strengths = torch.where(strengths > 0, exp(-2 / self.size) * strengths + attention.detach(), 0)
        weakest = strengths.argmin(-2, keepdim=True)
        return read, {"keys": _written(state["keys"], weakest, last_key),
                      "values": _written(state["values"], weakest, value),
                      "strengths": strengths.scatter(-2, weakest, 1.0), "last_key": key}

    def _read(self, query: Tensor, state: Tree) -> tuple[Tensor, Tensor]:
        """Values `[..., value_size, tensors]`, and the attention of each slot `[..., size, tensors]`."""
        logits = ((query / sqrt(self.key_size))[..., None, :] * state["keys"]).sum(-3)
        # Not infinitely low: where all slots are empty, their attention is even, and what they hold is 0.
        logits = logits.masked_fill(state["strengths"] == 0, torch.finfo(logits.dtype).min)
        attention = logits.softmax(-2)
        return (attention[..., None, :, :] * state["values"]).sum(-2), attention


def _written(slots: Tensor, index: Tensor, content: Tensor) -> Tensor:
    """`slots` `[..., k, size, tensors]` with `content` `[..., k, tensors]` in that of each tensor's `index`."""
    return slots.scatter(-2, index[..., None, :, :].expand(*content.shape[:-1], 1, content.shape[-1]),
                         content[..., None, :])


MEMORIES: dict[str, type[Memory]] = {"none": NoMemory, "key_value": KeyValueMemory}
