"""What a controller sees: each tensor as a few numbers, and how the run goes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import log

import torch
from torch import Tensor

from optsearch.optimizers.constants import constant
from optsearch.optimizers.feature_groups import PROGRESS_CENTRES, PROGRESS_GAIN
from optsearch.optimizers.model_graph import KINDS
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree

LOG_FLOOR = 1e-10
LOG_SCALE = 10.0
# Averages of the loss go from this half-life to the length of the run, or to that of a run of unknown length.
SHORTEST, NUM_AVERAGES, UNKNOWN_LENGTH = 10.0, 10, 1000.0
# Fewer losses than this say nothing about a trend.
FIRST_TREND = 3
MOST_LOSS = 1e6
LENGTH_FLOOR = 1e-12
# Steps over which averages of the gradient's size are taken.
TREND_LENGTHS = (3.0, 30.0, 300.0)
MAX_RANK = 4


@dataclass(frozen=True)
class Scene:
    """One step as a controller sees it.

    `averages` has `momentum` `[..., k, n]` and `second_moment` `[..., s, n]` where the design keeps them;
    `settings` `[..., k, tensors]` are what the controller last set; `trends` what its features remember.
    """

    moment: Moment
    averages: Tree
    settings: Tensor
    trends: Tree

    def logs(self, vectors: Tensor) -> Tensor:
        """Log of the root mean square over each tensor, about 1 for 1 and about 0 for 5e-5: `[..., k, tensors]`."""
        return 1 + (self.moment.layout.root_mean_squares(vectors) + LOG_FLOOR).log() / LOG_SCALE

    @cached_property
    def gradient_logs(self) -> Tensor:
        return self.logs(self.moment.gradient[..., None, :])

    @cached_property
    def momentum_logs(self) -> Tensor:
        return self.logs(self.averages["momentum"])

    def of_tensors(self, rows: list[list[float]]) -> Tensor:
        """Numbers that never change, a list a tensor, as `[..., k, tensors]`."""
        values = constant(tuple(map(tuple, rows)), self.moment.gradient).T
        return values.expand(*self.moment.gradient.shape[:-1], *values.shape)


def _shapes(scene: Scene) -> list[tuple[int, ...]]:
    return [shape for _, shape in scene.moment.layout.shapes]


def _size(scene: Scene) -> Tensor:
    """Log of the number of parameters, and whether the tensor is a matrix."""
    layout = scene.moment.layout
    return scene.of_tensors([[log(max(1, segment.size)) / LOG_SCALE, float(segment.is_matrix)]
                             for segment in layout.segments for _ in range(segment.copies)])


def _one_hot(index: int, length: int) -> list[float]:
    return [float(place == index) for place in range(length)]


def _kind(scene: Scene) -> Tensor:
    model = scene.moment.model
    return scene.of_tensors([_one_hot(KINDS.index(model.kind(name)), len(KINDS))
                             for name, _ in scene.moment.layout.shapes])


def _depth(scene: Scene) -> Tensor:
    model = scene.moment.model
    return scene.of_tensors([[model.depth(name)] for name, _ in scene.moment.layout.shapes])


def run_length(moment: Moment) -> Tensor:
    """Steps that the run has, `[..., 1]`; `UNKNOWN_LENGTH` where nobody knows."""
    return torch.full_like(moment.step, UNKNOWN_LENGTH) if moment.num_steps is None else moment.num_steps


def _loss_decays(scene: Scene) -> Tensor:
    """`[..., averages, 1]`, spaced evenly on a log scale."""
    places = torch.linspace(0, 1, NUM_AVERAGES, device=scene.moment.step.device)
    length = run_length(scene.moment).clamp(min=SHORTEST)
    return torch.exp(-1 / (SHORTEST * (length / SHORTEST) ** places))[..., None]


def _corrected(sums: Tensor, decays: Tensor, step: Tensor) -> Tensor:
    return sums / (1 - decays ** step[..., None])


def _averaged_losses(scene: Scene) -> Tree:
    """What remains of the losses after this step's, and the lowest that each average has been."""
    if scene.moment.loss is None:
        return {name: scene.trends[name] for name in ("losses", "lowest")}
    decays, step = _loss_decays(scene), scene.moment.step
    loss = torch.nan_to_num(scene.moment.loss, nan=MOST_LOSS).clamp(-MOST_LOSS, MOST_LOSS)[..., None]
    # So that one wild batch doesn't hide all that comes after it. Corrected by one step too many, as VeLO and Celo do:
    # at first, losses may hardly rise.
    before = _corrected(scene.trends["losses"], decays, step)
    loss = torch.where(step[..., None] > 1, torch.minimum(loss, 2 * before.amax(-2, keepdim=True).abs()), loss)
    losses = torch.lerp(loss.expand_as(before), scene.trends["losses"], decays.expand_as(before))
    return {"losses": losses, "lowest": torch.minimum(scene.trends["lowest"], _corrected(losses, decays, step))}


