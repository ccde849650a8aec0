"""Meta-steps as a user would write them first: one Python loop inside another over the rules of `naive`."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsearch.bench.naive import Rule, digits_loss
from optsearch.meta_training import MetaTraining
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree


@dataclass
class Training:
    """One inner training: params, and the rule's state of each tensor."""

    params: Tree
    states: dict[str, Tree]
    step: int = 0

    def detached(self) -> "Training":
        states = {name: {key: leaf.detach() for key, leaf in state.items()} for name, state in self.states.items()}
        return Training({name: leaf.detach() for name, leaf in self.params.items()}, states, self.step)


@dataclass
class Task:
    """What a loop remembers of one task: its trainings (two for antithetic pairs) and its perturbations."""

    trainings: list[Training]
    perturbation: Tree
    memory: Tree


@dataclass
class Loop:
    """One meta-step a call, task by task; all of them start anew after `horizon` inner steps."""

    rule: Rule
    weights: Tree
    family: TaskFamily
    settings: MetaTraining
    tasks: list[Task] = field(default_factory=list)
    generator: torch.Generator = field(default_factory=torch.Generator)

    @torch.no_grad()
    def __call__(self) -> Tree:
        """The meta-gradient."""
        if not self.tasks or self.tasks[0].trainings[0].step >= self.settings.horizon:
            self.tasks = [self._fresh() for _ in range(self.settings.num_tasks)]
        estimate = self._backprop if self.settings.estimator == "backprop" else self._pair
        found = [estimate(task) for task in self.tasks]
        return {name: torch.stack([each[name] for each in found]).mean(0) for name in self.weights}

    def _fresh(self) -> Task:
        task = self.family.sample(self.generator)
        params = self.family.init(self.generator, task)
        nothing = {name: torch.zeros_like(leaf) for name, leaf in self.weights.items()}
        trainings = [Training(params, {name: {} for name in params}) for _ in range(2)]
        return Task(trainings, self._noise(), nothing)

    def _noise(self) -> Tree:
        return {name: self.settings.sigma * torch.randn(leaf.shape, generator=self.generator)
                for name, leaf in self.weights.items()}

    def _batches(self) -> list[Tree]:
        rows = self.family.data.inner
        draws = torch.randint(len(rows["inputs"]), (self.settings.truncation, self.family.batch_size),
                              generator=self.generator)
        return [{name: leaf[draw] for name, leaf in rows.items()} for draw in draws]

    def _pair(self, task: Task) -> Tree:
        """PES, or NRES, which keeps the perturbation of a training's start."""
        if self.settings.estimator == "pes":
            task.perturbation = self._noise()
        task.memory = {name: (leaf if self.settings.estimator == "pes" else 0) + task.perturbation[name]
                       for name, leaf in task.memory.items()}
        batches, totals = self._batches(), []
        for index, sign in enumerate((1, -1)):
            weights = {name: leaf + sign * task.perturbation[name] for name, leaf in self.weights.items()}
            total, task.trainings[index] = self._unroll(weights, task.trainings[index], batches)
            totals.append(total)
        scale = (totals[0] - totals[1]) / (2 * self.settings.sigma**2)
        return {name: leaf * scale for name, leaf in task.memory.items()}

    def _backprop(self, task: Task) -> Tree:
        with torch.enable_grad():
            weights = {name: leaf.detach().requires_grad_() for name, leaf in self.weights.items()}
            total, training = self._unroll(weights, task.trainings[0], self._batches())
            gradients = torch.autograd.grad(total, list(weights.values()))
        task.trainings[0] = training.detached()
        return dict(zip(weights, gradients, strict=True))

    def _unroll(self, weights: Tree, training: Training, batches: list[Tree]) -> tuple[Tensor, Training]:
        params, states = dict(training.params), {name: dict(state) for name, state in training.states.items()}
        step, total, with_graph = self.rule(weights), torch.zeros(()), torch.is_grad_enabled()
        for index, batch in enumerate(batches):
            progress = torch.tensor((training.step + index) / self.settings.horizon)
            loss, gradients = _gradients(params, batch)
            for name, gradient in gradients.items():
                params[name] = params[name] + step(states[name], gradient, params[name], progress)
            emphasis = 2 * (training.step + index + 1) / self.settings.horizon
            total = total + (loss if with_graph else loss.detach()).clamp(min=1e-6).log() * emphasis
        return total / len(batches), Training(params, states, training.step + len(batches))


def _gradients(params: Tree, batch: Tree) -> tuple[Tensor, Tree]:
    """A loss and its gradients, through which a later way back finds its way where gradients are enabled."""
    with_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = {name: leaf if leaf.requires_grad else leaf.detach().requires_grad_()
                  for name, leaf in params.items()}
        loss = digits_loss(leaves, batch)
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=with_graph)
    return loss, dict(zip(leaves, gradients, strict=True))
