"""Truncated backpropagation through the inner steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training import inner
from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem, Window, draw_horizon, first_windows, fresh_trainings, restarted
from optsearch.trees import Tree


@dataclass(frozen=True)
class Backprop:
    """The exact gradient of one truncation's meta-losses, blind to what lies before and after it.

    "second_order" counts how the weights change later gradients; "first_order" takes gradients as given, as in
    Andrychowicz et al. 2016 (arxiv.org/abs/1606.04474). Memory grows with the truncation.
    """

    gradients: inner.Gradients

    def inner_steps(self, settings: MetaTraining) -> int:
        return settings.num_tasks * settings.truncation

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        """Fresh trainings."""
        settings = problem.settings
        horizons = [draw_horizon(settings, generator) for _ in range(settings.num_tasks)]
        trainings = fresh_trainings(problem, horizons, generator)
        return trainings.to_tree() | {"windows_left": first_windows(settings, horizons, generator)}

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        settings = problem.settings
        window = Window(problem, settings.truncation, settings.num_tasks, self.gradients)
        with torch.enable_grad():
            leaf = weights.detach().requires_grad_()
            everyone = leaf.expand(settings.num_tasks, -1)
            losses, trainings = window.run(
                Trainings.from_tree(state), trees.unravel(everyone, problem.shapes), generator)
            (gradient,) = torch.autograd.grad(losses.mean(), leaf)
        trainings, windows_left = restarted(
            problem, trainings.map(torch.Tensor.detach), state["windows_left"] - 1, generator)
        # One exploding training says nothing about the others' weights: the meta-step is then left out.
        gradient = torch.where(gradient.isfinite().all(), gradient, torch.zeros_like(gradient))
        return Estimate(gradient, losses.detach(), trainings.to_tree() | {"windows_left": windows_left})
