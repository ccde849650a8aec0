"""Many inner trainings side by side, as one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import vmap

from optsearch.optimizers.model_graph import ModelGraph
from optsearch.optimizers.moment import Observation
from optsearch.seeds import drawing_on
from optsearch.tasks.family import Split, TaskFamily
from optsearch.trees import Tree, prefixed, within

Gradients = Literal["none", "first_order", "second_order"]
# Rows of all trainings that are worked on at once: activations of more would fill the memory.
MAX_ROWS = 4096
# On a GPU that has tens of gigabytes; fewer would leave most of it idle.
MAX_DEVICE_ROWS = 1 << 17
# One for each module that has been trained, for as long as it is there.
_graphs: WeakKeyDictionary[nn.Module, ModelGraph] = WeakKeyDictionary()


class InnerOptimizer(Protocol):
    """What can train: a learned optimizer, or a hand-made one that speaks the same way."""

    def init(self, params: Tree, batch_dims: int = 0) -> Tree: ...

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]: ...


@dataclass(frozen=True)
class Trainings:
    """`n` inner trainings of one family: every leaf begins with `n`; `step` and `horizon` are `[n, 1]`."""

    params: Tree
    state: Tree
    task: Tree
    step: Tensor
    horizon: Tensor

    def to_tree(self) -> Tree:
        return (prefixed("params", self.params) | prefixed("state", self.state) | prefixed("task", self.task)
                | {"step": self.step, "horizon": self.horizon})

    @staticmethod
    def from_tree(tree: Tree) -> "Trainings":
        return Trainings(within("params", tree), within("state", tree), within("task", tree),
                         tree["step"], tree["horizon"])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Trainings":
        """The trainings with `change` applied to every leaf."""
        return Trainings.from_tree({name: change(leaf) for name, leaf in self.to_tree().items()})

    def of(self, part: slice) -> "Trainings":
        """Some of the trainings."""
        return self.map(lambda leaf: leaf[part])

    @staticmethod
    def joined(parts: Sequence["Trainings"]) -> "Trainings":
        """All trainings of all parts, in order."""
        trees = [part.to_tree() for part in parts]
        return parts[0] if len(parts) == 1 else Trainings.from_tree(
            {name: torch.cat([tree[name] for tree in trees]) for name in trees[0]})

    def with_rows(self, rows: Tensor, fresh: "Trainings") -> "Trainings":
        """The trainings with `rows` replaced by all of `fresh`."""
        replacement = fresh.to_tree()
        return Trainings.from_tree({name: leaf.index_copy(0, rows, replacement[name])
                                    for name, leaf in self.to_tree().items()})


def start(optimizer: InnerOptimizer, family: TaskFamily, generators: list[torch.Generator],
          horizons: list[int]) -> Trainings:
    """One fresh training a generator."""
    tasks, params = [], []
    for generator in generators:
        tasks.append(family.sample(generator))
        params.append(family.init(generator, tasks[-1]))
    device = next(iter(family.data.inner.values())).device
    stacked = _stacked(params, device)
    horizon = torch.tensor(horizons, dtype=torch.float32, device=device)[:, None]
    return Trainings(stacked, optimizer.init(stacked, batch_dims=1), _stacked(tasks, device),
                     torch.zeros_like(horizon), horizon)


def _stacked(trees: list[Tree], device: torch.device) -> Tree:
    return {name: torch.stack([tree[name] for tree in trees]).to(device) for name in trees[0]}


def rows_at(family: TaskFamily, split: Split, indices: Tensor) -> Tree:
    """Batches `[n, batch_size, ...]` of a split."""
    return {name: leaf[indices] for name, leaf in family.data.rows(split).items()}


def draw(family: TaskFamily, split: Split, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random row numbers `[*shape, batch_size]` of a split, with replacement."""
    rows = next(iter(family.data.rows(split).values()))
    return _row_numbers(rows, (*shape, family.batch_size), generator)


def draw_meta(family: TaskFamily, shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
    """Random row numbers `[*shape, size]` of the split `meta`, with replacement; all rows where there are no more."""
    rows = next(iter(family.data.meta.values()))
    if len(rows) <= size:
        return torch.arange(len(rows), device=rows.device).expand(*shape, -1)
    return _row_numbers(rows, (*shape, size), generator)


def _row_numbers(rows: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(len(rows), shape, generator=drawing_on(rows.device, generator), device=rows.device)


def graph_of(family: TaskFamily) -> ModelGraph | None:
    """The graph of the family's module, None where it has none; made once a module."""
    if family.module is None:
        return None
    if family.module not in _graphs:
        _graphs[family.module] = ModelGraph.of_module(family.module)
    return _graphs[family.module]


def step(optimizer: InnerOptimizer, family: TaskFamily, weights: Tree, trainings: Trainings, batch: Tree,
         gradients: Gradients = "none") -> tuple[Tensor, Trainings]:
    """One inner step of every training; returns the losses `[n]` before it.

    `gradients` says what a later backward pass finds: nothing, the updates with their gradients taken as given,
    or all of it.
    """
    with torch.enable_grad():
        params = {name: leaf if leaf.requires_grad else leaf.detach().requires_grad_()
                  for name, leaf in trainings.params.items()}
        losses = vmap(family.loss)(params, trainings.task | batch)
        # Each loss depends on its own training's params alone, so the sum's gradient holds all of them.
        found = torch.autograd.grad(losses.sum(), list(params.values()), create_graph=gradients == "second_order",
                                    retain_graph=gradients != "none")
    found = tuple(torch.nan_to_num(gradient) for gradient in found)
    told = losses if gradients == "second_order" else losses.detach()
    observation = Observation(dict(zip(params, found, strict=True)), params, trainings.step / trainings.horizon,
                              loss=told[:, None], num_steps=trainings.horizon, graph=graph_of(family))
    updates, state = optimizer.update(weights, observation, trainings.state)
    moved = {name: leaf + updates[name] for name, leaf in params.items()}
    losses = losses.detach() if gradients == "none" else losses
    return losses, Trainings(moved, state, trainings.task, trainings.step + 1, trainings.horizon)


def losses_on(family: TaskFamily, params: Tree, batch: Tree) -> Tensor:
    """Losses `[n]` of params on batches `[n, batch_size, ...]` with the leaves of their tasks."""
    return vmap(family.loss)(params, batch)


@torch.no_grad()
def losses_on_split(family: TaskFamily, trainings: Trainings, split: Split) -> Tensor:
    """Losses `[n]` on all rows of a split."""
    rows = family.data.rows(split)
    first = next(iter(rows.values()))
    size = max(1, (MAX_ROWS if first.device.type == "cpu" else MAX_DEVICE_ROWS) // len(first))
    return vmap(lambda params, task: family.loss(params, task | rows), chunk_size=size)(
        trainings.params, trainings.task)


def capped(losses: Tensor, cap: float) -> Tensor:
    """Losses no higher than `cap`, which non-finite ones count as."""
    return torch.nan_to_num(losses, nan=cap).clamp(max=cap)
