"""How a meta-gradient changes along a direction in the space of weights."""

from dataclasses import replace

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.backprop import Backprop
from optsearch.meta_training.estimate import Estimator
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.windows import Problem, Window
from optsearch.trees import Tree

# How far apart, in multiples of the weights' norm, two meta-gradients are taken whose difference is a derivative.
STEP = 1e-2


def num_unrolls(estimator: Estimator) -> int:
    """How often `hessian_vector` makes the inner steps of a meta-gradient again."""
    return 1 if _is_exact(estimator) else 2


def _is_exact(estimator: Estimator) -> bool:
    return isinstance(estimator, Backprop) and estimator.gradients == "second_order"


def hessian_vector(estimator: Estimator, problem: Problem, state: Tree, weights: Tensor, vector: Tensor,
                   seed: int) -> Tensor:
    """The meta-loss's second derivative at `weights` times `vector`, both `[num_weights]`.

    `state` and `seed` are those of a meta-gradient: the same trainings see the same batches and perturbations again.
    Exact for backprop; for estimators that only see losses the difference of two meta-gradients, which agrees to the
    second order of `STEP`.
    """
    if _is_exact(estimator):
        return _exact(problem, state, weights, vector, seed)
    length = float(vector.norm())
    if length == 0:
        return torch.zeros_like(vector)
    step = STEP * max(1.0, float(weights.norm())) / length
    ahead, behind = (estimator.meta_gradient(problem, state, weights + sign * step * vector,
                                             torch.Generator().manual_seed(seed)).gradient for sign in (1, -1))
    return (ahead - behind) / (2 * step)


def _exact(problem: Problem, state: Tree, weights: Tensor, vector: Tensor, seed: int) -> Tensor:
    """One training after the other, whose graphs of two derivatives would fill the memory together."""
    settings, trainings = problem.settings, Trainings.from_tree(state)
    window = Window(replace(problem, steps=problem.steps.plain), settings.truncation, settings.num_tasks)
    batches = window.draw(settings.num_tasks, torch.Generator().manual_seed(seed))
    total = torch.zeros_like(vector)
    for index in range(settings.num_tasks):
        part = slice(index, index + 1)
        with torch.enable_grad():
            followed = weights.detach().clone().requires_grad_()
            unroll = window.unroll(trainings.of(part), trees.unravel(followed[None], problem.shapes),
                                   batches.of(part), gradients="second_order")
            (gradient,) = torch.autograd.grad(unroll.meta_losses.values.sum(), followed, create_graph=True)
            (found,) = torch.autograd.grad(gradient, followed, vector)
        # As in the meta-gradient: what explodes says nothing.
        total += found if found.isfinite().all() and gradient.isfinite().all() else 0
    return total / settings.num_tasks
