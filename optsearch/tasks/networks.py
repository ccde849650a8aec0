"""Small networks as plain functions of a tree of params, with torch's own default initialisation."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.trees import Tree


def init_layer(generator: torch.Generator, name: str, shape: Sequence[int]) -> Tree:
    """Weight `shape` and bias `shape[0]`, uniform in ±1/√fan-in as in `nn.Linear` and `nn.Conv2d`."""
    bound = 1 / sqrt(prod(shape[1:]))
    return {f"{name}.{leaf}": (2 * torch.rand(tuple(size), generator=generator) - 1) * bound
            for leaf, size in (("weight", shape), ("bias", shape[:1]))}


def init_mlp(generator: torch.Generator, widths: Sequence[int]) -> Tree:
    """Layers `0`, `1`, ... of an MLP with these widths from input to output."""
    params: Tree = {}
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        params |= init_layer(generator, str(index), (fan_out, fan_in))
    return params


def mlp(params: Tree, inputs: Tensor) -> Tensor:
    """ReLU network over the last dimension of `inputs`."""
    num_layers = len(params) // 2
    hidden = inputs
    for index in range(num_layers):
        hidden = functional.linear(hidden, params[f"{index}.weight"], params[f"{index}.bias"])
        if index < num_layers - 1:
            hidden = hidden.relu()
    return hidden


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy `()` of `logits` `[rows, classes]`."""
    return -logits.log_softmax(-1).gather(-1, labels[..., None]).mean()
