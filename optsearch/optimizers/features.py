"""What a per-parameter rule sees: groups of features and the linear map that consumes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from optsearch.optimizers import accumulators
from optsearch.optimizers.accumulators import Factored
from optsearch.optimizers.inputs import COLUMN_FEATURES, ROW_FEATURES, SHARED, Inputs, normalised
from optsearch.optimizers.layout import Block, Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
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
        return (self.second_moment + RSQRT_EPS).rsqrt()

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
LINE_GROUPS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows_and_columns": lambda lines: lines,
    "rsqrt_rows_and_columns": lambda lines: (lines + RSQRT_EPS).rsqrt(),
}
# The same for all parameters: `[..., width]`, never normalised.
SHARED_GROUPS: dict[str, Callable[[Moment], Tensor]] = {
    "time": lambda moment: torch.tanh(moment.step / moment.step.new_tensor(TIME_SCALES) - 1),
    "progress": lambda moment: torch.tanh(
        PROGRESS_GAIN * (moment.progress - moment.progress.new_tensor(PROGRESS_CENTRES))),
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


@dataclass(frozen=True)
class Features:
    """Groups of features over shared running averages.

    `normalize` divides each feature by its root mean square over the tensor. `learn_decays` makes weights
    of the decays that groups are made from. `groups` are names of `FEATURE_GROUPS`, or one name of `GROUP_SETS`.
    """

    groups: tuple[str, ...] = ("small_fc",)
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_moment_decay: float = 0.999
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    normalize: bool = True
    normalize_eps: float = 1e-5
    learn_decays: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            require("features", name in FEATURE_GROUPS,
                    f"there is no group `{name}`. Groups: {', '.join(sorted(FEATURE_GROUPS))}; "
                    f"sets of groups: {', '.join(sorted(GROUP_SETS))}.")
        require("features", any(name in PARAMETER_GROUPS for name in self.names),
                f"at least one group must differ between parameters: one of {', '.join(sorted(PARAMETER_GROUPS))}.")
        decays = (*self.momentum_decays, self.second_moment_decay, *self.factored_decays)
        require("features", all(0 <= decay < 1 for decay in decays), f"decays must be in [0, 1), not {decays}.")
        require("features", "factored_momentum" not in self.names
                or len(self.momentum_decays) == len(self.factored_decays),
                "`factored_momentum` needs as many momentum decays as factored decays.")

    @property
    def names(self) -> tuple[str, ...]:
        """The groups in the order in which the weights see them: per parameter, lines, shared."""
        chosen = [name for group in self.groups for name in GROUP_SETS.get(group, (group,))]
        known = [name for name in FEATURE_GROUPS if name in chosen]
        return (*known, *(name for name in chosen if name not in FEATURE_GROUPS))

    def width(self, name: str) -> int:
        """The number of inputs that one group gives."""
        num_factored = len(self.factored_decays)
        widths = {"momentum": len(self.momentum_decays), "normalised_momentum": len(self.momentum_decays),
                  "corrected_momentum": len(self.momentum_decays), "factored_momentum": len(self.momentum_decays),
                  "factored_gradient": num_factored, "rows_and_columns": 2 * num_factored,
                  "rsqrt_rows_and_columns": 2 * num_factored, "log_sign": 2,
                  "time": len(TIME_SCALES), "progress": len(PROGRESS_CENTRES)}
        return widths.get(name, 1)

    @property
    def num_inputs(self) -> int:
        return sum(self.width(name) for name in self.names)

    @property
    def _is_factored(self) -> bool:
        return any(name in LINE_GROUPS or name.startswith("factored") for name in self.names)

    def init_weights(self) -> Tree:
        if not self.learn_decays:
            return {}
        lengths = {"momentum_decays": len(self.momentum_decays), "second_moment_decay": 1,
                   "factored_decays": len(self.factored_decays)}
        read = {decay for name in self.names for decay in DECAYS.get(name, ())}
        return {name: torch.zeros(length) for name, length in lengths.items() if name in read}

    def init(self, layout: Layout, like: Tensor) -> Tree:
        """Zero averages; leading dimensions as those of `like` `[*batch, n]`."""
        batch, num_factored = like.shape[:-1], len(self.factored_decays) if self._is_factored else 0
        return {"momentum": like.new_zeros(*batch, len(self.momentum_decays), layout.num_parameters),
                "second_moment": like.new_zeros(*batch, 1, layout.num_parameters),
                "rows": like.new_zeros(*batch, num_factored, layout.num_rows),
                "columns": like.new_zeros(*batch, num_factored, layout.num_columns)}

    def observe(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Inputs, Tree]:
        """The features of this step, and the averages that it leaves behind."""
        gradient = moment.gradient
        factored_decays = self.factored_decays if self._is_factored else ()
        decays = accumulators.Decays(
            accumulators.decay(self.momentum_decays, weights.get("momentum_decays"), gradient),
            accumulators.decay((self.second_moment_decay,), weights.get("second_moment_decay"), gradient),
            accumulators.decay(factored_decays, weights.get("factored_decays") if factored_decays else None, gradient))
        squared, in_place = gradient.square(), moment.in_place
        after = {"momentum": accumulators.averaged(state["momentum"], gradient, decays.momentum, in_place=in_place),
                 "second_moment": accumulators.averaged(state["second_moment"], squared, decays.second_moment,
                                                        in_place=in_place)}
        factored = (Factored.averaged(moment.layout, state, squared, decays.factored) if self._is_factored
                    else Factored(moment.layout, state["rows"], state["columns"]))
        inputs = Inputs(moment.layout, self.normalize_eps if self.normalize else None, self._values,
                        after | {"gradient": gradient[..., None, :], "params": moment.params[..., None, :]},
                        *self._lines(factored), self._common(moment, decays))
        return inputs, after | {"rows": factored.rows, "columns": factored.columns}

    def _values(self, block: Block, part: Tree) -> list[Tensor]:
        view = View(block, part)
        return [PARAMETER_GROUPS[name](view) for name in self.names if name in PARAMETER_GROUPS]

    def _lines(self, factored: Factored) -> tuple[Tree, Tree]:
        """What is known of rows and of columns, each `[..., k, lines]`."""
        rows, columns = {}, {}
        if any(name.startswith("factored") for name in self.names):
            rows["row_factors"], columns["column_factors"] = factored.factors()
        groups = [LINE_GROUPS[name] for name in self.names if name in LINE_GROUPS]
        if groups:
            segments = factored.layout.segments
            copies = [segment.copies for segment in segments]
            eps = self.normalize_eps if self.normalize else None
            rows[ROW_FEATURES] = normalised(torch.cat([group(factored.rows) for group in groups], -2),
                                            [segment.rows for segment in segments], copies, eps)
            columns[COLUMN_FEATURES] = normalised(torch.cat([group(factored.columns) for group in groups], -2),
                                                  [segment.columns for segment in segments], copies, eps)
        return rows, columns

    def _common(self, moment: Moment, decays: accumulators.Decays) -> Tree:
        """What is the same for all parameters."""
        common = {}
        if any(name in ADAM_GROUPS for name in self.names):
            common = {"momentum_correction": 1 - decays.momentum ** moment.step[..., None],
                      "second_moment_correction": 1 - decays.second_moment ** moment.step[..., None]}
        shared = [SHARED_GROUPS[name](moment) for name in self.names if name in SHARED_GROUPS]
        return common | ({SHARED: torch.cat(shared, -1)} if shared else {})
