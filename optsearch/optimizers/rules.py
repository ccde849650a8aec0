"""Per-parameter rules: the small networks that turn features into a step, shared by all parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from optsearch.optimizers.part import require
from optsearch.optimizers.products import affine, stacked
from optsearch.trees import Tree

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu, "tanh": torch.tanh_}


class Projected(Protocol):
    """Features that are only ever seen through a linear map."""

    def project(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """`weight @ features + bias`: `[..., outputs, n]`, or each output by itself."""

    def through(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor | None:
        """The features through layers with ReLU between them, `[..., outputs, n]`; None where there is no kernel."""


class Rule(Protocol):
    """A network over features whose `num_outputs` the head and the mixing read; it has a field `num_layers`."""

    @property
    def width(self) -> int:
        """Outputs of the first map over the features."""

    def init_weights(self, generator: torch.Generator, num_inputs: int, num_outputs: int) -> Tree:
        """Random weights; the readout is named `output.weight` and `output.bias`."""

    def init(self, like: Tensor) -> Tree:
        """The rule's own state for parameters `like` `[*batch, n]`."""

    def update(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        """Outputs `[..., num_outputs, n]` and the next state."""


def init_layer(generator: torch.Generator, name: str, fan_in: int, fan_out: int) -> Tree:
    """Truncated normal weights of deviation 1/√fan-in, zero bias."""
    weight = torch.nn.init.trunc_normal_(torch.empty(fan_out, fan_in), std=1 / sqrt(fan_in), a=-2 / sqrt(fan_in),
                                         b=2 / sqrt(fan_in), generator=generator)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(fan_out)}


def linear(weights: Tree, name: str, values: Tensor) -> Tensor:
    """`weight @ values + bias` for `values` `[..., f, n]`."""
    return stacked(affine(weights[f"{name}.weight"], weights[f"{name}.bias"], [values]))


