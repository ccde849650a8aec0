"""What every estimator of a meta-gradient gives."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optsearch.meta_training.meta_losses import MetaLosses
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem
from optsearch.trees import Tree


@dataclass(frozen=True)
class Estimate:
    """A meta-gradient `[num_weights]`, the meta-losses it comes from, and the state for the next one."""

    gradient: Tensor
    meta_losses: MetaLosses
    state: Tree


class Estimator(Protocol):
    """A way to a meta-gradient; its state is a tree, which a checkpoint holds as it is."""

    def inner_steps(self, settings: MetaTraining) -> int:
        """What one meta-step spends of the budget."""

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        """The state before the first meta-step."""

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        """One meta-step's worth of inner steps at `weights` `[num_weights]`."""
