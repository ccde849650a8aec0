"""Who is measured: hand-made optimizers and learned ones, each with the learning rates that are tried for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from optsearch import trees
from optsearch.evaluation import runs
from optsearch.evaluation.hand_made import OPPONENTS, half_decades
from optsearch.evaluation.runs import Runs, Setup
from optsearch.meta_training.inner import InnerOptimizer
from optsearch.optimizers.moment import Observation
from optsearch.optimizers.optimizer import CONTRACT, LearnedOptimizer
from optsearch.trees import Tree

LR = "lr"
BASELINE, LEARNED, TUNED_LEARNED = "adamw_cosine", "learned", "learned_tuned"
# Around 1, which is the learning rate that an optimizer was meta-trained with.
MULTIPLIERS = half_decades(-5)


@dataclass(frozen=True)
class Multiplied:
    """A learned optimizer whose steps are multiplied by `weights["lr"]` `[*batch, 1]`."""

    original: LearnedOptimizer

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        return self.original.init(params, batch_dims)

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        updates, state = self.original.update({name: leaf for name, leaf in weights.items() if name != LR},
                                              observation, state)
        return {name: leaf * weights[LR].view(-1, *[1] * (leaf.dim() - 1)) for name, leaf in updates.items()}, state


@dataclass(frozen=True, eq=False)
class Contender:
    """An optimizer, its weights beside the learning rate, and the learning rates to try: a single one is just taken.

    `identity` changes when results would.
    """

    name: str
    optimizer: InnerOptimizer
    learning_rates: tuple[float, ...]
    identity: str
    weights: Tree = field(default_factory=dict)

    def run(self, learning_rates: Sequence[float], setup: Setup) -> Runs:
        """Columns run over learning rates, then seeds."""
        return runs.run(self.optimizer, self.weights_at(learning_rates, setup), setup)

    def weights_at(self, learning_rates: Sequence[float], setup: Setup) -> Tree:
        """One set of weights a learning rate, where the setup's data are."""
        device = next(iter(setup.family.data.inner.values())).device
        weights = {name: leaf.expand(len(learning_rates), *leaf.shape) for name, leaf in self.weights.items()}
        return trees.map_leaves(lambda leaf: leaf.to(device),
                                weights | {LR: torch.tensor(learning_rates)[:, None]})


def hand_made(name: str) -> Contender:
    """One of `OPPONENTS`."""
    found = OPPONENTS[name]
    return Contender(name, found.optimizer, found.learning_rates,
                     f"{name} {found.optimizer} {found.learning_rates}")


def learned(design: LearnedOptimizer, weights: Tree, name: str = LEARNED) -> Contender:
    """A learned optimizer as it is."""
    return Contender(name, Multiplied(design), (1.0,), _identity(design, weights), weights)


def learned_tuned(design: LearnedOptimizer, weights: Tree) -> Contender:
    """A learned optimizer whose learning rate is tuned over as many values as the baseline's."""
    return Contender(TUNED_LEARNED, Multiplied(design), MULTIPLIERS,
                     f"{_identity(design, weights)} {MULTIPLIERS}", weights)


def _identity(design: LearnedOptimizer, weights: Tree) -> str:
    return f"{design.fingerprint} {trees.checksum(weights, {})} {CONTRACT}"