def _loss(scene: Scene) -> Tensor:
    """Averages against the next slower ones, from their lowest, as in VeLO and Celo (arxiv.org/abs/2211.09760)."""
    averages = _corrected(scene.trends["losses"], _loss_decays(scene), scene.moment.step)
    lowest = scene.trends["lowest"][..., :-1, :]
    faster, slower = averages[..., :-1, :] - lowest, averages[..., 1:, :] - lowest
    trend = (faster / slower.clamp(min=1e-8) - 1).clamp(-1, 1)
    is_known = scene.moment.loss is not None
    return torch.where(scene.moment.step[..., None] >= FIRST_TREND, trend * is_known, torch.zeros_like(trend))


def _gradient_decays(scene: Scene) -> Tensor:
    return torch.exp(-1 / constant(TREND_LENGTHS, scene.moment.step))[:, None]


def _averaged_gradients(scene: Scene) -> Tree:
    before = scene.trends["gradients"]
    now = scene.gradient_logs.expand_as(before)
    return {"gradients": torch.lerp(now, before, _gradient_decays(scene).expand_as(before))}


def _gradient_trend(scene: Scene) -> Tensor:
    """How much larger the gradient is than it has been, over several lengths of time."""
    return scene.gradient_logs - _corrected(scene.trends["gradients"], _gradient_decays(scene), scene.moment.step)


def _log_loss(scene: Scene) -> Tensor:
    loss = torch.ones_like(scene.moment.step) if scene.moment.loss is None else scene.moment.loss
    return scene.moment.for_all(torch.nan_to_num(loss).clamp(1e-6, MOST_LOSS).log() / log(10))


def _momentum_ratio(scene: Scene) -> Tensor:
    """How far gradients agree over time: 0 where they all point the same way, below it where they are noise."""
    return scene.momentum_logs - scene.gradient_logs


def _agreement(scene: Scene) -> Tensor:
    """Cosine of the gradient with each momentum: above 0 where steps could be longer, below 0 where they overshoot."""
    layout, momentum = scene.moment.layout, scene.averages["momentum"]
    gradient = scene.moment.gradient[..., None, :].expand_as(momentum)
    one, other = (layout.dots(each, each).clamp(min=LENGTH_FLOOR**2).sqrt() for each in (gradient, momentum))
    return layout.dots(gradient, momentum) / (one * other)


# Numbers a tensor: `[..., width, tensors]`.
TENSOR_GROUPS: dict[str, Callable[[Scene], Tensor]] = {
    "gradient": lambda scene: scene.gradient_logs,
    "parameter": lambda scene: scene.logs(scene.moment.params[..., None, :]),
    "momentum": lambda scene: scene.momentum_logs,
    "second_moment": lambda scene: scene.logs(scene.averages["second_moment"].sqrt()),
    "momentum_ratio": _momentum_ratio,
    "agreement": _agreement,
    "gradient_trend": _gradient_trend,
    "size": _size,
    "rank": lambda scene: scene.of_tensors([_one_hot(min(len(shape), MAX_RANK), MAX_RANK + 1)
                                            for shape in _shapes(scene)]),
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
        """The numbers `[..., f, tensors]`, and what to remember; `scene.trends` is what was remembered."""
        trends = _averaged_losses(scene) if "loss" in self.groups else {}
        if "gradient_trend" in self.groups:
            trends |= _averaged_gradients(scene)
        scene = replace(scene, trends=trends)
        names = [name for name in self.groups if self.width(name, kept)]
        return torch.cat([TENSOR_GROUPS[name](scene) for name in names], -2), trends
