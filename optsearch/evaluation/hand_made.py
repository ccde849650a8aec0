"""The hand-made opponents: known optimizers, each with a grid of learning rates that runs as one batch."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsearch.meta_training.inner import InnerOptimizer
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.bases import SGDM, Base, Lion
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment, Observation
from optsearch.optimizers.muon import Muon
from optsearch.optimizers.soap import SOAP
from optsearch.trees import Tree, prefixed, within

WARMUP_RATIO = 0.05
# A first step of 0 would be a step lost.
FIRST_FACTOR = 0.01
NUM_LEARNING_RATES = 15

ScheduleName = Literal["constant", "warmup", "cosine"]


def _warmup(progress: Tensor) -> Tensor:
    return (progress / WARMUP_RATIO).clamp(FIRST_FACTOR, 1)


def _cosine(progress: Tensor) -> Tensor:
    falling = (1 + torch.cos(pi * (progress - WARMUP_RATIO) / (1 - WARMUP_RATIO))) / 2
    return torch.where(progress < WARMUP_RATIO, _warmup(progress), falling)


# Factors on the peak learning rate for a progress in 0..1: flat, linear warm-up, and then a cosine decay to 0.
SCHEDULES: dict[ScheduleName, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like, "warmup": _warmup, "cosine": _cosine}


@dataclass(frozen=True)
class Scheduled:
    """A base under a schedule; `weights["lr"]` `[*batch, 1]` is the peak learning rate of each training."""

    base: Base
    schedule: ScheduleName = "cosine"

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        like = Layout.flatten(params, batch_dims)
        return {"step": _zeros(like)} | prefixed("base", self.base.init(Layout.of(params, batch_dims), like))

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        moment = _moment(observation, state)
        direction, base = self.base.direction(moment, within("base", state))
        updates = -weights["lr"] * SCHEDULES[self.schedule](moment.progress) * direction
        return moment.layout.unflatten(updates), {"step": moment.step} | prefixed("base", base)


@dataclass(frozen=True)
class NAdamW(AdamW):
    """`torch.optim.NAdam` with `decoupled_weight_decay` (Dozat 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."""

    momentum_decay: float = 0.004
    knobs: ClassVar[tuple[str, ...]] = ()

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        return super().init(layout, like) | {"product": 1 + _zeros(like)}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        momentum, following = self._momentum(moment.step), self._momentum(moment.step + 1)
        product = momentum * state["product"]
        first = torch.lerp(moment.gradient, state["first"], self.beta1)
        second = torch.lerp(moment.gradient.square(), state["second"], self.beta2)
        mean = ((1 - momentum) / (1 - product) * moment.gradient
                + following / (1 - product * following) * first)
        root = (second / (1 - self.beta2**moment.step)).sqrt() + self.eps
        return mean / root + self.weight_decay * moment.params, {"first": first, "second": second, "product": product}

    def _momentum(self, step: Tensor) -> Tensor:
        """Rises over the steps from about half of `beta1` to all of it."""
        return self.beta1 * (1 - 0.5 * 0.96**(step * self.momentum_decay))


@dataclass(frozen=True)
class ScheduleFreeAdamW:
    """Averaging in place of a schedule, after the warm-up (Defazio et al. 2024, arxiv.org/abs/2405.15682).

    The paper's y, where gradients are taken, is what a training holds as its params; x, the average that is to be
    judged, and z, which takes the steps, are state. Weight decay is taken at y.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        like = Layout.flatten(params, batch_dims)
        return {"step": _zeros(like), "total": _zeros(like), "x": like, "z": like, "second": torch.zeros_like(like)}

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        moment = _moment(observation, state)
        factor = SCHEDULES["warmup"](moment.progress)
        second = torch.lerp(moment.gradient.square(), state["second"], self.beta2)
        root = (second / (1 - self.beta2**moment.step)).sqrt() + self.eps
        z = state["z"] - weights["lr"] * factor * (moment.gradient / root + self.weight_decay * moment.params)
        # The paper weights with the squares of learning rates; their peak cancels.
        total = state["total"] + factor.square()
        x = torch.lerp(state["x"], z, factor.square() / total)
        updates = torch.lerp(z, x, self.beta1) - moment.params
        return moment.layout.unflatten(updates), {"step": moment.step, "total": total, "x": x, "z": z, "second": second}

    def evaluated(self, params: Tree, state: Tree) -> Tree:
        """The average x, in the shapes of `params`."""
        return Layout.of(params, state["step"].dim() - 1).unflatten(state["x"])


def _zeros(like: Tensor) -> Tensor:
    """One number a training."""
    return like.new_zeros(*like.shape[:-1], 1)


def _moment(observation: Observation, state: Tree) -> Moment:
    assert observation.progress is not None
    batch_dims = state["step"].dim() - 1
    return Moment(Layout.of(observation.params, batch_dims), Layout.flatten(observation.gradients, batch_dims),
                  Layout.flatten(observation.params, batch_dims), state["step"] + 1, observation.progress)


@dataclass(frozen=True)
class HandMade:
    """An optimizer that needs no learning, by its `name` in words, and the learning rates that are tried for it."""

    name: str
    optimizer: InnerOptimizer
    learning_rates: tuple[float, ...]
    description: str
    source: str


def half_decades(lowest: int) -> tuple[float, ...]:
    """15 learning rates over 7 decades, from 10^`lowest` on."""
    return tuple(10 ** (lowest + index / 2) for index in range(NUM_LEARNING_RATES))


# Those that VeLO's opponents were tuned over (Metz et al. 2022, arxiv.org/abs/2211.09760).
LEARNING_RATES = half_decades(-7)

OPPONENTS: dict[str, HandMade] = {
    "adamw_cosine": HandMade(
        "AdamW, cosine", Scheduled(AdamW()), LEARNING_RATES,
        "AdamW with weight decay 0.01 under warm-up and cosine decay: the main baseline.",
        "Loshchilov and Hutter 2019, arxiv.org/abs/1711.05101"),
    "adam_constant": HandMade(
        "Adam, constant", Scheduled(AdamW(weight_decay=0.0), "constant"), LEARNING_RATES,
        "Adam at a constant learning rate: what VeLO and Celo were compared with.",
        "Kingma and Ba 2015, arxiv.org/abs/1412.6980"),
    "adamw_default": HandMade(
        "AdamW, default", Scheduled(AdamW(), "constant"), (1e-3,),
        "torch.optim.AdamW as it comes: learning rate 0.001, nothing tuned.",
        "Loshchilov and Hutter 2019, arxiv.org/abs/1711.05101"),
    # Its steps shrink with the gradients: it wants larger learning rates.
    "sgdm_cosine": HandMade(
        "SGD with momentum, cosine", Scheduled(SGDM()), half_decades(-6),
        "SGD with momentum 0.9 under warm-up and cosine decay.",
        "Sutskever et al. 2013, proceedings.mlr.press/v28/sutskever13"),
    # Chen et al. advise learning rates 3 to 10 times smaller than AdamW's and as much more weight decay.
    "lion_cosine": HandMade(
        "Lion, cosine", Scheduled(Lion(weight_decay=0.1)), half_decades(-8),
        "Lion with weight decay 0.1 under warm-up and cosine decay.",
        "Chen et al. 2023, arxiv.org/abs/2302.06675"),
    "muon_cosine": HandMade(
        "Muon, cosine", Scheduled(Muon()), LEARNING_RATES,
        "Muon for matrices and kernels, AdamW for the rest, under warm-up and cosine decay.",
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arxiv.org/abs/2502.16982"),
    "soap_cosine": HandMade(
        "SOAP, cosine", Scheduled(SOAP()), LEARNING_RATES,
        "AdamW in the eigenbases of each matrix's gradients, under warm-up and cosine decay.",
        "Vyas et al. 2024, arxiv.org/abs/2409.11321"),
    "nadamw_cosine": HandMade(
        "NAdamW, cosine", Scheduled(NAdamW()), LEARNING_RATES,
        "Adam with Nesterov momentum and weight decay 0.01 under warm-up and cosine decay.",
        "Dozat 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"),
    "schedule_free_adamw": HandMade(
        "Schedule-free AdamW", ScheduleFreeAdamW(), LEARNING_RATES,
        "AdamW with weight decay 0.01 and averaged params after a warm-up, without any decay.",
        "Defazio et al. 2024, arxiv.org/abs/2405.15682"),
}
