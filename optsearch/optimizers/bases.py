"""Bases: the hand-made optimizers that a learned step is added to."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optsearch.optimizers.accumulators import ROOT_FLOOR
from optsearch.optimizers.part import require
from optsearch.trees import Tree


class Base(Protocol):
    """A hand-made direction; times the learning rate it is that optimizer's step."""

    def init(self, like: Tensor) -> Tree:
        """State for parameters `like` `[*batch, n]`."""

    def direction(self, gradient: Tensor, params: Tensor, step: Tensor, state: Tree, *,
                  in_place: bool = False) -> tuple[Tensor, Tree]:
        """Uphill direction `[..., n]` and the next state; `step` `[..., 1]` counts from 1.

        `in_place` may write the next state where the last one stood.
        """


@dataclass(frozen=True)
class AdamW:
    """`torch.optim.AdamW`: bias-corrected, decay decoupled (Loshchilov and Hutter 2019, arxiv.org/abs/1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        require("base.adamw", 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1,
                f"beta1 and beta2 must be in [0, 1), not {self.beta1} and {self.beta2}.")

    def init(self, like: Tensor) -> Tree:
        return {"first": like.new_zeros(like.shape), "second": like.new_zeros(like.shape)}

    def direction(self, gradient: Tensor, params: Tensor, step: Tensor, state: Tree, *,
                  in_place: bool = False) -> tuple[Tensor, Tree]:
        first, second = (torch.lerp(values, state[name], beta, out=state[name] if in_place else None)
                         for name, values, beta in (("first", gradient, self.beta1),
                                                    ("second", gradient.square(), self.beta2)))
        root = (second / (1 - self.beta2**step)).clamp_(min=ROOT_FLOOR).sqrt_()
        root = root.add_(self.eps) if in_place else root + self.eps
        direction = first / (1 - self.beta1**step)
        direction = direction.div_(root) if in_place else direction / root
        if self.weight_decay:
            direction = direction.add_(params, alpha=self.weight_decay)
        return direction, {"first": first, "second": second}


@dataclass(frozen=True)
class SGDM:
    """`torch.optim.SGD` with momentum and coupled weight decay."""

    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require("base.sgdm", 0 <= self.momentum < 1, f"momentum must be in [0, 1), not {self.momentum}.")

    def init(self, like: Tensor) -> Tree:
        return {"momentum": like.new_zeros(like.shape)}

    def direction(self, gradient: Tensor, params: Tensor, step: Tensor, state: Tree, *,
                  in_place: bool = False) -> tuple[Tensor, Tree]:
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        momentum = gradient.add(state["momentum"], alpha=self.momentum)
        return momentum, {"momentum": momentum}


BASES: dict[str, type[Base]] = {"adamw": AdamW, "sgdm": SGDM}
