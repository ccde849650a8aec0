"""Truncated backpropagation through the inner steps."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.meta_losses import MetaLosses
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import (
    Batches,
    Problem,
    Unroll,
    Window,
    draw_horizon,
    first_windows,
    fresh_trainings,
    restarted,
)
from optsearch.trees import Tree


@dataclass(frozen=True)
class Backprop:
    """The exact gradient of one truncation's meta-losses, blind to what lies before and after it.

    "second_order" counts how the weights change later gradients; "first_order" takes gradients as given, as in
    Andrychowicz et al. 2016 (arxiv.org/abs/1606.04474). Memory holds the trainings before each inner step, which
    the way back makes anew (Chen et al. 2016, arxiv.org/abs/1604.06174).
    """

    gradients: Literal["first_order", "second_order"]

    def inner_steps(self, settings: MetaTraining) -> int:
        return settings.num_tasks * settings.truncation

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        """Fresh trainings."""
        settings = problem.settings
        horizons = [draw_horizon(settings, generator) for _ in range(settings.num_tasks)]
        trainings = fresh_trainings(problem, horizons, generator)
        return trainings.to_tree() | {"windows_left": first_windows(settings, horizons, generator)}

    @torch.no_grad()
    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        settings, trainings = problem.settings, Trainings.from_tree(state)
        window = Window(problem, settings.truncation, settings.num_tasks)
        batches = window.draw(settings.num_tasks, generator)
        unrolls, gradients = [], []
        for part in window.parts(trainings):
            some, its_batches = trainings.of(part), batches.of(part)
            tree = trees.unravel(weights.expand(len(some.step), -1).contiguous(), problem.shapes)
            unrolls.append(window.unroll(some, tree, its_batches, remembers=True))
            gradients.append(self._way_back(window, unrolls[-1], tree, its_batches))
        trainings, windows_left = restarted(problem, Trainings.joined([unroll.trainings for unroll in unrolls]),
                                            state["windows_left"] - 1, generator)
        return Estimate(_mean(torch.cat(gradients)), MetaLosses.joined([unroll.meta_losses for unroll in unrolls]),
                        trainings.to_tree() | {"windows_left": windows_left})

    def _way_back(self, window: Window, unroll: Unroll, weights: Tree, batches: Batches) -> Tensor:
        """Gradients `[n, num_weights]` of each training's meta-loss over its own weights."""
        steps, uses_meta_rows = window.problem.steps, window.problem.settings.meta_loss == "validation"
        over_losses = list(_over_losses(unroll.meta_losses))
        to_params, to_state = (trees.map_leaves(torch.zeros_like, tree)
                               for tree in (unroll.trainings.params, unroll.trainings.state))
        total = trees.map_leaves(torch.zeros_like, weights)
        after, nothing = unroll.trainings, torch.zeros_like(over_losses[0])
        for index in reversed(range(window.num_steps)):
            to_loss = over_losses.pop() if window.is_measured(index) else nothing
            if window.is_measured(index) and uses_meta_rows:
                to_params = trees.added(to_params, steps.losses_back(after, batches.meta(len(over_losses)), to_loss))
                to_loss = nothing
            after = unroll.visited[index]
            to_weights, to_params, to_state = steps.step_back(
                self.gradients, (weights, after, batches.inner(index)), (to_loss, to_params, to_state))
            total = trees.added(total, to_weights)
        return trees.ravel(total, 1)


def _over_losses(meta_losses: MetaLosses) -> Tensor:
    """Gradients `[k, n]` of the meta-losses over the raw losses they come from."""
    with torch.enable_grad():
        followed = replace(meta_losses, losses=meta_losses.losses.detach().requires_grad_())
        (found,) = torch.autograd.grad(followed.values.sum(), followed.losses)
    return found


def _mean(gradients: Tensor) -> Tensor:
    """Over the trainings; one whose gradient explodes says nothing about the others' weights and counts as 0."""
    is_sound = gradients.isfinite().all(-1, keepdim=True)
    return torch.where(is_sound, gradients, torch.zeros_like(gradients)).mean(0)
