"""Bases: the hand-made optimizers that a learned step is added to."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from optsearch.optimizers.accumulators import ROOT_FLOOR
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

# However slow a controller makes an average, this much of it is new at each step.
LEAST_NEWS = 1e-6


@dataclass(frozen=True)
class Knobs:
    """What a controller changes in a base: by knob, an offset of its logarithm `[..., tensors]`."""

    layout: Layout
    offsets: Tree

    def decay(self, name: str, value: float) -> Tensor:
        """The decay of each parameter; an offset acts on 1 - decay."""
        return self.layout.spread(self._decay(name, value))

    def scaled(self, name: str, value: float) -> Tensor:
        """A positive number of each parameter."""
        return self.layout.spread(value * self.offsets[name].exp())

    def weight(self, name: str, value: float, before: Tensor) -> Tensor:
        """The sum of an average's weights `[..., 1, tensors]`, which its bias correction divides by."""
        decay = self._decay(name, value)[..., None, :]
        return decay * before + (1 - decay)

    def _decay(self, name: str, value: float) -> Tensor:
        return 1 - ((1 - value) * self.offsets[name].exp()).clamp(LEAST_NEWS, 1)


class Base(Protocol):
    """A hand-made direction; times the learning rate it is that optimizer's step."""

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of what a controller may change."""

    def init(self, like: Tensor, num_tuned: int = 0) -> Tree:
        """State for parameters `like` `[*batch, n]`; `num_tuned` tensors have their knobs turned."""

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        """Uphill direction `[..., n]` and the next state."""

    def averages(self, state: Tree) -> Tree:
        """What the base keeps anyway: `momentum` and `second_moment` `[..., 1, n]`, where it has them."""


@dataclass(frozen=True)
class AdamW:
    """`torch.optim.AdamW`: bias-corrected, decay decoupled (Loshchilov and Hutter 2019, arxiv.org/abs/1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    knobs: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "eps")

    def __post_init__(self) -> None:
        require("base.adamw", 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1,
                f"beta1 and beta2 must be in [0, 1), not {self.beta1} and {self.beta2}.")

    def init(self, like: Tensor, num_tuned: int = 0) -> Tree:
        state = {"first": like.new_zeros(like.shape), "second": like.new_zeros(like.shape)}
        if num_tuned:
            state |= {name: like.new_zeros(*like.shape[:-1], 1, num_tuned) for name in ("first_sum", "second_sum")}
        return state

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        squared, in_place = moment.gradient.square(), moment.in_place
        beta1, beta2 = self._decays(knobs)
        first, second = (torch.lerp(values, state[name], beta, out=state[name] if in_place else None)
                         for name, values, beta in (("first", moment.gradient, beta1), ("second", squared, beta2)))
        after = {"first": first, "second": second}
        if knobs is None:
            corrections = 1 - self.beta1**moment.step, 1 - self.beta2**moment.step
            eps: Tensor | float = self.eps
        else:
            after |= {"first_sum": knobs.weight("beta1", self.beta1, state["first_sum"]),
                      "second_sum": knobs.weight("beta2", self.beta2, state["second_sum"])}
            corrections = (moment.layout.spread(after["first_sum"][..., 0, :]),
                           moment.layout.spread(after["second_sum"][..., 0, :]))
            eps = knobs.scaled("eps", self.eps)
        root = (second / corrections[1]).clamp_(min=ROOT_FLOOR).sqrt_()
        root = root.add_(eps) if in_place else root + eps
        direction = first / corrections[0]
        direction = direction.div_(root) if in_place else direction / root
        if self.weight_decay:
            direction = direction.add_(moment.params, alpha=self.weight_decay)
        return direction, after

    def _decays(self, knobs: Knobs | None) -> tuple[Any, Any]:
        """Numbers, or tensors where they are turned."""
        if knobs is None:
            return self.beta1, self.beta2
        return knobs.decay("beta1", self.beta1), knobs.decay("beta2", self.beta2)

    def averages(self, state: Tree) -> Tree:
        return {"momentum": state["first"][..., None, :], "second_moment": state["second"][..., None, :]}


@dataclass(frozen=True)
class SGDM:
    """`torch.optim.SGD` with momentum and coupled weight decay."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    knobs: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        require("base.sgdm", 0 <= self.momentum < 1, f"momentum must be in [0, 1), not {self.momentum}.")

    def init(self, like: Tensor, num_tuned: int = 0) -> Tree:
        return {"momentum": like.new_zeros(like.shape)}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        gradient = moment.gradient
        if self.weight_decay:
            gradient = gradient.add(moment.params, alpha=self.weight_decay)
        momentum = (gradient.add(state["momentum"], alpha=self.momentum) if knobs is None
                    else gradient + knobs.decay("momentum", self.momentum) * state["momentum"])
        return momentum, {"momentum": momentum}

    def averages(self, state: Tree) -> Tree:
        return {"momentum": state["momentum"][..., None, :]}


BASES: dict[str, type[Base]] = {"adamw": AdamW, "sgdm": SGDM}
