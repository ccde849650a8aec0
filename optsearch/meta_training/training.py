"""Meta-training as a generator of points on the learning curve; the caller owns the loop."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.outcome import Outcome
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem
from optsearch.optimizers.bases import AdamW
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.seeds import generator
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree, prefixed, within

META_OPTIMIZER = AdamW(beta1=0.9, beta2=0.99, weight_decay=0.0)
FINAL_META_LR_RATIO = 0.1


@dataclass(frozen=True)
class Snapshot:
    """All that a meta-training needs to go on, bit for bit; `groups` are the estimator's states, one a family.

    `seconds` is the time spent training so far."""

    weights: Tensor
    moments: Tree
    groups: tuple[Tree, ...]
    meta_step: int
    seconds: float

    def to_tree(self) -> Tree:
        tree = {"weights": self.weights} | prefixed("moments", self.moments)
        for index, group in enumerate(self.groups):
            tree |= prefixed(f"group{index}", group)
        return tree | {"num_groups": torch.tensor(len(self.groups)), "meta_step": torch.tensor(self.meta_step),
                       "seconds": torch.tensor(self.seconds, dtype=torch.float64)}

    def weights_tree(self, plan: "Plan") -> Tree:
        """The weights by name."""
        return trees.unravel(self.weights, trees.shapes_of(plan.first_weights()))

    @staticmethod
    def from_tree(tree: Tree, device: torch.device | str = "cpu") -> "Snapshot":
        tree = {name: leaf if name.endswith("windows_left") else leaf.to(device) for name, leaf in tree.items()}
        groups = tuple(within(f"group{index}", tree) for index in range(int(tree["num_groups"])))
        return Snapshot(tree["weights"], within("moments", tree), groups,
                        int(tree["meta_step"]), float(tree["seconds"]))


@dataclass(frozen=True)
class Point:
    """One point of the learning curve, and the weights there.

    `inner_steps` counts the budget spent; `meta_loss` is the mean over the meta-steps since the last point.
    """

    index: int
    inner_steps: int
    meta_loss: float
    outcome: Outcome | None
    weights: Tree
    snapshot: Snapshot


@dataclass(frozen=True)
class Plan:
    """A meta-training: what is learned, on which families, how, for how many inner steps, from which seed."""

    optimizer: LearnedOptimizer
    families: Sequence[TaskFamily]
    settings: MetaTraining
    budget: int
    num_points: int
    seed: int

    @property
    def steps_per_meta_step(self) -> int:
        """Inner steps that one meta-step spends; both halves of antithetic pairs count."""
        return ESTIMATORS[self.settings.estimator].inner_steps(self.settings)

    @property
    def num_meta_steps(self) -> int:
        return max(self.num_points, self.budget // self.steps_per_meta_step)

    def first_weights(self) -> Tree:
        return self.optimizer.init_weights(generator(self.seed, "weights"))

    def last_meta_step(self, point: int) -> int:
        """The meta-step after which point `point` (from 1) stands."""
        return round(point * self.num_meta_steps / self.num_points)

    def meta_lr(self, meta_step: int) -> float:
        """Cosine from `meta_lr` down to a tenth of it."""
        remaining = (1 + cos(pi * meta_step / self.num_meta_steps)) / 2
        return self.settings.meta_lr * (FINAL_META_LR_RATIO + (1 - FINAL_META_LR_RATIO) * remaining)


def meta_train(plan: Plan, resume: Snapshot | None = None) -> Iterator[Point]:
    """Yield `plan.num_points` points, or fewer when it diverges; go on from `resume` where given.

    Everything random follows from `plan.seed` and the number of the meta-step, so that a resumed run and an
    unbroken one give the same bits. Families take turns.
    """
    first = plan.first_weights()
    shapes = trees.shapes_of(first)
    problems = [Problem(plan.optimizer, family, plan.settings, shapes) for family in plan.families]
    now = resume or _start(plan, problems, first)
    for index in range(1, plan.num_points + 1):
        end = plan.last_meta_step(index)
        if now.meta_step >= end:
            continue
        meta_losses = []
        started = time.monotonic()
        while now.meta_step < end:
            now, losses = _meta_step(plan, problems, now)
            meta_losses.append(losses.mean())
        now = Snapshot(now.weights, now.moments, now.groups, now.meta_step,
                       now.seconds + time.monotonic() - started)
        outcome = _outcome(now.weights, is_last=index == plan.num_points)
        yield Point(index, now.meta_step * plan.steps_per_meta_step, float(torch.stack(meta_losses).mean()),
                    outcome, trees.unravel(now.weights, shapes), now)
        if outcome is not None:
            return


def _start(plan: Plan, problems: Sequence[Problem], weights: Tree) -> Snapshot:
    device = next(iter(problems[0].family.data.inner.values())).device
    vector = trees.ravel(weights).to(device)
    estimator = ESTIMATORS[plan.settings.estimator]
    groups = tuple(estimator.start(problem, len(vector), generator(plan.seed, "start", index))
                   for index, problem in enumerate(problems))
    return Snapshot(vector, META_OPTIMIZER.init(vector), groups, 0, 0.0)


@torch.no_grad()
def _meta_step(plan: Plan, problems: Sequence[Problem], now: Snapshot) -> tuple[Snapshot, Tensor]:
    turn = now.meta_step % len(problems)
    found = ESTIMATORS[plan.settings.estimator].meta_gradient(
        problems[turn], now.groups[turn], now.weights, generator(plan.seed, "meta_step", now.meta_step))
    step = torch.full((1,), now.meta_step + 1.0, device=now.weights.device)
    direction, moments = META_OPTIMIZER.direction(found.gradient, now.weights, step, now.moments)
    weights = now.weights - plan.meta_lr(now.meta_step) * direction
    groups = (*now.groups[:turn], found.state, *now.groups[turn + 1:])
    return Snapshot(weights, moments, groups, now.meta_step + 1, now.seconds), found.losses


def _outcome(weights: Tensor, *, is_last: bool) -> Outcome | None:
    if not bool(weights.isfinite().all()):
        return Outcome.DIVERGED
    return Outcome.COMPLETED if is_last else None
