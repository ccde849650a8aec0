"""A Transformer over the tensors of a model, and over the last steps of each of them."""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.optimizers.rules import init_layer, linear
from optsearch.trees import Tree, prefixed, within

ATTENDS = ("tensors", "steps", "both")


@dataclass(frozen=True)
class Transformer:
    """Pre-norm encoder blocks with GELU, as `torch.nn.TransformerEncoderLayer(norm_first=True)` has them.

    `attends` says what a layer looks at: all `tensors` at this step, or the last `sequence_length` `steps` of each
    tensor alone, this one among them; with `both`, layers 0, 2, ... look at tensors and layers 1, 3, ... at steps. How
    long ago a step was counts as in ALiBi (Press et al. 2022, arxiv.org/abs/2108.12409). Layers keep keys and values of
    past steps, as Transformer-XL does (Dai et al. 2019, arxiv.org/abs/1901.02860), so n layers over steps see back
    n · (sequence_length - 1) steps.
    """

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    attends: str = "both"
    sequence_length: int = 16
    feedforward_ratio: int = 4

    def __post_init__(self) -> None:
        slot = "controller.transformer"
        sizes = (self.hidden_size, self.num_layers, self.num_heads, self.sequence_length, self.feedforward_ratio)
        require(slot, min(sizes) > 0, "hidden_size, num_layers, num_heads, sequence_length and feedforward_ratio must "
                                      f"be at least 1, not {sizes}.")
        require(slot, self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads, not "
                                                              f"{self.hidden_size} with {self.num_heads} heads.")
        require(slot, self.attends in ATTENDS, f"attends must be one of {', '.join(ATTENDS)}, not {self.attends!r}.")
        require(slot, self.attends != "both" or self.num_layers > 1,
                f"to attend to both, num_layers must be at least 2, not {self.num_layers}.")

    @property
    def idle_fields(self) -> tuple[str, ...]:
        """Fields that nothing reads as the others are set."""
        return ("sequence_length",) if self.attends == "tensors" else ()

    def width(self, num_inputs: int) -> int:
        return self.hidden_size

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        weights = init_layer(generator, "embed", num_inputs, self.hidden_size)
        for index in range(self.num_layers):
            weights |= prefixed(f"layer{index}", self._init_layer_weights(generator))
        return weights | self._init_norm("norm")

    def _init_layer_weights(self, generator: torch.Generator) -> Tree:
        width = self.feedforward_ratio * self.hidden_size
        return (self._init_norm("norm1") | init_layer(generator, "attention_in", self.hidden_size, 3 * self.hidden_size)
                | init_layer(generator, "attention_out", self.hidden_size, self.hidden_size)
                | self._init_norm("norm2") | init_layer(generator, "feedforward_in", self.hidden_size, width)
                | init_layer(generator, "feedforward_out", width, self.hidden_size))

    def _init_norm(self, name: str) -> Tree:
        return {f"{name}.weight": torch.ones(self.hidden_size), f"{name}.bias": torch.zeros(self.hidden_size)}

    def _sees_steps(self, index: int) -> bool:
        return self.attends == "steps" or (self.attends == "both" and index % 2 == 1)

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        shape = (*like.shape[:-1], self.sequence_length - 1, self.hidden_size, num_tensors)
        return {f"layer{index}.{name}": like.new_zeros(shape) for index in range(self.num_layers)
                if self._sees_steps(index) for name in ("keys", "values")}

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        hidden, penalties = linear(weights, "embed", values), self._penalties(moment.step)
        after: Tree = {}
        for index in range(self.num_layers):
            name = f"layer{index}"
            layer = within(name, weights)
            queries, keys, contents = self._projected(layer, hidden)
            if self._sees_steps(index):
                past = within(name, state)
                keys, contents = _appended(past["keys"], keys), _appended(past["values"], contents)
                after |= {f"{name}.keys": keys[..., 1:, :, :], f"{name}.values": contents[..., 1:, :, :]}
                seen = self._over_steps(queries, keys, contents, penalties)
            else:
                seen = self._over_tensors(queries, keys, contents)
            hidden = hidden + linear(layer, "attention_out", seen)
            wide = linear(layer, "feedforward_in", _normalized(layer, "norm2", hidden))
            hidden = hidden + linear(layer, "feedforward_out", gelu(wide))
        return _normalized(weights, "norm", hidden), after

    def _projected(self, layer: Tree, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, so short that their products with keys are logits, keys and values `[..., hidden_size, tensors]`."""
        queries, keys, values = linear(layer, "attention_in", _normalized(layer, "norm1", hidden)).chunk(3, -2)
        return queries / sqrt(self.hidden_size // self.num_heads), keys, values

    def _heads(self, values: Tensor) -> Tensor:
        """`[..., hidden_size, tensors]` as `[..., heads, size of a head, tensors]`."""
        return values.unflatten(-2, (self.num_heads, -1))

    def _over_tensors(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # Not the fused attention of torch, which can't be differentiated twice.
        attention = (self._heads(queries).mT @ self._heads(keys)).softmax(-1)
        return (self._heads(values) @ attention.mT).flatten(-3, -2)

    def _over_steps(self, queries: Tensor, keys: Tensor, values: Tensor, penalties: Tensor) -> Tensor:
        """What this step's queries see in `keys` and `values` `[..., sequence_length, hidden_size, tensors]`."""
        logits = (self._heads(queries)[..., None, :, :, :] * self._heads(keys)).sum(-2)
        attention = (logits + penalties).softmax(-3)
        return (attention[..., None, :] * self._heads(values)).sum(-4).flatten(-3, -2)

    def _penalties(self, step: Tensor) -> Tensor:
        """What is added to logits for the age of each step, oldest first: `[..., sequence_length, heads, 1]`."""
        ages = torch.arange(self.sequence_length - 1, -1, -1, dtype=step.dtype, device=step.device)[:, None, None]
        slopes = 2 ** (-8 / self.num_heads * torch.arange(1, self.num_heads + 1, dtype=step.dtype, device=step.device))
        return torch.where(ages < step[..., None, None], -ages * slopes[:, None], -inf)


def _appended(past: Tensor, now: Tensor) -> Tensor:
    return torch.cat([past, now[..., None, :, :]], -3)


def _normalized(weights: Tree, name: str, values: Tensor) -> Tensor:
    """LayerNorm of each column of `[..., f, n]`."""
    scale, shift = weights[f"{name}.weight"][..., None], weights[f"{name}.bias"][..., None]
    return torch.addcmul(shift, layer_norm(values.mT, values.shape[-2:-1]).mT, scale)
