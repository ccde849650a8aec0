"""Chains of layers with ReLU between them, made for a few parameters at a time by a kernel in C++."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

SOURCE = Path(__file__).with_name("chains.cpp")
FLAGS = ("-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
# As in the kernel, which keeps the units of two layers; it works on so many parameters of a row at once.
MOST_UNITS, TILE = 256, 16


@dataclass(frozen=True)
class Lines:
    """What is added to the first layer's outputs: of `rows` `[..., outputs, r]` and `columns` `[..., outputs, c]`."""

    rows: Tensor
    columns: Tensor


@cache
def kernel() -> Callable[..., None] | None:
    """The compiled kernel, made once a process in a second; None where there is no compiler for it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "chains.so"
        try:
            subprocess.run([os.environ.get("CXX", "g++"), *FLAGS, "-o", made, SOURCE], check=True, capture_output=True)
            found = ctypes.CDLL(str(made)).optsearch_chain
        except (OSError, subprocess.CalledProcessError):
            return None
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
    found.argtypes = [*[pointer] * 7, integer, integer, long, long, long]
    found.restype = None
    return found


def is_for(values: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the kernel can take such values through these layers."""
    leaves = (values, *weights)
    return (all(leaf.device.type == "cpu" and leaf.dtype == torch.float32 for leaf in leaves)
            and max(max(weight.shape[-2:]) for weight in weights) <= MOST_UNITS
            and not (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)) and kernel() is not None)


def chain(values: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, lines: Lines | None = None,
          begins_with_relu: bool = False) -> Tensor:
    """`values` `[..., f, n]` through layers `weights` `[..., outputs, inputs]` and `biases` `[..., outputs]`.

    Gives `[..., outputs, n]`. It may be recorded and compiled; no gradients flow through.
    """
    return torch.ops.optsearch.chain(values, list(weights), list(biases), None if lines is None else lines.rows,
                                     None if lines is None else lines.columns, begins_with_relu)


def _chain(values: Tensor, weights: list[Tensor], biases: list[Tensor], rows: Tensor | None, columns: Tensor | None,
           begins_with_relu: bool) -> Tensor:
    made = kernel()
    if made is None:
        return _plain(values, weights, biases, rows, columns, begins_with_relu)
    *batch, num_inputs, n = values.shape
    count = len(weights)
    sizes = [num_inputs, *(weight.shape[-2] for weight in weights)]
    added: tuple[Tensor | None, Tensor | None] = (None, None)
    if rows is not None and columns is not None:
        # The kernel reads whole tiles.
        added = _alike(rows, batch, 2), pad(_alike(columns, batch, 2).flatten(), (0, TILE))
    leaves = [values.contiguous(), *(_alike(weight, batch, 2) for weight in weights),
              *(_alike(bias, batch, 1) for bias in biases)]
    found = values.new_empty(*batch, sizes[-1], n)
    start, *addresses = [leaf.data_ptr() for leaf in leaves]
    num_rows = 1 if rows is None else rows.shape[-1]
    made(start, found.data_ptr(), _array(ctypes.c_void_p, count)(*addresses[:count]),
         _array(ctypes.c_void_p, count)(*addresses[count:]),
         *(None if leaf is None else leaf.data_ptr() for leaf in added), _array(ctypes.c_int, count + 1)(*sizes),
         count, begins_with_relu, prod(batch), num_rows, n // max(1, num_rows))
    return found


def _alike(leaf: Tensor, batch: list[int], num_own: int) -> Tensor:
    """With these batch dimensions, one after the other in memory."""
    if leaf.dim() != len(batch) + num_own or list(leaf.shape[:-num_own]) != batch:
        leaf = leaf.expand(*batch, *leaf.shape[-num_own:])
    return leaf.contiguous()


@cache
def _array(kind: Any, count: int) -> Any:
    return kind * count


def _plain(values: Tensor, weights: list[Tensor], biases: list[Tensor], rows: Tensor | None, columns: Tensor | None,
           begins_with_relu: bool) -> Tensor:
    values = values.relu() if begins_with_relu else values
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = weight @ (values.relu() if index else values) + bias[..., None]
        if index == 0 and rows is not None and columns is not None:
            values = values + (rows[..., None] + columns[..., None, :]).flatten(-2)
    return values


def _like_chain(values: Tensor, weights: list[Tensor], *_: Any) -> Tensor:
    return values.new_empty(*values.shape[:-2], weights[-1].shape[-2], values.shape[-1])


# An operator of its own: what is compiled may not call anything else.
_LIBRARY = torch.library.Library("optsearch", "FRAGMENT")
_LIBRARY.define("chain(Tensor values, Tensor[] weights, Tensor[] biases, Tensor? rows, Tensor? columns, "
                "bool begins_with_relu) -> Tensor")
_LIBRARY.impl("chain", _chain, "CompositeExplicitAutograd")
torch.library.register_fake("optsearch::chain", _like_chain, lib=_LIBRARY)
