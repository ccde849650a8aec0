"""What a controller sees: each tensor as a few numbers, and how the run goes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log

import torch
from torch import Tensor

from optsearch.optimizers.constants import constant
from optsearch.optimizers.feature_groups import PROGRESS_CENTRES, PROGRESS_GAIN
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.losses import MOST_LOSS, NUM_AVERAGES, Losses
from optsearch.optimizers.model_graph import KINDS
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

LOG_FLOOR = 1e-10
LOG_SCALE = 10.0
# Fewer losses than this say nothing about a trend.
FIRST_TREND = 3
LENGTH_FLOOR = 1e-12
# Steps over which averages of the gradient's size are taken.
TREND_LENGTHS = (3.0, 30.0, 300.0)
MAX_RANK = 4
# Numbers of each tensor.
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Scene:
    """One step as a controller sees it.

    `averages` has `momentum` `[..., k, n]` and `second_moment` `[..., s, n]` where the design keeps them;
    `settings` `[..., k, tensors]` are what the controller last set; `before` what its features remember.
    """

    moment: Moment
    averages: Tree
    settings: Tensor
    before: Tree

    def logs(self, norms: Tensor) -> Tensor:
        """Log of the root mean square by the norm of each tensor, about 1 for 1 and about 0 for 5e-5."""
        return 1 + (self.moment.layout.root_mean_squares(norms) + LOG_FLOOR).log() / LOG_SCALE

    def norms(self, vectors: Tensor) -> Tensor:
        """Of each tensor's part: `[..., k, tensors]`."""
        return self.moment.layout.norms(vectors)

    @cached_property
    def gradient_norms(self) -> Tensor:
        return self.norms(self.moment.gradient[..., None, :])

    @cached_property
    def momentum_norms(self) -> Tensor:
        return self.norms(self.averages["momentum"])

    @cached_property
    def gradient_logs(self) -> Tensor:
        return self.logs(self.gradient_norms)

    @cached_property
    def momentum_logs(self) -> Tensor:
        return self.logs(self.momentum_norms)

    @cached_property
    def gradients(self) -> Tree:
        """What is remembered of the gradient's size, with this step's."""
        before = self.before["gradients"]
        now = self.gradient_logs.expand_as(before)
        return {"gradients": torch.lerp(now, before, _gradient_decays(self.moment).expand_as(before))}

    @cached_property
    def losses(self) -> Losses:
        return Losses.after(self.moment, self.before)

    def of_tensors(self, rows: Rows) -> Tensor:
        """Numbers that never change as `[..., k, tensors]`."""
        values = constant(rows, self.moment.gradient).T
        return values.expand(*self.moment.gradient.shape[:-1], *values.shape)


@lru_cache(maxsize=256)
def _sizes(layout: Layout) -> Rows:
    """Log of the number of parameters, and whether the tensor is a matrix."""
    return tuple((log(max(1, segment.size)) / LOG_SCALE, float(segment.is_matrix))
                 for segment in layout.segments for _ in range(segment.copies))


@lru_cache(maxsize=256)
def _ranks(layout: Layout) -> Rows:
    return tuple(_one_hot(min(len(shape), MAX_RANK), MAX_RANK + 1) for _, shape in layout.shapes)


def _one_hot(index: int, length: int) -> tuple[float, ...]:
    return tuple(float(place == index) for place in range(length))


def _kind(scene: Scene) -> Tensor:
    model = scene.moment.model
    return scene.of_tensors(tuple(_one_hot(KINDS.index(model.kind(name)), len(KINDS))
                                  for name, _ in scene.moment.layout.shapes))


def _depth(scene: Scene) -> Tensor:
    model = scene.moment.model
    return scene.of_tensors(tuple((model.depth(name),) for name, _ in scene.moment.layout.shapes))


def _loss(scene: Scene) -> Tensor:
    """Averages against the next slower ones, from their lowest, as in VeLO and Celo (arxiv.org/abs/2211.09760)."""
    averages, lowest = scene.losses.averages, scene.losses.lowest[..., :-1, :]
    faster, slower = averages[..., :-1, :] - lowest, averages[..., 1:, :] - lowest
    trend = (faster / slower.clamp(min=1e-8) - 1).clamp(-1, 1)
    is_known = scene.moment.loss is not None
    return torch.where(scene.moment.step[..., None] >= FIRST_TREND, trend * is_known, torch.zeros_like(trend))


def _gradient_decays(moment: Moment) -> Tensor:
    return torch.exp(-1 / constant(TREND_LENGTHS, moment.step))[:, None]


def _gradient_trend(scene: Scene) -> Tensor:
    """How much larger the gradient is than it has been, over several lengths of time."""
    weights = 1 - _gradient_decays(scene.moment) ** scene.moment.step[..., None]
    return scene.gradient_logs - scene.gradients["gradients"] / weights


