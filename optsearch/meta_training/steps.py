"""What unrolls are made of: an inner step, losses on other batches, and the way back through both."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from optsearch.compiling import Argument, Function, compiled, leaves
from optsearch.errors import CompileError
from optsearch.meta_training import inner
from optsearch.meta_training.inner import Gradients, InnerOptimizer, Trainings
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree


@dataclass(frozen=True)
class Kernel:
    """A function that is compiled, if at all, at its first call with so many trainings.

    Where compiling is not possible it stays as it is.
    """

    function: Function
    is_compiled: bool
    made: dict[int, Function] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        return any(made is self.function for made in self.made.values())

    def __call__(self, num_trainings: int, *arguments: Argument) -> tuple[Any, ...]:
        if not self.is_compiled:
            return self.function(*arguments)
        if num_trainings not in self.made:
            try:
                self.made[num_trainings] = compiled(self.function, *arguments)
            except CompileError:
                self.made[num_trainings] = self.function
        return self.made[num_trainings](*arguments)


class Steps:
    """Inner steps of an optimizer on a family; all trainings of a batch at once, forward and back.

    The way back makes a step anew instead of remembering it, so that an unroll holds the trainings before each
    step and nothing of what happened inside.
    """

    def __init__(self, optimizer: InnerOptimizer, family: TaskFamily, *, is_compiled: bool = False) -> None:
        self.optimizer, self.family = optimizer, family
        self._step = Kernel(self._stepped("none"), is_compiled)
        self._losses = Kernel(self._measured, is_compiled)
        self._losses_back = Kernel(pullback(self._measured, 1, 1), is_compiled)
        self._step_back = {gradients: Kernel(pullback(self._stepped(gradients), 3, 3), is_compiled)
                           for gradients in ("first_order", "second_order")}

    @property
    def is_compiled(self) -> bool:
        """Whether steps are compiled, or will be when they are first made."""
        return self._step.is_compiled and not self._step.has_failed

    def step(self, weights: Tree, trainings: Trainings, batch: Tree) -> tuple[Tensor, Trainings]:
        """The losses `[n]` before an inner step, and the trainings after it."""
        losses, params, state = self._step(len(trainings.step), *_arguments(weights, trainings, batch))
        return losses, replace(trainings, params=params, state=state, step=trainings.step + 1)

    def step_back(self, gradients: Gradients, before: tuple[Tree, Trainings, Tree],
                  after: tuple[Tensor, Tree, Tree]) -> tuple[Tree, Tree, Tree]:
        """Gradients over weights, params and state `before` a step, from those over losses, params and state `after`.

        `gradients` says what a step means to them; see `inner.step`.
        """
        trainings = before[1]
        to_weights, to_params, to_state = self._step_back[gradients](
            len(trainings.step), *_arguments(*before), *after)
        return to_weights, to_params, to_state

    def losses(self, trainings: Trainings, batch: Tree) -> Tensor:
        """Losses `[n]` on a batch of each training's own, without a step."""
        (losses,) = self._losses(len(trainings.step), trainings.params, trainings.task | batch)
        return losses

    def losses_back(self, trainings: Trainings, batch: Tree, after: Tensor) -> Tree:
        """Gradients over params from those over `losses`."""
        (found,) = self._losses_back(len(trainings.step), trainings.params, trainings.task | batch, after)
        return found

    def _stepped(self, gradients: Gradients) -> Function:
        def step(weights: Tree, params: Tree, state: Tree, task: Tree, counts: Tree,
                 batch: Tree) -> tuple[Argument, ...]:
            losses, after = inner.step(self.optimizer, self.family, weights,
                                       Trainings(params, state, task, counts["step"], counts["horizon"]),
                                       batch, gradients)
            return losses, after.params, after.state
        return step

    def _measured(self, params: Tree, batch: Tree) -> tuple[Argument, ...]:
        return (inner.losses_on(self.family, params, batch),)


def _arguments(weights: Tree, trainings: Trainings, batch: Tree) -> tuple[Tree, ...]:
    return (weights, trainings.params, trainings.state, trainings.task,
            {"step": trainings.step, "horizon": trainings.horizon}, batch)


def pullback(function: Function, num_inputs: int, num_results: int) -> Function:
    """The way back through `function`.

    Takes its arguments and gradients over its results; gives gradients over its first `num_inputs` arguments, trees.
    """
    def pull(*arguments: Any) -> tuple[Tree, ...]:
        inputs, others = arguments[:num_inputs], arguments[num_inputs:-num_results]
        with torch.enable_grad():
            followed = [{name: leaf.detach().requires_grad_() for name, leaf in tree.items()} for tree in inputs]
            results = function(*followed, *others)
        over_results = leaves(arguments[-num_results:])
        pairs = [(result, after) for result, after in zip(leaves(results), over_results, strict=True)
                 if result.requires_grad]
        found = iter(torch.autograd.grad([result for result, _ in pairs], list(leaves(followed)),
                                         [after for _, after in pairs], materialize_grads=True))
        return tuple({name: next(found) for name in tree} for tree in followed)
    return pull
