"""A learned step in a few kernels: each parameter's state is read twice, and its features exist only in registers."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from optsearch.compiling import Kernels
from optsearch.export.tiles import LANES, MOST, Tiles
from optsearch.optimizers.feature_groups import FACTORED_LINE_GROUPS, PARAMETER_GROUPS, SHARED_GROUPS
from optsearch.optimizers.heads import ExpMagnitude, OutputRMS, ParameterRMS, Raw
from optsearch.optimizers.inputs import COLUMN_FEATURES, ROW_FEATURES, SHARED
from optsearch.optimizers.kinds import PARTS
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment, Observation
from optsearch.optimizers.optimizer import GATE, LEARNED, LearnedOptimizer
from optsearch.optimizers.rules import MLP, Rule
from optsearch.trees import Tree, within

# Wider networks would not fit into registers.
MOST_UNITS, MOST_FEATURES = 64, 64
# Products of matrices have at least so many rows and columns.
LEAST_SIZE = 16
UNSUPPORTED_GROUPS = {"log_sign", "corrected_momentum", "corrected_gradient"}
SUPPORTED_GROUPS = ({*PARAMETER_GROUPS} - UNSUPPORTED_GROUPS) | {*FACTORED_LINE_GROUPS} | {*SHARED_GROUPS}
# What the compiler is told; products and sums that become one are said here for versions that ask.
OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


def fits(design: LearnedOptimizer) -> bool:
    """Whether there are kernels for a design: an MLP over features that they know, which nobody else talks to."""
    features, rule, head = design.features, design.rule, design.head
    return (isinstance(rule, MLP) and rule.hidden_size <= MOST_UNITS and design.context_size == 0
            and (design.has_controller or not design.mixing.has_gate)
            and (isinstance(head, (ExpMagnitude, ParameterRMS, OutputRMS)) or head == Raw())
            and not features.short_rows and set(features.names) <= SUPPORTED_GROUPS
            and _num_own(design) <= MOST_FEATURES)


def _num_own(design: LearnedOptimizer) -> int:
    """Features that differ between parameters."""
    return sum(design.features.width(name) for name in design.features.names if name in PARAMETER_GROUPS)


def _padded(size: int) -> int:
    """The next power of two that a product of matrices can have."""
    return max(LEAST_SIZE, 1 << max(0, size - 1).bit_length())


@lru_cache(maxsize=16)
def _whole(layout: Layout) -> Layout:
    """All neighbours of one shape as one segment: sums over rows and columns are then few calls."""
    return Layout(layout.shapes, max(1, layout.num_parameters))


@dataclass(frozen=True)
class Seen:
    """What the second kernel reads beside weights.

    `sources` are gradient, params, momenta and second moment; `factors` those of rows and of columns, `strides` how far
    each is from the next. `scales` are `[tensors, features]`; features of lines and shared ones as `Features` has them.
    """

    tiles: Tiles
    sources: tuple[Tensor, ...]
    factors: tuple[Tensor, Tensor]
    strides: tuple[int, int, int]
    scales: Tensor
    of_rows: Tensor | None
    of_columns: Tensor | None
    shared: Tensor | None


@dataclass(frozen=True)
class FusedOptimizer(LearnedOptimizer):
    """A design for which there are kernels, with the same weights, state and steps, for one training on a GPU.

    `precision` is that of the products of matrices: "tf32", or "ieee" for all of float32.
    """

    precision: str = "tf32"

    @staticmethod
    def of(design: LearnedOptimizer, precision: str = "tf32") -> "FusedOptimizer":
        """The design made of the same parts."""
        return FusedOptimizer(**{slot: getattr(design, slot) for slot in PARTS}, precision=precision)

    @cached_property
    def _choice(self) -> dict[str, Any]:
        """What both kernels are made for."""
        from optsearch.export import triton_kernels

        names = self.features.names
        is_factored = any(name.startswith("factored") for name in names)
        return {"NUM_MOMENTA": len(self.features.momentum_decays),
                "NUM_FACTORED": len(self.features.factored_decays) if is_factored else 0,
                "CHOSEN": sum(1 << bit for bit, name in enumerate(triton_kernels.GROUPS) if name in names),
                "WIDTH": _padded(_num_own(self)), "LANES": LANES, "MOST": MOST} | OPTIONS

    def _moment(self, observation: Observation, state: Tree, in_place: bool) -> Moment:
        moment = super()._moment(observation, state, in_place)
        return replace(moment, layout=_whole(moment.layout))

    def _observe(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Any, Tree]:
        if not self.has_rule:
            return None, {}
        features, state = self.features, within("features", state)
        decays = features.decays(within("features", weights), moment.gradient)
        factored = features.factored(moment.layout, state, moment.gradient.square(), decays)
        rows, columns = features.lines(factored, {}, moment.step)
        moved = {name: state[name] if moment.in_place else state[name].clone()
                 for name in ("momentum", "second_moment")}
        seen = Seen(Tiles.of(moment.layout, moment.gradient.device),
                    (moment.gradient, moment.params, moved["momentum"], moved["second_moment"]),
                    *self._factors(rows, columns, moment), self._unscaled(moment), rows.get(ROW_FEATURES),
                    columns.get(COLUMN_FEATURES), features.shared(moment).get(SHARED))
        self._average(seen, torch.cat([decays.momentum, decays.second_moment]))
        return seen, moved | {"rows": factored.rows, "columns": factored.columns}

    def _factors(self, rows: Tree, columns: Tree, moment: Moment) -> tuple[tuple[Tensor, Tensor], tuple[int, int, int]]:
        """Those of rows and of columns, and 1 for the column that all vectors are."""
        of_rows, of_columns = (tree.get(name, moment.gradient.new_zeros(0, 0)) for tree, name in (
            (rows, "row_factors"), (columns, "column_factors")))
        of_columns = pad(of_columns, (0, 1), value=1.0)
        return (of_rows.contiguous(), of_columns), (of_rows.shape[-1], of_columns.shape[-1], moment.gradient.shape[-1])

    def _unscaled(self, moment: Moment) -> Tensor:
        return moment.gradient.new_ones(moment.layout.num_tensors, self._choice["WIDTH"])

    def _average(self, seen: Seen, decays: Tensor) -> None:
        """Move the averages and fill the scales."""
        from optsearch.export import triton_kernels

        tiles, width, normalizes = seen.tiles, self._choice["WIDTH"], self.features.normalize
        squares = seen.scales.new_empty(tiles.count, width)
        with torch.cuda.device_of(squares):
            for part, is_wide, sums in tiles.parts(squares):
                triton_kernels.average[(len(part),)](
                    (part, tiles.tensors), seen.sources, seen.factors, seen.strides, decays, sums,
                    self.features.rsqrt_eps, WIDE=is_wide, SCALES=normalizes, **self._choice)
            if normalizes:
                triton_kernels.scale[(len(tiles.tensors),)](
                    squares, tiles.ends, tiles.sizes, seen.scales, self.features.normalize_eps, WIDTH=width, TILES=64,
                    **OPTIONS)

    def _apply_rule(self, rule: Rule, weights: Tree, inputs: Any, state: Tree, kernels: Kernels | None) -> Tree:
        from optsearch.export import triton_kernels

        assert isinstance(rule, MLP)
        values = torch.empty_like(inputs.sources[0])
        layers, projections = self._layers(rule, weights, inputs)
        network = {"HIDDEN": _padded(rule.hidden_size), "NUM_LAYERS": rule.num_layers, "ACTIVATION": rule.activation,
                   "HAS_LINES": inputs.of_rows is not None, "HAS_MAGNITUDE": self.head.num_outputs == 2,
                   "PRECISION": self.precision}
        with torch.cuda.device_of(values):
            for part, is_wide, _ in inputs.tiles.parts(values):
                triton_kernels.step[(len(part),)](
                    (part, inputs.tiles.tensors), inputs.sources, inputs.factors, inputs.strides, layers, projections,
                    values, (self.features.rsqrt_eps, getattr(self.head, "exp_scale", 0.0)), WIDE=is_wide, **network,
                    **self._choice)
        return {LEARNED: values, GATE: values.new_empty(0, values.shape[-1])}

    def _layers(self, rule: MLP, weights: Tree, seen: Seen) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        """The weights as `triton_kernels.step` reads them, and what the features of rows and of columns give."""
        more = _padded(rule.hidden_size) - rule.hidden_size
        shared = 0 if seen.shared is None else seen.shared.shape[-1]
        lines = 0 if seen.of_rows is None else seen.of_rows.shape[-2]
        first = pad(weights["hidden0.weight"], (0, 0, 0, more))
        own, of_rows, of_columns, of_shared = first.split([_num_own(self), lines, lines, shared], dim=-1)
        biases = [pad(weights[f"hidden{index}.bias"], (0, more)) for index in range(rule.num_layers)]
        if seen.shared is not None:
            biases[0] = biases[0] + of_shared @ seen.shared
        own = pad(own.T, (0, 0, 0, self._choice["WIDTH"] - own.shape[-1]))
        scaled = (seen.scales[:, :, None] * own).contiguous()
        others = [pad(weights[f"hidden{index}.weight"], (0, more, 0, more)).T for index in range(1, rule.num_layers)]
        readout = pad(weights["output.weight"], (0, more))
        layers = (scaled, torch.stack(others) if others else scaled, torch.stack(biases), readout.contiguous(),
                  weights["output.bias"])
        if seen.of_rows is None or seen.of_columns is None:
            return layers, (scaled, scaled)
        # A vector's full averages stand for both its row and its column, which is after those of all matrices.
        rows = of_rows @ seen.of_rows + (of_columns @ seen.of_rows) * seen.tiles.is_vector_row
        columns = of_columns @ seen.of_columns
        return layers, (rows.T.contiguous(), pad(columns, (0, 1)).T.contiguous())
