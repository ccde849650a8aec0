"""Mixings: how the learned direction and the base's come together."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from optsearch.optimizers.candidates import Candidates
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.optimizers.watchful_mixings import Adaptive, Trust
from optsearch.trees import Tree


class Mixing(Protocol):
    """With the learned direction and the gate at zero, a mixing that has a base gives the base's direction, exactly."""

    @property
    def has_base(self) -> bool: ...

    @property
    def has_gate(self) -> bool:
        """Whether it asks for an output: of the controller a tensor, or of the rule a parameter where there is none."""

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        """The state for parameters `like` `[*batch, n]`; its leaves end with one entry a tensor."""

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        """The direction `[..., n]`, and the next state."""


@dataclass(frozen=True)
class Stateless:
    """What mixings share that remember nothing."""

    has_base: ClassVar[bool] = True
    has_gate: ClassVar[bool] = False

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return {}


@dataclass(frozen=True)
class NoMixing(Stateless):
    """The learned direction alone."""

    has_base: ClassVar[bool] = False

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        return candidates.learned, {}


@dataclass(frozen=True)
class Residual(Stateless):
    """base + learned."""

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        return candidates.base + candidates.learned, {}


@dataclass(frozen=True)
class Gated(Stateless):
    """gate · base + learned, with a gate in 0..2, 2 · sigmoid(output)."""

    has_gate: ClassVar[bool] = True

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        assert candidates.gate is not None
        return (2 * candidates.gate.sigmoid()) * candidates.base + candidates.learned, {}


@dataclass(frozen=True)
class Fixed(Stateless):
    """base + share · learned, with a share above 0 and at most 1."""

    share: float = 0.5

    def __post_init__(self) -> None:
        require("mixing.fixed", 0 < self.share <= 1, f"share must be in (0, 1], not {self.share}.")

    def mix(self, candidates: Candidates, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        return candidates.base + self.share * candidates.learned, {}


MIXINGS: dict[str, type[Mixing]] = {"none": NoMixing, "residual": Residual, "gated": Gated, "fixed": Fixed,
                                    "adaptive": Adaptive, "trust": Trust}
