"""Mixings: how the learned direction and the base's come together."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Mixing(Protocol):
    """With the rule's outputs at zero, a mixing that has a base gives the base's direction, exactly."""

    @property
    def num_outputs(self) -> int:
        """Outputs of the rule that the mixing reads, after those of the head."""

    @property
    def has_base(self) -> bool: ...

    def mix(self, learned: Tensor, base: Tensor, outputs: Tensor) -> Tensor:
        """The direction `[..., n]`; `outputs` `[..., num_outputs, n]`."""


@dataclass(frozen=True)
class NoMixing:
    """The learned direction alone."""

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def has_base(self) -> bool:
        return False

    def mix(self, learned: Tensor, base: Tensor, outputs: Tensor) -> Tensor:
        return learned


@dataclass(frozen=True)
class Residual:
    """base + learned."""

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def has_base(self) -> bool:
        return True

    def mix(self, learned: Tensor, base: Tensor, outputs: Tensor) -> Tensor:
        return base + learned


@dataclass(frozen=True)
class Gated:
    """gate · base + learned, with a gate in 0..2 for every parameter, 2 · sigmoid(output)."""

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def has_base(self) -> bool:
        return True

    def mix(self, learned: Tensor, base: Tensor, outputs: Tensor) -> Tensor:
        return (2 * outputs[..., 0, :].sigmoid()) * base + learned


MIXINGS: dict[str, type[Mixing]] = {"none": NoMixing, "residual": Residual, "gated": Gated}
