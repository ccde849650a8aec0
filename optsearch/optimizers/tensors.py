"""What a controller sees: each tensor as a few numbers, and how the run goes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from optsearch.optimizers.features import PROGRESS_CENTRES, PROGRESS_GAIN
from optsearch.optimizers.layout import Layout
from optsearch.trees import Tree

LOG_FLOOR = 1e-10
LOG_SCALE = 10.0
# Steps after which half of an average is new (VeLO spaces them over the horizon, which is not always known).
HALF_LIVES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# Fewer losses than this say nothing about a trend.
FIRST_TREND = 3
MOST_LOSS = 1e6


@dataclass(frozen=True)
class Scene:
    """One step as a controller sees it; `averages` has `momentum` `[..., k, n]` where the features keep it.

    `loss` `[..., 1]` is that of the batch, None where nobody told it; `trend` are its averages `[..., h, tensors]`
    and the lowest they have been.
    """

    layout: Layout
    gradient: Tensor
    params: Tensor
    step: Tensor
    progress: Tensor
    loss: Tensor | None
    trend: tuple[Tensor, Tensor]
    averages: Tree

    def logs(self, vectors: Tensor) -> Tensor:
        """Log of the root mean square over each tensor, about 1 for 1 and about 0 for 5e-5: `[..., k, tensors]`."""
        return 1 + (self.layout.root_mean_squares(vectors) + LOG_FLOOR).log() / LOG_SCALE

    def for_all(self, values: Tensor) -> Tensor:
        """`[..., k]` as the same for all tensors."""
        return values[..., None].expand(*values.shape, self.layout.num_tensors)


def _size(scene: Scene) -> Tensor:
    """Log of the number of parameters, and whether the tensor is a matrix."""
    rows = [(log(max(1, segment.size)) / LOG_SCALE, float(segment.is_matrix))
            for segment in scene.layout.segments for _ in range(segment.copies)]
    values = scene.gradient.new_tensor(rows).T
    return values.expand(*scene.gradient.shape[:-1], *values.shape)


def _loss(scene: Scene) -> Tensor:
    """Averages against the next slower ones, from their lowest (Metz et al. 2022, arxiv.org/abs/2211.09760)."""
    averages, lowest = scene.trend
    faster, slower = averages[..., :-1, :] - lowest[..., :-1, :], averages[..., 1:, :] - lowest[..., :-1, :]
    trend = (faster / slower.clamp(min=1e-8) - 1).clamp(-1, 1)
    return torch.where(scene.step[..., None] < FIRST_TREND, torch.zeros_like(trend), trend)


# Numbers a tensor: `[..., width, tensors]`.
TENSOR_GROUPS: dict[str, Callable[[Scene], Tensor]] = {
    "gradient": lambda scene: scene.logs(scene.gradient[..., None, :]),
    "parameter": lambda scene: scene.logs(scene.params[..., None, :]),
    "momentum": lambda scene: scene.logs(scene.averages["momentum"]),
    "second_moment": lambda scene: scene.logs(scene.averages["second_moment"].sqrt()),
    "size": _size,
    "loss": _loss,
    "progress": lambda scene: scene.for_all(torch.tanh(
        PROGRESS_GAIN * (scene.progress - scene.progress.new_tensor(PROGRESS_CENTRES)))),
}
# Those made from the running averages of the parameters' features.
AVERAGE_GROUPS = ("momentum", "second_moment")
WIDTHS = {"size": 2, "loss": len(HALF_LIVES) - 1, "progress": len(PROGRESS_CENTRES)}


def fresh_trend(like: Tensor, num_tensors: int) -> Tree:
    """No losses yet; one copy a tensor, so that a tensor's state is its own."""
    shape = (*like.shape[:-1], len(HALF_LIVES), num_tensors)
    return {"losses": like.new_zeros(shape), "lowest": like.new_full(shape, MOST_LOSS)}


def trend(state: Tree, loss: Tensor | None, step: Tensor) -> tuple[tuple[Tensor, Tensor], Tree]:
    """Bias-corrected averages of the loss and the lowest they have been, and the next state."""
    losses, lowest = state["losses"], state["lowest"]
    if loss is None:
        return (torch.zeros_like(losses), torch.zeros_like(lowest)), state
    decays = torch.exp2(-1 / losses.new_tensor(HALF_LIVES))[:, None]
    now = torch.nan_to_num(loss, nan=MOST_LOSS).clamp(-MOST_LOSS, MOST_LOSS)[..., None]
    losses = torch.lerp(now.expand_as(losses), losses, decays.expand_as(losses))
    averages = losses / (1 - decays ** step[..., None])
    lowest = torch.minimum(lowest, averages)
    return (averages, lowest), {"losses": losses, "lowest": lowest}