@dataclass(frozen=True)
class MLP:
    """A feed-forward network, as in small_fc (Metz et al. 2022, arxiv.org/abs/2203.11860)."""

    hidden_size: int = 16
    num_layers: int = 2
    activation: str = "relu"

    def __post_init__(self) -> None:
        require("rule.mlp", self.hidden_size > 0 and self.num_layers > 0,
                f"hidden_size and num_layers must be at least 1, not {self.hidden_size} and {self.num_layers}.")
        require("rule.mlp", self.activation in ACTIVATIONS,
                f"there is no activation `{self.activation}`. Activations: {', '.join(sorted(ACTIVATIONS))}.")

    @property
    def width(self) -> int:
        return self.hidden_size

    def init_weights(self, generator: torch.Generator, num_inputs: int, num_outputs: int) -> Tree:
        weights: Tree = {}
        for index in range(self.num_layers):
            weights |= init_layer(generator, f"hidden{index}", num_inputs if index == 0 else self.hidden_size,
                              self.hidden_size)
        return weights | init_layer(generator, "output", self.hidden_size, num_outputs)

    def init(self, like: Tensor) -> Tree:
        return {}

    def update(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        activation = ACTIVATIONS[self.activation]
        names = [*(f"hidden{index}" for index in range(self.num_layers)), "output"]
        (first, *layers), (bias, *biases) = ([weights[f"{name}.{kind}"] for name in names]
                                             for kind in ("weight", "bias"))
        if self.activation == "relu" and (found := inputs.through([first, *layers], [bias, *biases])) is not None:
            return found, {}
        units = inputs.project(first, bias)
        for weight, bias in zip(layers, biases, strict=True):
            units = affine(weight, bias, [activation(each) for each in units])
        return stacked(units), {}


@dataclass(frozen=True)
class Recurrent:
    """What recurrent rules share: gates over what is seen and over the last units, and a readout."""

    hidden_size: int = 8
    num_layers: int = 1
    input_size: int = 0
    num_gates: ClassVar[int]

    def __post_init__(self) -> None:
        require(f"rule.{type(self).__name__.lower()}",
                self.hidden_size > 0 and self.num_layers > 0 and self.input_size >= 0,
                "hidden_size and num_layers must be at least 1 and input_size at least 0, not "
                f"{self.hidden_size}, {self.num_layers} and {self.input_size}.")

    @property
    def width(self) -> int:
        return self.input_size or self.num_gates * self.hidden_size

    def init_weights(self, generator: torch.Generator, num_inputs: int, num_outputs: int) -> Tree:
        return (self.init_cells(generator, num_inputs)
                | init_layer(generator, "output", self.hidden_size, num_outputs))

    def init_cells(self, generator: torch.Generator, num_inputs: int) -> Tree:
        """Weights without the readout."""
        weights = init_layer(generator, "input", num_inputs, self.input_size) if self.input_size else {}
        fan_in, num_units = self.input_size or num_inputs, self.num_gates * self.hidden_size
        for index in range(self.num_layers):
            weights |= init_layer(generator, f"gates{index}", fan_in, num_units)
            weights[f"recurrent{index}"] = init_layer(
                generator, "recurrent", self.hidden_size, num_units)["recurrent.weight"]
            fan_in = self.hidden_size
        return weights

    def update(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        hidden, state = self.advance(weights, inputs, state)
        return linear(weights, "output", hidden), state

    def advance(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        """The last layer's units `[..., hidden_size, n]`, and the next state."""
        raise NotImplementedError


@dataclass(frozen=True)
class LSTM(Recurrent):
    """A coordinate-wise LSTM (Andrychowicz et al. 2016, arxiv.org/abs/1606.04474), one bias a gate.

    `input_size` above 0 puts a layer of that many units with ELU before it, as RNNProp has
    (Lv et al. 2017, arxiv.org/abs/1703.03633). `forget_bias` is where the biases of the forget gates start.
    """

    forget_bias: float = 0.0
    num_gates: ClassVar[int] = 4

    def init_cells(self, generator: torch.Generator, num_inputs: int) -> Tree:
        weights = super().init_cells(generator, num_inputs)
        if self.forget_bias:
            for index in range(self.num_layers):
                weights[f"gates{index}.bias"][self.hidden_size:2 * self.hidden_size] = self.forget_bias
        return weights

    def init(self, like: Tensor) -> Tree:
        shape = (*like.shape[:-1], self.num_layers, self.hidden_size, like.shape[-1])
        return {"hidden": like.new_zeros(shape), "cell": like.new_zeros(shape)}

    def advance(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        gates = _first_gates(weights, inputs)
        hiddens: list[Tensor] = []
        cells: list[Tensor] = []
        for index in range(self.num_layers):
            if index > 0:
                gates = linear(weights, f"gates{index}", hiddens[-1])
            gates = gates + weights[f"recurrent{index}"] @ state["hidden"][..., index, :, :]
            take, keep, write, show = gates.chunk(4, dim=-2)
            cells.append(keep.sigmoid() * state["cell"][..., index, :, :] + take.sigmoid() * write.tanh())
            hiddens.append(show.sigmoid() * cells[-1].tanh())
        return hiddens[-1], {"hidden": torch.stack(hiddens, -3), "cell": torch.stack(cells, -3)}


@dataclass(frozen=True)
class GRU(Recurrent):
    """A coordinate-wise gated recurrent unit (Cho et al. 2014, arxiv.org/abs/1406.1078), as `torch.nn.GRU` has it.

    `input_size` above 0 puts a layer of that many units with ELU before it.
    """

    num_gates: ClassVar[int] = 3

    def init_cells(self, generator: torch.Generator, num_inputs: int) -> Tree:
        """`recalled` is the bias inside the reset gate."""
        return super().init_cells(generator, num_inputs) | {
            f"recalled{index}": torch.zeros(self.hidden_size) for index in range(self.num_layers)}

    def init(self, like: Tensor) -> Tree:
        return {"hidden": like.new_zeros(*like.shape[:-1], self.num_layers, self.hidden_size, like.shape[-1])}

    def advance(self, weights: Tree, inputs: Projected, state: Tree) -> tuple[Tensor, Tree]:
        gates = _first_gates(weights, inputs)
        hiddens: list[Tensor] = []
        for index in range(self.num_layers):
            if index > 0:
                gates = linear(weights, f"gates{index}", hiddens[-1])
            before = state["hidden"][..., index, :, :]
            seen, recalled = gates.chunk(3, dim=-2), (weights[f"recurrent{index}"] @ before).chunk(3, dim=-2)
            reset, keep = ((now + then).sigmoid() for now, then in zip(seen[:2], recalled[:2], strict=True))
            fresh = (seen[2] + reset * (recalled[2] + weights[f"recalled{index}"][..., None])).tanh()
            hiddens.append(fresh + keep * (before - fresh))
        return hiddens[-1], {"hidden": torch.stack(hiddens, -3)}


def _first_gates(weights: Tree, inputs: Projected) -> Tensor:
    if "input.weight" not in weights:
        return stacked(inputs.project(weights["gates0.weight"], weights["gates0.bias"]))
    values = torch.nn.functional.elu(stacked(inputs.project(weights["input.weight"], weights["input.bias"])))
    return linear(weights, "gates0", values)


@dataclass(frozen=True)
class NoRule:
    """Nothing is learned a parameter; a controller may still be."""

    num_layers: ClassVar[int] = 0
    width: ClassVar[int] = 0

    def init_weights(self, generator: torch.Generator, num_inputs: int, num_outputs: int) -> Tree:
        return {}

    def init(self, like: Tensor) -> Tree:
        return {}


RULES: dict[str, type[Rule] | type[NoRule]] = {"mlp": MLP, "lstm": LSTM, "gru": GRU, "none": NoRule}
