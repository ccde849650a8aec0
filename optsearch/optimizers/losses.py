"""How the loss goes: its averages over several lengths of time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers.moment import Moment
from optsearch.trees import Tree

# Averages of the loss go from this half-life to the length of the run, or to that of a run of unknown length.
SHORTEST, NUM_AVERAGES, UNKNOWN_LENGTH = 10.0, 10, 1000.0
MOST_LOSS = 1e6


def run_length(moment: Moment) -> Tensor:
    """Steps that the run has, `[..., 1]`; `UNKNOWN_LENGTH` where nobody knows."""
    return torch.full_like(moment.step, UNKNOWN_LENGTH) if moment.num_steps is None else moment.num_steps


@dataclass(frozen=True)
class Losses:
    """Averages of the loss over several lengths of time `[..., averages, tensors]`, and the lowest that each has been.

    `sums` are what remains of the losses; the others are without the bias of the first steps.
    """

    sums: Tensor
    averages: Tensor
    lowest: Tensor

    @staticmethod
    def after(moment: Moment, before: Tree) -> "Losses":
        """With the step's loss, where somebody told it."""
        # As many as averages, spaced evenly on a log scale, `[..., averages, 1]`.
        places = torch.linspace(0, 1, NUM_AVERAGES, device=moment.step.device)
        length = run_length(moment).clamp(min=SHORTEST)
        decays = torch.exp(-1 / (SHORTEST * (length / SHORTEST) ** places))[..., None]
        weights = 1 - decays ** moment.step[..., None]
        sums, averages = before["losses"], before["losses"] / weights
        if moment.loss is None:
            return Losses(sums, averages, before["lowest"])
        loss = torch.nan_to_num(moment.loss, nan=MOST_LOSS).clamp(-MOST_LOSS, MOST_LOSS)[..., None]
        # So that one wild batch doesn't hide all that comes after it. Corrected by one step too many, as VeLO and Celo
        # do: at first, losses may hardly rise.
        loss = torch.where(moment.step[..., None] > 1,
                           torch.minimum(loss, 2 * averages.amax(-2, keepdim=True).abs()), loss)
        sums = torch.lerp(loss.expand_as(sums), sums, decays.expand_as(sums))
        averages = sums / weights
        return Losses(sums, averages, torch.minimum(before["lowest"], averages))

    @property
    def tree(self) -> Tree:
        """What to remember."""
        return {"losses": self.sums, "lowest": self.lowest}
