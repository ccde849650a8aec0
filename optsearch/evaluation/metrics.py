"""What "better" means: relative loss and speedup against a baseline, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.seeds import generator

FINAL_PART = 0.1
MAX_SPEEDUP = 10.0
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float

    def to_config(self) -> dict[str, float]:
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def window(count: int) -> int:
    """How many of `count` losses the final one is the mean of."""
    return max(1, round(FINAL_PART * count))


def final_loss(curve: Tensor) -> Tensor:
    """Mean `[n]` of the last tenth of curves `[steps, n]`."""
    return curve[-window(len(curve)):].mean(0)


def smoothed(curve: Tensor) -> Tensor:
    """Trailing means over a tenth of the run; entries before the first whole window are infinite.

    The last one is `final_loss`, so a run reaches its own final loss exactly at its end.
    """
    count = window(len(curve))
    means = curve.unfold(0, count, 1).mean(-1)
    return torch.cat([torch.full_like(curve[: count - 1], torch.inf), means])


def speedup(curve: Tensor, baseline: Tensor) -> Tensor:
    """How many times sooner than `baseline` a `curve` reaches the baseline's final loss; both `[steps, n]`, smoothed.

    0 where it never does, at most 10. The baseline's own time is when it first gets there, too: on noisy curves, and
    where the loss rises again, that is before its end, and an optimizer must not be faster than itself.
    """
    # The final loss as the smoothed curve has it, to the last bit.
    target = smoothed(baseline)[-1]
    return (first_reached(baseline, target) / first_reached(curve, target)).clamp(max=MAX_SPEEDUP)


def first_reached(curve: Tensor, target: Tensor) -> Tensor:
    """Steps `[n]` until the smoothed curve `[steps, n]` is at `target` `[n]`; infinite where it never is."""
    reached = smoothed(curve) <= target
    return torch.where(reached.any(0), reached.float().argmax(0) + 1, torch.inf)


def interquartile_mean(values: Tensor) -> Tensor:
    """Mean of the middle half along the last dimension."""
    ordered = values.sort(-1).values
    cut = ordered.shape[-1] // 4
    return ordered[..., cut: ordered.shape[-1] - cut].mean(-1)


def bootstrap(strata: Sequence[Tensor], seed: int) -> Interval:
    """Interquartile mean over all values, resampled within each stratum (a family) on its own."""
    stream = generator(seed, "bootstrap")
    resamples = [values[torch.randint(len(values), (NUM_RESAMPLES, len(values)), generator=stream)]
                 for values in strata]
    means = interquartile_mean(torch.cat(resamples, -1))
    tail = (1 - CONFIDENCE) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail])).tolist()
    return Interval(float(interquartile_mean(torch.cat(list(strata)))), low, high)
