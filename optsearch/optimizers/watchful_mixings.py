"""Mixings that watch the loss, and give the learned step more or less of a share for it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optsearch.optimizers.candidates import Candidates
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

# Below these, decreases of the loss, errors relative to them and sizes of steps count as nothing.
DECREASE_FLOOR = 1e-12
ERROR_FLOOR = 1e-6
SIZE_FLOOR = 1e-12
# So large that sums and quotients of such losses and predictions are still finite in float32.
MOST = 1e30
LOSS_DECAY = 0.9


@dataclass(frozen=True)
class Adaptive:
    """base + share · learned, with a share in 0..2 that follows how well the learned step keeps its promises.

    At each step two first-order predictions of the loss's decrease are kept, of the base's step alone and of the mixed
    one; at the next step their squared errors, relative to each other, move the share's log odds. Where the learned
    part promised less than the base, a better prediction counts against it. So the share rises while more than half
    of the decrease that it promised on top came about: without a base, up to where the loss is lowest along the learned
    direction. The base's own error counts too, so a share whose promise is below that stays small. Log odds decay by
    `memory` a step, and `rate` is what one step moves them at most. Without a loss nothing moves.
    """

    memory: float = 0.9
    rate: float = 0.5
    has_base: ClassVar[bool] = True
    has_gate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("mixing.adaptive", 0 <= self.memory < 1, f"memory must be in [0, 1), not {self.memory}.")
        require("mixing.adaptive", self.rate > 0, f"rate must be above 0, not {self.rate}.")

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return {name: like.new_zeros(*like.shape[:-1], 1, num_tensors)
                for name in ("log_odds", "loss", "by_base", "by_both")}

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        log_odds = state["log_odds"]
        if moment.loss is not None:
            log_odds = self.memory * log_odds + self.rate * _evidence(moment.for_all(moment.loss), state)
        share = 2 * log_odds[..., 0, :].sigmoid()
        direction = candidates.base + moment.layout.times(candidates.learned, share)
        if moment.loss is None:
            return direction, state
        # Predictions of 0 say nothing: after a loss that the next one can't be compared with.
        loss = moment.for_all(moment.loss)
        predictions = {name: loss.isfinite() * _counted(
            (candidates.rates * moment.layout.dots(moment.gradient, of))[..., None, :])
            for name, of in (("by_base", candidates.base), ("by_both", direction))}
        return direction, {"log_odds": log_odds, "loss": _counted(loss) + torch.zeros_like(log_odds)} | predictions


def _counted(values: Tensor) -> Tensor:
    """Within ±`MOST`, and 0 where it is no number."""
    return torch.nan_to_num(values).clamp(-MOST, MOST)


def _evidence(loss: Tensor, state: Tree) -> Tensor:
    """In -1..1, above 0 where the last learned step deserved a larger share; 0 where nothing was predicted."""
    by_base, by_both = (state[name].sum(-1, keepdim=True) for name in ("by_base", "by_both"))
    decrease = state["loss"] - _counted(loss)
    scale = decrease.abs() + by_base.abs() + by_both.abs() + DECREASE_FLOOR
    of_base, of_both = (((predicted - decrease) / scale).square() for predicted in (by_base, by_both))
    evidence = (of_base - of_both) / (of_base + of_both + ERROR_FLOOR)
    return loss.isfinite() * (by_both - by_base).sign() * evidence


@dataclass(frozen=True)
class Trust:
    """base + share · learned; the base alone where the learned step runs away from it or the loss blows up.

    No tensor's learned step is larger than `radius` times the base's, as root mean squares. All of it is switched off
    when the loss isn't finite, or is above its running average by more than (`blow_up` - 1) times the average of its
    absolute value: for losses above 0, more than `blow_up` times the average. Half of what is missing comes back every
    `recovery` steps. Averages take a loss only as far as the alarm's threshold and none that isn't finite, so that a
    lasting higher loss is the usual one after a while. Without a loss `radius` alone is at work.
    """

    radius: float = 3.0
    blow_up: float = 2.0
    recovery: float = 20.0
    has_base: ClassVar[bool] = True
    has_gate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("mixing.trust", self.radius > 0 and self.recovery > 0,
                f"radius and recovery must be above 0, not {self.radius} and {self.recovery}.")
        require("mixing.trust", self.blow_up > 1, f"blow_up must be above 1, not {self.blow_up}.")

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        """Full trust; `news` is the sum of the averages' weights, which their bias correction divides by."""
        zeros = {name: like.new_zeros(*like.shape[:-1], 1, num_tensors) for name in ("average", "size", "news")}
        return {"trust": like.new_ones(*like.shape[:-1], 1, num_tensors)} | zeros

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        after = state if moment.loss is None else self._watched(moment.for_all(moment.loss), state)
        # What a learned step has of infinities is no step at all.
        learned = torch.nan_to_num(candidates.learned, nan=0.0, posinf=0.0, neginf=0.0)
        # Floored before the root, whose slope at 0 has no end.
        size, limit = (moment.layout.dots(part, part).clamp(min=SIZE_FLOOR**2).sqrt()
                       for part in (learned, candidates.base))
        limit = self.radius * limit
        share = torch.where(size > limit, limit / size, torch.ones_like(size))
        return candidates.base + moment.layout.times(learned, after["trust"][..., 0, :] * share), after

    def _watched(self, loss: Tensor, state: Tree) -> Tree:
        """The state after the loss `[..., 1, tensors]`."""
        is_finite, is_first, news = loss.isfinite(), state["news"] == 0, state["news"].clamp(min=1 - LOSS_DECAY)
        highest = (state["average"] + (self.blow_up - 1) * state["size"]) / news
        blows_up = ~is_finite | ((loss > highest) & ~is_first)
        counted = torch.where(is_first, loss, torch.minimum(loss, highest))
        fresh = {"average": counted, "size": counted.abs(), "news": torch.ones_like(loss)}
        after = {name: torch.where(is_finite, torch.lerp(value, state[name], LOSS_DECAY), state[name])
                 for name, value in fresh.items()}
        recovered = 1 - (1 - state["trust"]) * 2**(-1 / self.recovery)
        return after | {"trust": torch.where(blows_up, torch.zeros_like(recovered), recovered)}
