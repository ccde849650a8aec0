"""Groups of features that a per-parameter rule can see."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from optsearch.optimizers import accumulators
from optsearch.optimizers.blocks import Block
from optsearch.optimizers.constants import constant
from optsearch.optimizers.moment import Moment
from optsearch.trees import Tree

RSQRT_EPS = 1e-8
CLIP = 0.1
LOG_SCALE = 5.0
ADAM_EPS = 1e-8
TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
PROGRESS_CENTRES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
PROGRESS_GAIN = 10.0


@dataclass(frozen=True)
class View:
    """What the feature functions read of one block: parts of the moment and of its running averages."""

    block: Block
    part: Tree
    rsqrt_eps: float = RSQRT_EPS

    @property
    def gradient(self) -> Tensor:
        return self.part["gradient"]

    @property
    def params(self) -> Tensor:
        return self.part["params"]

    @property
    def momentum(self) -> Tensor:
        return self.part["momentum"]

    @property
    def second_moment(self) -> Tensor:
        return self.part["second_moment"]

    @cached_property
    def factors(self) -> Tensor:
        return accumulators.of_block(self.block, self.part["row_factors"], self.part["column_factors"])

    @cached_property
    def rsqrt(self) -> Tensor:
        return (self.second_moment + self.rsqrt_eps).rsqrt()

    def corrected_root(self) -> Tensor:
        """Adam's √v̂ + ε."""
        return ((self.second_moment / self.part["second_moment_correction"]).clamp(min=accumulators.ROOT_FLOOR).sqrt()
                + ADAM_EPS)


def _log_sign(view: View) -> Tensor:
    """Magnitude and sign of the gradient apart (Andrychowicz et al. 2016, arxiv.org/abs/1606.04474)."""
    gradient = view.gradient
    log = (gradient.abs() + 1e-8).log() / LOG_SCALE
    sign = gradient * torch.e**LOG_SCALE
    return torch.cat([log.clamp(min=-1), torch.where(log >= -1, gradient.sign(), sign.clamp(-1, 1))], dim=-2)


def _corrected_momentum(view: View) -> Tensor:
    return view.momentum / view.part["momentum_correction"] / view.corrected_root()


# One value a parameter: `[..., width, n]`.
PARAMETER_GROUPS: dict[str, Callable[[View], Tensor]] = {
    "gradient": lambda view: view.gradient,
    "clipped_gradient": lambda view: view.gradient.clamp(-CLIP, CLIP),
    "parameter": lambda view: view.params,
    "momentum": lambda view: view.momentum,
    "second_moment": lambda view: view.second_moment,
    "normalised_momentum": lambda view: view.momentum * view.rsqrt,
    "normalised_gradient": lambda view: view.gradient * view.rsqrt,
    "rsqrt_second_moment": lambda view: view.rsqrt,
    "factored_gradient": lambda view: view.factors * view.gradient,
    "factored_momentum": lambda view: view.factors * view.momentum,
    "log_sign": _log_sign,
    "corrected_momentum": _corrected_momentum,
    "corrected_gradient": lambda view: view.gradient / view.corrected_root(),
}
# One value a row and one a column of each matrix, `[..., k, num_rows]` and `[..., k, num_columns]`.
FACTORED_LINE_GROUPS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows_and_columns": lambda lines: lines,
    "rsqrt_rows_and_columns": lambda lines: (lines + RSQRT_EPS).rsqrt(),
}
# Of lines too, and never normalised.
LINE_USE = "line_use"
LINE_GROUPS = (*FACTORED_LINE_GROUPS, LINE_USE)
# The same for all parameters: `[..., width]`, never normalised.
SHARED_GROUPS: dict[str, Callable[[Moment], Tensor]] = {
    "time": lambda moment: torch.tanh(moment.step / constant(TIME_SCALES, moment.step) - 1),
    "progress": lambda moment: torch.tanh(
        PROGRESS_GAIN * (moment.progress - constant(PROGRESS_CENTRES, moment.progress))),
}
# The decays whose averages a group is made from; a group that isn't here is made from what is seen at this step alone.
DECAYS: dict[str, tuple[str, ...]] = {
    "momentum": ("momentum_decays",),
    "second_moment": ("second_moment_decay",),
    "normalised_momentum": ("momentum_decays", "second_moment_decay"),
    "normalised_gradient": ("second_moment_decay",),
    "rsqrt_second_moment": ("second_moment_decay",),
    "factored_gradient": ("factored_decays",),
    "factored_momentum": ("momentum_decays", "factored_decays"),
    "corrected_momentum": ("momentum_decays", "second_moment_decay"),
    "corrected_gradient": ("second_moment_decay",),
    "rows_and_columns": ("factored_decays",),
    "rsqrt_rows_and_columns": ("factored_decays",),
}
# Those that divide by the root of a second moment and an epsilon.
ROOTED_GROUPS = ("normalised_momentum", "normalised_gradient", "rsqrt_second_moment")
# Those that need Adam's bias correction.
ADAM_GROUPS = ("corrected_momentum", "corrected_gradient")
FEATURE_GROUPS = (*PARAMETER_GROUPS, *LINE_GROUPS, *SHARED_GROUPS)

_SMALL_FC = ("gradient", "parameter", "momentum", "second_moment", "normalised_momentum", "rsqrt_second_moment",
             "factored_gradient", "rows_and_columns", "rsqrt_rows_and_columns", "factored_momentum")
GROUP_SETS: dict[str, tuple[str, ...]] = {
    "small_fc": (*_SMALL_FC, "time"),
    "celo2": ("clipped_gradient", "normalised_gradient", *_SMALL_FC),
    "compact": ("gradient", "parameter", "momentum", "normalised_momentum", "normalised_gradient", "progress"),
    "lean": ("momentum", "normalised_momentum", "normalised_gradient"),
    "log_sign": ("log_sign",),
    "adam": ("corrected_momentum", "corrected_gradient"),
}
