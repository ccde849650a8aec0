"""Heads: how a rule's outputs become the direction of a step."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from optsearch.optimizers.layout import Layout

PARAMETER_EPS = 1e-9


class Head(Protocol):
    """Reads its first `num_outputs` outputs `[..., num_outputs, n]` of the rule."""

    @property
    def num_outputs(self) -> int: ...

    def direction(self, layout: Layout, outputs: Tensor, params: Tensor) -> Tensor:
        """`[..., n]`, pointing uphill; the step is minus the learning rate times it."""


def _rms_scale(part: Tensor, floor: float) -> Tensor:
    return (part.square().mean(-1, keepdim=True) + floor).rsqrt()


@dataclass(frozen=True)
class Raw:
    """The output itself; `bounded` passes it through tanh."""

    bounded: bool = False

    @property
    def num_outputs(self) -> int:
        return 1

    def direction(self, layout: Layout, outputs: Tensor, params: Tensor) -> Tensor:
        output = outputs[..., 0, :]
        return output.tanh() if self.bounded else output


@dataclass(frozen=True)
class ExpMagnitude:
    """direction · exp(`exp_scale` · magnitude), as in small_fc."""

    exp_scale: float = 0.001

    @property
    def num_outputs(self) -> int:
        return 2

    def direction(self, layout: Layout, outputs: Tensor, params: Tensor) -> Tensor:
        return outputs[..., 0, :] * (self.exp_scale * outputs[..., 1, :]).exp()


@dataclass(frozen=True)
class ParameterRMS:
    """direction · exp(`exp_scale` · magnitude) · RMS of the tensor's parameters, as in VeLO and Celo."""

    exp_scale: float = 0.001

    @property
    def num_outputs(self) -> int:
        return 2

    def direction(self, layout: Layout, outputs: Tensor, params: Tensor) -> Tensor:
        steps = outputs[..., 0, :] * (self.exp_scale * outputs[..., 1, :]).exp()
        return layout.scaled(steps, lambda part: 1 / _rms_scale(part, PARAMETER_EPS), of=params)


@dataclass(frozen=True)
class OutputRMS:
    """The output divided by √(`floor` + its mean square over the tensor).

    With a tiny floor every step has RMS 1, as in Celo2 (arxiv.org/abs/2602.19142); with floor 1 small outputs
    stay small and none exceeds RMS 1. `spare_outputs` are weights that the published network carries unused.
    """

    floor: float = 1.0
    spare_outputs: int = 0

    @property
    def num_outputs(self) -> int:
        return 1 + self.spare_outputs

    def direction(self, layout: Layout, outputs: Tensor, params: Tensor) -> Tensor:
        return layout.scaled(outputs[..., 0, :], lambda part: _rms_scale(part, self.floor))


HEADS: dict[str, type[Head]] = {
    "raw": Raw, "exp_magnitude": ExpMagnitude, "parameter_rms": ParameterRMS, "output_rms": OutputRMS}

