"""Heads: how a rule's outputs become the direction of a step."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from optsearch.optimizers.layout import Layout

PARAMETER_EPS = 1e-9


class Head(Protocol):
    """Reads its first `num_outputs` outputs of the rule; the rule has `num_spare` more that nobody reads."""

    @property
    def num_outputs(self) -> int: ...

    @property
    def num_spare(self) -> int: ...

    def joined(self, outputs: Tensor) -> Tensor:
        """One number a parameter, `[..., n]`, from `[..., num_outputs, n]`."""

    def direction(self, layout: Layout, values: Tensor, params: Tensor) -> Tensor:
        """`[..., n]` from what `joined` gave, pointing uphill; the step is minus the learning rate times it."""


def _rms_scale(part: Tensor, floor: float) -> Tensor:
    return (part.square().mean(-1, keepdim=True) + floor).rsqrt()


@dataclass(frozen=True)
class Raw:
    """The output itself; `bounded` passes it through tanh."""

    bounded: bool = False
    num_outputs: ClassVar[int] = 1
    num_spare: ClassVar[int] = 0

    def joined(self, outputs: Tensor) -> Tensor:
        output = outputs[..., 0, :]
        return output.tanh() if self.bounded else output

    def direction(self, layout: Layout, values: Tensor, params: Tensor) -> Tensor:
        return values


@dataclass(frozen=True)
class ExpMagnitude:
    """direction · exp(`exp_scale` · magnitude), as in small_fc.

    `spare_outputs` are weights that a published network carries unused.
    """

    exp_scale: float = 0.001
    spare_outputs: int = 0
    num_outputs: ClassVar[int] = 2

    @property
    def num_spare(self) -> int:
        return self.spare_outputs

    def joined(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0, :] * (self.exp_scale * outputs[..., 1, :]).exp()

    def direction(self, layout: Layout, values: Tensor, params: Tensor) -> Tensor:
        return values


@dataclass(frozen=True)
class ParameterRMS:
    """direction · exp(`exp_scale` · magnitude) · RMS of the tensor's parameters, as in VeLO and Celo.

    `spare_outputs` are weights that a published network carries unused.
    """

    exp_scale: float = 0.001
    spare_outputs: int = 0
    num_outputs: ClassVar[int] = 2

    @property
    def num_spare(self) -> int:
        return self.spare_outputs

    def joined(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0, :] * (self.exp_scale * outputs[..., 1, :]).exp()

    def direction(self, layout: Layout, values: Tensor, params: Tensor) -> Tensor:
        return layout.scaled(values, lambda part: 1 / _rms_scale(part, PARAMETER_EPS), of=params)


@dataclass(frozen=True)
class OutputRMS:
    """The output divided by √(`floor` + its mean square over the tensor).

    With a tiny floor every step has RMS 1, as in Celo2 (arxiv.org/abs/2602.19142); with floor 1 small outputs
    stay small and none exceeds RMS 1. `spare_outputs` are weights that the published network carries unused.
    """

    floor: float = 1.0
    spare_outputs: int = 0
    num_outputs: ClassVar[int] = 1

    @property
    def num_spare(self) -> int:
        return self.spare_outputs

    def joined(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0, :]

    def direction(self, layout: Layout, values: Tensor, params: Tensor) -> Tensor:
        return layout.scaled(values, lambda part: _rms_scale(part, self.floor))


HEADS: dict[str, type[Head]] = {
    "raw": Raw, "exp_magnitude": ExpMagnitude, "parameter_rms": ParameterRMS, "output_rms": OutputRMS}