def _log_loss(scene: Scene) -> Tensor:
    loss = torch.ones_like(scene.moment.step) if scene.moment.loss is None else scene.moment.loss
    return scene.moment.for_all(torch.nan_to_num(loss).clamp(1e-6, MOST_LOSS).log() / log(10))


def _momentum_ratio(scene: Scene) -> Tensor:
    """How far gradients agree over time: 0 where they all point the same way, below it where they are noise."""
    return scene.momentum_logs - scene.gradient_logs


def _agreement(scene: Scene) -> Tensor:
    """Cosine of the gradient with each momentum: above 0 where steps could be longer, below 0 where they overshoot."""
    one, other = (norms.clamp(min=LENGTH_FLOOR) for norms in (scene.gradient_norms, scene.momentum_norms))
    return scene.moment.layout.dots(scene.moment.gradient[..., None, :], scene.averages["momentum"]) / (one * other)


# Numbers a tensor: `[..., width, tensors]`.
TENSOR_GROUPS: dict[str, Callable[[Scene], Tensor]] = {
    "gradient": lambda scene: scene.gradient_logs,
    "parameter": lambda scene: scene.logs(scene.norms(scene.moment.params[..., None, :])),
    "momentum": lambda scene: scene.momentum_logs,
    "second_moment": lambda scene: scene.logs(scene.norms(scene.averages["second_moment"].sqrt())),
    "momentum_ratio": _momentum_ratio,
    "agreement": _agreement,
    "gradient_trend": _gradient_trend,
    "size": lambda scene: scene.of_tensors(_sizes(scene.moment.layout)),
    "rank": lambda scene: scene.of_tensors(_ranks(scene.moment.layout)),
    "kind": _kind,
    "depth": _depth,
    "loss": _loss,
    "log_loss": _log_loss,
    "progress": lambda scene: scene.moment.for_all(torch.tanh(
        PROGRESS_GAIN * (scene.moment.progress - constant(PROGRESS_CENTRES, scene.moment.progress)))),
    "settings": lambda scene: scene.settings,
}
WIDTHS = {"gradient_trend": len(TREND_LENGTHS), "size": 2, "rank": MAX_RANK + 1, "kind": len(KINDS),
          "loss": NUM_AVERAGES - 1, "progress": len(PROGRESS_CENTRES)}
# Those as wide as what the design keeps; where it keeps none of them, they are left out.
KEPT = {"momentum": "momentum", "momentum_ratio": "momentum", "agreement": "momentum", "second_moment": "second_moment",
        "settings": "settings"}
READ_GRAPH = frozenset({"kind", "depth"})
DEFAULT_GROUPS = ("gradient", "parameter", "momentum", "second_moment", "size", "loss", "progress")


@dataclass(frozen=True)
class TensorFeatures:
    """Groups of numbers that a controller sees of each tensor and of the run; `groups` are names of `TENSOR_GROUPS`.

    Groups made from averages that the design doesn't keep are left out: of momenta under a base without any, say.
    """

    groups: tuple[str, ...] = DEFAULT_GROUPS

    def __post_init__(self) -> None:
        for name in self.groups:
            require("tensors", name in TENSOR_GROUPS,
                    f"there is no group `{name}`. Groups: {', '.join(sorted(TENSOR_GROUPS))}.")
        require("tensors", any(name not in KEPT for name in self.groups),
                f"at least one group must always be there: one of {', '.join(sorted(set(TENSOR_GROUPS) - set(KEPT)))}.")

    def width(self, name: str, kept: dict[str, int]) -> int:
        """The number of inputs of one group, by the widths of what the design keeps."""
        return kept.get(KEPT[name], 0) if name in KEPT else WIDTHS.get(name, 1)

    def num_inputs(self, kept: dict[str, int]) -> int:
        return sum(self.width(name, kept) for name in self.groups)

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        """No losses and no gradients yet; one copy a tensor, so that a tensor's state is its own."""
        batch, state = like.shape[:-1], {}
        if "loss" in self.groups:
            state = {"losses": like.new_zeros(*batch, NUM_AVERAGES, num_tensors),
                     "lowest": like.new_full((*batch, NUM_AVERAGES, num_tensors), MOST_LOSS)}
        if "gradient_trend" in self.groups:
            state["gradients"] = like.new_zeros(*batch, len(TREND_LENGTHS), num_tensors)
        return state

    def observe(self, scene: Scene, kept: dict[str, int]) -> tuple[Tensor, Tree]:
        """The numbers `[..., f, tensors]`, and what to remember; `scene.before` is what was remembered."""
        trends = scene.losses.tree if "loss" in self.groups else {}
        if "gradient_trend" in self.groups:
            trends |= scene.gradients
        names = [name for name in self.groups if self.width(name, kept)]
        return torch.cat([TENSOR_GROUPS[name](scene) for name in names], -2), trends
