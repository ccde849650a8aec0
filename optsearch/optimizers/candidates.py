"""What a mixing chooses from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """What a mixing chooses from: directions `[..., n]`, uphill both.

    `rates` `[..., tensors]` are the learning rates that the step will have; `gate` `[..., n]` is an output of the rule
    or of the controller, 0 at the start, for mixings that ask for one.
    """

    learned: Tensor
    base: Tensor
    rates: Tensor
    gate: Tensor | None = None
