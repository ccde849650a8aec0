"""What a per-parameter rule sees: features over shared running averages, and the linear map that consumes them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers import accumulators, line_use
from optsearch.optimizers.accumulators import Factored
from optsearch.optimizers.blocks import Block
from optsearch.optimizers.feature_groups import (
    ADAM_GROUPS,
    DECAYS,
    FACTORED_LINE_GROUPS,
    FEATURE_GROUPS,
    GROUP_SETS,
    LINE_USE,
    PARAMETER_GROUPS,
    PROGRESS_CENTRES,
    RSQRT_EPS,
    SHARED_GROUPS,
    TIME_SCALES,
    View,
)
from optsearch.optimizers.inputs import COLUMN_FEATURES, ROW_FEATURES, SHARED, Inputs, normalised
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.trees import Tree


@dataclass(frozen=True)
class Features:
    """Groups of features over shared running averages.

    `normalize` divides each feature by its root mean square over the tensor. `learn_decays` makes weights
    of the decays that groups are made from. `groups` are names of `FEATURE_GROUPS`, or one name of `GROUP_SETS`.
    `rsqrt_eps` is added to second moments before their root is divided by. With `short_rows` the rows of a matrix are
    the lines along its longer side, whichever that is, as in VeLO and Celo; of squares, the columns.
    """

    groups: tuple[str, ...] = ("small_fc",)
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_moment_decay: float = 0.999
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    normalize: bool = True
    normalize_eps: float = 1e-5
    learn_decays: bool = False
    rsqrt_eps: float = RSQRT_EPS
    short_rows: bool = False

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
                  LINE_USE: 2 * line_use.WIDTH,
                  "time": len(TIME_SCALES), "progress": len(PROGRESS_CENTRES)}
        return widths.get(name, 1)

    @property
    def num_inputs(self) -> int:
        return sum(self.width(name) for name in self.names)

    @property
    def _is_factored(self) -> bool:
        return any(name in FACTORED_LINE_GROUPS or name.startswith("factored") for name in self.names)

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
                "columns": like.new_zeros(*batch, num_factored, layout.num_columns)
                } | (line_use.init(layout, like) if LINE_USE in self.names else {})

    def observe(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Inputs, Tree]:
        """The features of this step, and the averages that it leaves behind."""
        gradient, in_place = moment.gradient, moment.in_place
        decays, squared = self.decays(weights, gradient), gradient.square()
        after = {"momentum": accumulators.averaged(state["momentum"], gradient, decays.momentum, in_place=in_place),
                 "second_moment": accumulators.averaged(state["second_moment"], squared, decays.second_moment,
                                                        in_place=in_place)}
        factored = self.factored(moment.layout, state, squared, decays)
        use = line_use.observed(moment.layout, gradient, state) if LINE_USE in self.names else {}
        inputs = Inputs(moment.layout, self.normalize_eps if self.normalize else None, self._values,
                        after | {"gradient": gradient[..., None, :], "params": moment.params[..., None, :]},
                        *self.lines(factored, use, moment.step), self._common(moment, decays),
                        turns_tall=self.short_rows)
        return inputs, after | {"rows": factored.rows, "columns": factored.columns} | use

    def decays(self, weights: Tree, like: Tensor) -> accumulators.Decays:
        """Those of this step."""
        factored_decays = self.factored_decays if self._is_factored else ()
        return accumulators.Decays(
            accumulators.decay(self.momentum_decays, weights.get("momentum_decays"), like),
            accumulators.decay((self.second_moment_decay,), weights.get("second_moment_decay"), like),
            accumulators.decay(factored_decays, weights.get("factored_decays") if factored_decays else None, like))

    def factored(self, layout: Layout, state: Tree, squared: Tensor, decays: accumulators.Decays) -> Factored:
        """The averages of lines after the squares `[..., n]` of another gradient, where some group sees them."""
        return (Factored.averaged(layout, state, squared, decays.factored) if self._is_factored
                else Factored(layout, state["rows"], state["columns"]))

    def _values(self, block: Block, part: Tree) -> list[Tensor]:
        view = View(block, part, self.rsqrt_eps)
        return [PARAMETER_GROUPS[name](view) for name in self.names if name in PARAMETER_GROUPS]

    def lines(self, factored: Factored, use: Tree, step: Tensor) -> tuple[Tree, Tree]:
        """What is known of rows and of columns, each `[..., k, lines]`."""
        rows, columns = {}, {}
        if any(name.startswith("factored") for name in self.names):
            rows["row_factors"], columns["column_factors"] = factored.factors()
        groups = [FACTORED_LINE_GROUPS[name] for name in self.names if name in FACTORED_LINE_GROUPS]
        of_rows, of_columns = [], []
        if groups:
            segments = factored.layout.segments
            copies = [segment.copies for segment in segments]
            eps = self.normalize_eps if self.normalize else None
            of_rows.append(normalised(torch.cat([group(factored.rows) for group in groups], -2),
                                      [segment.rows for segment in segments], copies, eps))
            of_columns.append(normalised(torch.cat([group(factored.columns) for group in groups], -2),
                                         [segment.columns for segment in segments], copies, eps))
        if use:
            of_rows.append(line_use.values(use["row_use"], step))
            of_columns.append(line_use.values(use["column_use"], step))
        if of_rows:
            rows[ROW_FEATURES], columns[COLUMN_FEATURES] = torch.cat(of_rows, -2), torch.cat(of_columns, -2)
        return rows, columns

    def _common(self, moment: Moment, decays: accumulators.Decays) -> Tree:
        """What is the same for all parameters."""
        common = self.shared(moment)
        if any(name in ADAM_GROUPS for name in self.names):
            common |= {"momentum_correction": 1 - decays.momentum ** moment.step[..., None],
                       "second_moment_correction": 1 - decays.second_moment ** moment.step[..., None]}
        return common

    def shared(self, moment: Moment) -> Tree:
        """The features that are the same for all parameters, where there are any."""
        shared = [SHARED_GROUPS[name](moment) for name in self.names if name in SHARED_GROUPS]
        return {SHARED: torch.cat(shared, -1)} if shared else {}
