"""A meta-training before it begins, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from optsearch import trees
from optsearch.errors import DesignError
from optsearch.meta_training.estimate import Estimator
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.settings import MetaTraining
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.soap import SOAP
from optsearch.seeds import generator
from optsearch.tasks.distribution import TaskDistribution
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree, prefixed, within

FINAL_META_LR_RATIO = 0.1
# Updates of one parameter: so many take about a minute uncompiled, of which compiling takes away half or more and
# costs half at worst.
COMPILING_PAYS = 4e8
EARLIER = 3
Compiling = Literal["auto", "always", "never"]


def part_of_budget(point: int, num_points: int, num_early: int = 0) -> float:
    """The part of the budget that is spent at point `point` (from 1) of a learning curve.

    The last `num_points` are evenly spaced; each of the `num_early` before them has a third of the next one's part.
    """
    return max(1, point - num_early) / num_points / EARLIER ** max(0, num_early + 1 - point)


@dataclass(frozen=True)
class Plan:
    """A meta-training: what is learned, on which families, how, for how many inner steps, from which seed.

    It begins with the weights `initial`, or random ones where there are none. Meta-gradients are had by `estimator`, or
    by the one that the settings name; `beside` are weights that only this estimator knows what to do with, learned
    together with the design's. Its curve has `num_points` points, evenly spaced, after `num_early` more as in
    `part_of_budget`.
    The steps up to the first point are never compiled, so that nothing short waits for a compiler; those after it
    are as `compiling` says: "auto" where there are enough of them to win the time back.
    """

    optimizer: LearnedOptimizer
    families: Sequence[TaskFamily] | TaskDistribution
    settings: MetaTraining
    budget: int
    num_points: int
    seed: int
    compiling: Compiling = "auto"
    num_early: int = 0
    initial: Tree | None = None
    estimator: Estimator | None = None
    beside: Tree = field(default_factory=dict)

    @property
    def distribution(self) -> TaskDistribution:
        """The families with their weights; equal ones where none were given."""
        given = self.families
        return given if isinstance(given, TaskDistribution) else TaskDistribution.of(given)

    @property
    def steps_per_meta_step(self) -> int:
        """Inner steps that one meta-step spends; both halves of antithetic pairs count."""
        return self.chosen_estimator.inner_steps(self.settings)

    @property
    def chosen_estimator(self) -> Estimator:
        return self.estimator or ESTIMATORS[self.settings.estimator]

    @property
    def num_meta_steps(self) -> int:
        return max(self.num_points, self.budget // self.steps_per_meta_step)

    def first_weights(self) -> Tree:
        """Raises `DesignError` where there is nothing to learn, or where the weights to begin with don't fit."""
        weights = self.optimizer.init_weights(generator(self.seed, "weights"))
        if not weights:
            raise DesignError("the design has nothing to learn: no rule, no controller and a constant schedule. "
                              "Give it one of them.")
        if self.initial is None:
            return weights | self.beside
        if trees.shapes_of(self.initial) != trees.shapes_of(weights):
            raise DesignError("the weights to begin with are not of this design; `adaptation.inherit` takes over what "
                              "fits.")
        return self.initial | self.beside

    def last_meta_step(self, point: int) -> int:
        """The meta-step after which point `point` (from 1) stands."""
        return round(self._part(point) * self.num_meta_steps)

    def _part(self, point: int) -> float:
        return part_of_budget(point, self.num_points, self.num_early)

    def meta_lr(self, meta_step: int) -> float:
        """Up to `meta_lr` over the warm-up, then on a cosine down to a tenth of it."""
        progress, warmup = meta_step / self.num_meta_steps, self.settings.meta_warmup
        if progress < warmup:
            return self.settings.meta_lr * (meta_step + 1) / (warmup * self.num_meta_steps + 1)
        remaining = (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2
        return self.settings.meta_lr * (FINAL_META_LR_RATIO + (1 - FINAL_META_LR_RATIO) * remaining)

    def compiles(self, family: TaskFamily, share: float) -> bool:
        """Whether a family's steps after the first point are worth compiling, where it has `share` of them."""
        updates = self.budget * (1 - self._part(1)) * share * family.num_parameters
        # Decompositions take most of SOAP's steps, and are the same compiled: a tenth is won, for minutes of compiling.
        pays = updates >= COMPILING_PAYS and not isinstance(self.optimizer.base, SOAP)
        return self.compiling == "always" or (self.compiling == "auto" and pays)


@dataclass(frozen=True)
class Snapshot:
    """All that a meta-training needs to go on, bit for bit.

    `groups` are the estimator's states, one a family; `turns` says whose turn is next; `seconds` is the time spent
    training so far.
    """

    weights: Tensor
    moments: Tree
    groups: tuple[Tree, ...]
    turns: Tree
    meta_step: int
    seconds: float

    def to_tree(self) -> Tree:
        tree = {"weights": self.weights} | prefixed("moments", self.moments) | prefixed("turns", self.turns)
        for index, group in enumerate(self.groups):
            tree |= prefixed(f"group{index}", group)
        return tree | {"num_groups": torch.tensor(len(self.groups)), "meta_step": torch.tensor(self.meta_step),
                       "seconds": torch.tensor(self.seconds, dtype=torch.float64)}

    def weights_tree(self, plan: "Plan") -> Tree:
        """The weights by name."""
        return trees.unravel(self.weights, trees.shapes_of(plan.first_weights()))

    @staticmethod
    def from_tree(tree: Tree, device: torch.device | str = "cpu") -> "Snapshot":
        # What is read by the program itself stays where it can be read without waiting.
        tree = {name: leaf if name.endswith("windows_left") or name.startswith("turns.") else leaf.to(device)
                for name, leaf in tree.items()}
        groups = tuple(within(f"group{index}", tree) for index in range(int(tree["num_groups"])))
        return Snapshot(tree["weights"], within("moments", tree), groups, within("turns", tree),
                        int(tree["meta_step"]), float(tree["seconds"]))
