"""Controllers: networks over tensors that see how each one goes, with weights shared by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optsearch.optimizers import rules
from optsearch.optimizers.gnn import GNN
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.optimizers.products import affine
from optsearch.optimizers.transformer import Transformer
from optsearch.trees import Tree


class Controller(Protocol):
    """Turns numbers a tensor into an embedding a tensor; blind to the tensors' order."""

    def width(self, num_inputs: int) -> int:
        """The numbers in the embedding of a tensor that is seen as `num_inputs`."""

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree: ...

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        """The state for parameters `like` `[*batch, n]`; its leaves end with one entry a tensor."""

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        """Embedding `[..., width, tensors]` of `values` `[..., num_inputs, tensors]`, and the next state."""


@dataclass(frozen=True)
class NoController:
    """All tensors alike."""

    def width(self, num_inputs: int) -> int:
        return 0

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return {}

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return {}

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        return values[..., :0, :], {}


@dataclass(frozen=True)
class Features:
    """Features `[..., f, tensors]` as a rule consumes them."""

    values: Tensor

    def project(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        return affine(weight, bias, [self.values])

    def through(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Tensors are too few for a kernel to be worth its call."""


@dataclass(frozen=True)
class History:
    """What was seen at the last `length` steps, embedded by an MLP (Opt2Vec)."""

    length: int = 5
    hidden_size: int = 32
    embedding_size: int = 16

    def __post_init__(self) -> None:
        sizes = (self.length, self.hidden_size, self.embedding_size)
        require("controller.history", min(sizes) > 0,
                f"length, hidden_size and embedding_size must be at least 1, not {sizes}.")

    def width(self, num_inputs: int) -> int:
        return self.embedding_size

    @property
    def _network(self) -> rules.MLP:
        return rules.MLP(self.hidden_size, num_layers=1)

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return self._network.init_weights(generator, num_inputs * self.length, self.embedding_size)

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return {"history": like.new_zeros(*like.shape[:-1], num_inputs * self.length, num_tensors)}

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        history = torch.cat([state["history"][..., values.shape[-2]:, :], values], -2)
        embedding, _ = self._network.update(weights, Features(history), {})
        return embedding.tanh(), {"history": history}


MIXES = ("none", "mean", "max")
LINEAR_MIXES = ("none", "mean")


@dataclass(frozen=True)
class Linear:
    """No network: what is set is linear in what is seen of the tensor and, where `mix` is "mean", of all on average.

    Where settings accumulate and gradients' agreement with the momentum is seen, this is hypergradient descent
    (Baydin et al. 2018, arxiv.org/abs/1703.04782) whose rule is learned. It has few weights, so that evolution
    strategies see what each of them does.
    """

    mix: str = "mean"

    def __post_init__(self) -> None:
        require("controller.linear", self.mix in LINEAR_MIXES,
                f"mix must be one of {', '.join(LINEAR_MIXES)}, not {self.mix!r}.")

    def width(self, num_inputs: int) -> int:
        return num_inputs * (2 if self.mix == "mean" else 1)

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return {}

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return {}

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        return (_with_mean(values) if self.mix == "mean" else values), {}


def _with_mean(values: Tensor) -> Tensor:
    return torch.cat([values, values.mean(-1, keepdim=True).expand_as(values)], -2)


@dataclass(frozen=True)
class Recurrent:
    """A recurrent network a tensor.

    What it sees of the others is nothing, their mean (Metz et al. 2020, arxiv.org/abs/2009.11243), or the maximum over
    a layer of `hidden_size` (VeLO, arxiv.org/abs/2211.09760), as `mix` says. `learns_start` makes the state before
    the first step a weight.
    """

    hidden_size: int = 32
    num_layers: int = 1
    mix: str = "mean"
    learns_start: bool = False

    def __post_init__(self) -> None:
        require("controller", self.mix in MIXES, f"mix must be one of {', '.join(MIXES)}, not {self.mix!r}.")

    def width(self, num_inputs: int) -> int:
        return self.hidden_size

    @property
    def _network(self) -> "rules.LSTM | rules.GRU":
        raise NotImplementedError

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        weights: Tree = {}
        if self.mix == "max":
            for name in ("mix", "own"):
                weights |= rules.init_layer(generator, name, num_inputs, self.hidden_size)
        num_inputs = {"none": num_inputs, "mean": 2 * num_inputs, "max": self.hidden_size}[self.mix]
        weights |= self._network.init_cells(generator, num_inputs)
        if self.learns_start:
            state = self._network.init(torch.zeros(1))
            weights |= {f"start_{name}": leaf for name, leaf in state.items()}
        return weights

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return self._network.init(like.new_zeros(*like.shape[:-1], num_tensors))

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        if self.learns_start:
            is_first = moment.step[..., None, None] <= 1
            state = {name: torch.where(is_first, weights[f"start_{name}"], leaf) for name, leaf in state.items()}
        return self._network.advance(weights, Features(self._mixed(weights, values)), state)

    def _mixed(self, weights: Tree, values: Tensor) -> Tensor:
        if self.mix == "mean":
            return _with_mean(values)
        if self.mix == "max":
            others = rules.linear(weights, "mix", values).relu().amax(-1, keepdim=True)
            return rules.linear(weights, "own", values) + others
        return values


@dataclass(frozen=True)
class LSTM(Recurrent):
    __doc__ = Recurrent.__doc__

    forget_bias: float = 0.0

    @property
    def _network(self) -> rules.LSTM:
        return rules.LSTM(self.hidden_size, self.num_layers, forget_bias=self.forget_bias)


@dataclass(frozen=True)
class GRU(Recurrent):
    __doc__ = Recurrent.__doc__

    @property
    def _network(self) -> rules.GRU:
        return rules.GRU(self.hidden_size, self.num_layers)


CONTROLLERS: dict[str, type[Controller]] = {"none": NoController, "linear": Linear, "history": History, "lstm": LSTM,
                                            "gru": GRU, "transformer": Transformer, "gnn": GNN}
