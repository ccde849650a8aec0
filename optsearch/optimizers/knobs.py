"""Knobs: what a controller turns in a base."""

from dataclasses import dataclass

from torch import Tensor

from optsearch.optimizers.layout import Layout
from optsearch.trees import Tree

# However slow a controller makes an average, this much of it is new at each step.
LEAST_NEWS = 1e-6


@dataclass(frozen=True)
class Knobs:
    """What a controller changes in a base: by knob, an offset of its logarithm `[..., tensors]`."""

    layout: Layout
    offsets: Tree

    def decay(self, name: str, value: float) -> Tensor:
        """The decay of each parameter; an offset acts on 1 - decay."""
        return self.layout.spread(self.tensor_decay(name, value))

    def scaled(self, name: str, value: float) -> Tensor:
        """A positive number of each parameter."""
        return self.layout.spread(self.tensor_scaled(name, value))

    def tensor_decay(self, name: str, value: float) -> Tensor:
        """The decay of each tensor, `[..., tensors]`."""
        return 1 - ((1 - value) * self.offsets[name].exp()).clamp(LEAST_NEWS, 1)

    def tensor_scaled(self, name: str, value: float) -> Tensor:
        """A positive number of each tensor, `[..., tensors]`."""
        return value * self.offsets[name].exp()
