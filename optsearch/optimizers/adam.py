"""Adam with decoupled weight decay, and its relative without bias correction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from optsearch.optimizers.accumulators import ROOT_FLOOR, averaged, decay
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

Decay = Tensor | float


class Weighing(NamedTuple):
    """`sums` to keep; decays, the sums of the averages' weights, and eps: numbers or one a parameter."""

    sums: Tree
    beta1: Decay
    beta2: Decay
    first_weight: Tensor
    second_weight: Tensor
    eps: Tensor | float


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

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        state = {"first": like.new_zeros(like.shape), "second": like.new_zeros(like.shape)}
        if num_tuned:
            state |= {name: like.new_zeros(*like.shape[:-1], 1, num_tuned) for name in ("first_sum", "second_sum")}
        return state

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        after, scaled = self._averaged(moment, moment.gradient.square(), state, knobs)
        return self._decayed(scaled(after["first"]), moment), after

    def _averaged(self, moment: Moment, squared: Tensor, state: Tree,
                  knobs: Knobs | None) -> tuple[Tree, Callable[[Tensor], Tensor]]:
        """The next averages, and what makes a direction of a momentum, both without bias."""
        in_place, decays = moment.in_place, self._decays(moment, knobs)
        how = self._as_they_are(moment, decays) if knobs is None else self._turned(moment, decays, state, knobs)
        first, second = (torch.lerp(values, state[name], beta, out=state[name] if in_place else None)
                         for name, values, beta in (("first", moment.gradient, how.beta1),
                                                    ("second", squared, how.beta2)))

        def scaled(momentum: Tensor) -> Tensor:
            root = (second / how.second_weight).clamp_min_(ROOT_FLOOR).sqrt_()
            root = root.add_(how.eps) if in_place else root + how.eps
            direction = momentum / how.first_weight
            return direction.div_(root) if in_place else direction / root

        return {"first": first, "second": second} | how.sums, scaled

    def _as_they_are(self, moment: Moment, decays: tuple[Decay, Decay]) -> Weighing:
        beta1, beta2 = (moment.layout.spread(decay) if isinstance(decay, Tensor) else decay for decay in decays)
        return Weighing({}, beta1, beta2, 1 - self.beta1**moment.step, 1 - self.beta2**moment.step, self.eps)

    def _turned(self, moment: Moment, decays: tuple[Decay, Decay], state: Tree, knobs: Knobs) -> Weighing:
        beta1, beta2 = (torch.as_tensor(decay)[..., None, :] for decay in decays)
        first_sum = beta1 * state["first_sum"] + (1 - beta1)
        second_sum = beta2 * state["second_sum"] + (1 - beta2)
        # All at once: how many calls there are is what a step on small tensors costs.
        rows = torch.cat([beta1, beta2, first_sum, second_sum,
                          knobs.tensor_scaled("eps", self.eps)[..., None, :]], -2)
        return Weighing({"first_sum": first_sum, "second_sum": second_sum}, *moment.layout.spread(rows).unbind(-2))

    def _decayed(self, direction: Tensor, moment: Moment) -> Tensor:
        return direction.add_(moment.params, alpha=self.weight_decay) if self.weight_decay else direction

    def _decays(self, moment: Moment, knobs: Knobs | None) -> tuple[Decay, Decay]:
        """Numbers, or one a tensor."""
        if knobs is None:
            return self.beta1, self.beta2
        return knobs.tensor_decay("beta1", self.beta1), knobs.tensor_decay("beta2", self.beta2)

    def averages(self, state: Tree) -> Tree:
        return {"momentum": state["first"][..., None, :], "second_moment": state["second"][..., None, :]}


@dataclass(frozen=True)
class AggMo:
    """The mean over momenta of several decays, over the root of one second moment, without bias correction.

    STAR's nominal term (Harrison et al. 2022, arxiv.org/abs/2209.11208), with weight decay decoupled.
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0
    knobs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        require("base.aggmo", bool(self.betas) and all(0 <= value < 1 for value in (*self.betas, self.beta2)),
                f"betas must be one or more in [0, 1) and beta2 in [0, 1), not {self.betas} and {self.beta2}.")
        require("base.aggmo", self.eps > 0, f"eps must be above 0, not {self.eps}.")

    def init(self, layout: Layout, like: Tensor, num_tuned: int = 0) -> Tree:
        *batch, num_parameters = like.shape
        return {"momenta": like.new_zeros(*batch, len(self.betas), num_parameters),
                "second": like.new_zeros(like.shape)}

    def direction(self, moment: Moment, state: Tree, knobs: Knobs | None = None) -> tuple[Tensor, Tree]:
        momenta = averaged(state["momenta"], moment.gradient, decay(self.betas, None, moment.gradient),
                           in_place=moment.in_place)
        second = torch.lerp(moment.gradient.square(), state["second"], self.beta2,
                            out=state["second"] if moment.in_place else None)
        direction = momenta.mean(-2) * (second + self.eps).rsqrt()
        if self.weight_decay:
            direction = direction.add(moment.params, alpha=self.weight_decay)
        return direction, {"momenta": momenta, "second": second}

    def averages(self, state: Tree) -> Tree:
        return {"momentum": state["momenta"].mean(-2, keepdim=True), "second_moment": state["second"][..., None, :]}
