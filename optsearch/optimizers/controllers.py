"""Controllers: what decides, for each tensor, how fast it learns and what its parameters' rule is told."""

from dataclasses import dataclass
from math import log
from typing import Protocol

import torch
from torch import Tensor

from optsearch.optimizers import rules
from optsearch.optimizers.part import require
from optsearch.optimizers.tensors import AVERAGE_GROUPS, TENSOR_GROUPS, WIDTHS, Scene
from optsearch.trees import Tree, prefixed, within


@dataclass(frozen=True)
class Controls:
    """`log_rates` `[..., tensors]` add to the log learning rate, `context` `[..., c, tensors]` goes to the rule."""

    log_rates: Tensor
    context: Tensor


class Controller(Protocol):
    """A network over tensors with shared weights, blind to their order; `context_size` is 0 where rules hear nothing.

    With fresh weights it controls nothing: log rates and context are 0.
    """

    @property
    def context_size(self) -> int: ...

    def init_weights(self, generator: torch.Generator, num_momenta: int) -> Tree: ...

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        """The state; its leaves end with one entry a tensor."""

    def update(self, weights: Tree, scene: Scene, state: Tree) -> tuple[Controls | None, Tree]:
        """What to do, None where there is nothing to do ever, and the next state."""

    def needs_averages(self) -> bool:
        """Whether it reads the running averages of the parameters' features."""


@dataclass(frozen=True)
class NoController:
    """All tensors alike."""

    @property
    def context_size(self) -> int:
        return 0

    def init_weights(self, generator: torch.Generator, num_momenta: int) -> Tree:
        return {}

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return {}

    def update(self, weights: Tree, scene: Scene, state: Tree) -> tuple[Controls | None, Tree]:
        return None, {}

    def needs_averages(self) -> bool:
        return False


@dataclass(frozen=True)
class Features:
    """Features `[..., f, tensors]` as a rule consumes them."""

    values: Tensor

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        return (weight @ self.values).add_(bias[..., None])


@dataclass(frozen=True)
class LSTM:
    """An LSTM a tensor; it also sees the mean of all tensors (as in Metz et al. 2020, arxiv.org/abs/2009.11243).

    `gain` is how strongly an output of 1 moves the log learning rate.
    """

    groups: tuple[str, ...] = ("gradient", "parameter", "momentum", "second_moment", "size", "loss", "progress")
    hidden_size: int = 32
    num_layers: int = 1
    context_size: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        _require_groups("controller.lstm", self.groups)
        require("controller.lstm", self.context_size >= 0, f"context_size must be at least 0, not {self.context_size}.")

    @property
    def _network(self) -> rules.LSTM:
        return rules.LSTM(self.hidden_size, self.num_layers)

    def init_weights(self, generator: torch.Generator, num_momenta: int) -> Tree:
        width = sum(num_momenta if name == "momentum" else WIDTHS.get(name, 1) for name in self.groups)
        return _silenced(self._network.init_weights(generator, 2 * width, 1 + self.context_size))

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return self._network.init(like.new_zeros(*like.shape[:-1], num_tensors))

    def update(self, weights: Tree, scene: Scene, state: Tree) -> tuple[Controls | None, Tree]:
        each = torch.cat([TENSOR_GROUPS[name](scene) for name in self.groups], -2)
        together = each.mean(-1, keepdim=True).expand_as(each)
        outputs, state = self._network.update(weights, Features(torch.cat([each, together], -2)), state)
        return Controls(self.gain * outputs[..., 0, :], outputs[..., 1:, :]), state

    def needs_averages(self) -> bool:
        return any(name in AVERAGE_GROUPS for name in self.groups)


@dataclass(frozen=True)
class History:
    """The last `length` losses, gradient norms and learning rates, embedded by an MLP (Opt2Vec).

    `gain` is how strongly an output of 1 moves the log learning rate.
    """

    length: int = 5
    hidden_size: int = 32
    embedding_size: int = 16
    context_size: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        sizes = (self.length, self.hidden_size, self.embedding_size)
        require("controller.history", min(sizes) > 0 and self.context_size >= 0,
                f"length, hidden_size and embedding_size must be at least 1 and context_size at least 0, not {sizes} "
                f"and {self.context_size}.")

    @property
    def _network(self) -> rules.MLP:
        return rules.MLP(self.hidden_size, num_layers=1)

    def init_weights(self, generator: torch.Generator, num_momenta: int) -> Tree:
        embed = self._network.init_weights(generator, 3 * self.length, self.embedding_size)
        control = rules.init_layer(generator, "output", self.embedding_size, 1 + self.context_size)
        return prefixed("embed", embed) | _silenced(control)

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        return {"history": like.new_zeros(*like.shape[:-1], 3 * self.length, num_tensors),
                "log_rates": like.new_zeros(*like.shape[:-1], 1, num_tensors)}

    def update(self, weights: Tree, scene: Scene, state: Tree) -> tuple[Controls | None, Tree]:
        loss = torch.ones_like(scene.step) if scene.loss is None else scene.loss
        now = torch.cat([scene.for_all(_log(loss)), TENSOR_GROUPS["gradient"](scene), state["log_rates"]], -2)
        history = torch.cat([state["history"][..., 3:, :], now], -2)
        embedding, _ = self._network.update(within("embed", weights), Features(history), {})
        outputs = rules.linear(weights, "output", embedding.tanh())
        log_rates = self.gain * outputs[..., :1, :]
        return (Controls(log_rates[..., 0, :], outputs[..., 1:, :]), {"history": history, "log_rates": log_rates})

    def needs_averages(self) -> bool:
        return False


def _log(loss: Tensor) -> Tensor:
    return torch.nan_to_num(loss).clamp(1e-6, 1e6).log() / log(10)


def _silenced(weights: Tree) -> Tree:
    return {name: torch.zeros_like(leaf) if name.startswith("output.") else leaf for name, leaf in weights.items()}


def _require_groups(slot: str, groups: tuple[str, ...]) -> None:
    for name in groups:
        require(slot, name in TENSOR_GROUPS,
                f"there is no group `{name}`. Groups: {', '.join(sorted(TENSOR_GROUPS))}.")
    require(slot, len(groups) > 0, "at least one group of tensor features is needed.")


CONTROLLERS: dict[str, type[Controller]] = {"none": NoController, "history": History, "lstm": LSTM}
