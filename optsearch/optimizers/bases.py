"""Bases: the hand-made optimizers that a learned step is added to."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from optsearch.optimizers.accumulators import ROOT_FLOOR
from optsearch.optimizers.adam import AdamW, AggMo
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.muon import Muon
from optsearch.optimizers.part import require
from optsearch.optimizers.soap import SOAP
from optsearch.trees import Tree


class Base(Protocol):
    """A hand-made direction; times the learning rate it is that optimizer's step."""

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of what a controller may change."""

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        """State for parameters `like` `[*batch, n]` of this layout; `num_tuned` tensors have their knobs turned."""

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        """Uphill direction `[..., n]` and the next state."""

    def averages(self, state: Tree) -> Tree:
        """What the base keeps anyway: `momentum` and `second_moment` `[..., 1, n]`, where it has them."""


@dataclass(frozen=True)
class SGDM:
    """`torch.optim.SGD` with momentum and coupled weight decay."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    knobs: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        require("base.sgdm", 0 <= self.momentum < 1, f"momentum must be in [0, 1), not {self.momentum}.")

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
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


@dataclass(frozen=True)
class Lion:
    """The sign of an average of gradients (Chen et al. 2023, arxiv.org/abs/2302.06675), weight decay decoupled.

    A sign has no slope: to meta-gradients the betas do not matter.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    knobs: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    def __post_init__(self) -> None:
        require("base.lion", 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1,
                f"beta1 and beta2 must be in [0, 1), not {self.beta1} and {self.beta2}.")

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        return {"momentum": like.new_zeros(like.shape)}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        before = state["momentum"]
        beta1, beta2 = ((self.beta1, self.beta2) if knobs is None
                        else (knobs.decay("beta1", self.beta1), knobs.decay("beta2", self.beta2)))
        direction = torch.lerp(moment.gradient, before, beta1).sign()
        if self.weight_decay:
            direction = direction.add(moment.params, alpha=self.weight_decay)
        return direction, {"momentum": torch.lerp(moment.gradient, before, beta2,
                                                  out=before if moment.in_place else None)}

    def averages(self, state: Tree) -> Tree:
        return {"momentum": state["momentum"][..., None, :]}


@dataclass(frozen=True)
class RMSprop:
    """`torch.optim.RMSprop` (Tieleman and Hinton 2012) with momentum and coupled weight decay."""

    alpha: float = 0.99
    momentum: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.0
    knobs: ClassVar[tuple[str, ...]] = ("alpha", "momentum", "eps")

    def __post_init__(self) -> None:
        require("base.rmsprop", 0 <= self.alpha < 1 and 0 <= self.momentum < 1,
                f"alpha and momentum must be in [0, 1), not {self.alpha} and {self.momentum}.")

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        return {"second": like.new_zeros(like.shape), "steps": like.new_zeros(like.shape)}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        alpha, momentum, eps = ((self.alpha, self.momentum, self.eps) if knobs is None
                                else (knobs.decay("alpha", self.alpha), knobs.decay("momentum", self.momentum),
                                      knobs.scaled("eps", self.eps)))
        gradient = moment.gradient
        if self.weight_decay:
            gradient = gradient.add(moment.params, alpha=self.weight_decay)
        second = torch.lerp(gradient.square(), state["second"], alpha,
                            out=state["second"] if moment.in_place else None)
        steps = gradient / (second.clamp(min=ROOT_FLOOR).sqrt() + eps) + momentum * state["steps"]
        return steps, {"second": second, "steps": steps}

    def averages(self, state: Tree) -> Tree:
        """No momentum: what is summed up are steps, not gradients."""
        return {"second_moment": state["second"][..., None, :]}


BASES: dict[str, type[Base]] = {
    "adamw": AdamW, "sgdm": SGDM, "lion": Lion, "rmsprop": RMSprop, "aggmo": AggMo, "muon": Muon,
    "soap": SOAP}
