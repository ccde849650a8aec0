"""What unrolls are made of: an inner step, losses on other batches, and the way back through both."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optsearch import trees
from optsearch.compiling import Argument, Function, Kernels, leaves
from optsearch.meta_training import inner
from optsearch.meta_training.captures import Captures
from optsearch.meta_training.inner import Gradients, InnerOptimizer, Trainings
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree


class Steps:
    """Inner steps of an optimizer on a family; all trainings of a batch at once, forward and back.

    The way back makes a step anew instead of remembering it, so that an unroll holds the trainings before each
    step and nothing of what happened inside.
    """

    def __init__(self, optimizer: InnerOptimizer, family: TaskFamily, *, is_compiled: bool = False) -> None:
        self.optimizer, self.family = optimizer, family
        self._kernels = Kernels() if is_compiled else None
        self.captures = Captures()

    @property
    def is_compiled(self) -> bool:
        """Whether steps are compiled, or will be when they are first made."""
        return self._kernels is not None and not self._kernels.has_failed

    @property
    def plain(self) -> "Steps":
        """The same steps uncompiled, through which all derivatives can be had."""
        return Steps(self.optimizer, self.family) if self.is_compiled else self

    def step(self, weights: Tree, trainings: Trainings, batch: Tree,
             gradients: Gradients = "none") -> tuple[Tensor, Trainings]:
        """The losses `[n]` before an inner step, and the trainings after it; `gradients` as in `inner.step`."""
        losses, params, state = self._call(
            gradients, trainings, self._stepped(gradients), *_arguments(weights, trainings, batch))
        return losses, replace(trainings, params=params, state=state, step=trainings.step + 1)

    def step_back(self, gradients: Gradients, before: tuple[Tree, Trainings, Tree],
                  after: tuple[Tensor, Tree, Tree]) -> tuple[Tree, Tree, Tree]:
        """Gradients over weights, params and state `before` a step, from those over losses, params and state `after`.

        `gradients` says what a step means to them; see `inner.step`.
        """
        way_back = pullback(self._stepped(gradients), 3, 3)
        to_weights, to_params, to_state = self._call(gradients, before[1], way_back, *_arguments(*before), *after)
        return to_weights, to_params, to_state

    def losses(self, trainings: Trainings, batch: Tree) -> Tensor:
        """Losses `[n]` on a batch of each training's own, without a step."""
        (losses,) = self._call("losses", trainings, self._measured, trainings.params, trainings.task | batch)
        return losses

    def losses_back(self, trainings: Trainings, batch: Tree, after: Tensor) -> Tree:
        """Gradients over params from those over `losses`."""
        (found,) = self._call("losses_back", trainings, pullback(self._measured, 1, 1), trainings.params,
                              trainings.task | batch, after)
        return found

    def _call(self, name: str, trainings: Trainings, function: Function, *arguments: Argument) -> tuple[Any, ...]:
        if self._kernels is None:
            return function(*arguments)
        # Uncompiled steps leave views behind; a kernel is made for, and fastest with, memory without gaps.
        return self._kernels((name, len(trainings.step)), function, *(
            argument.contiguous() if isinstance(argument, Tensor) else trees.map_leaves(Tensor.contiguous, argument)
            for argument in arguments))

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
