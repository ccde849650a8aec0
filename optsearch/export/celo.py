"""Celo's published weights, read into our design of the same name."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsearch.errors import FileError, UsageError
from optsearch.export.artifact import Artifact
from optsearch.optimizers import named_design
from optsearch.trees import Tree, shapes_of

NUM_NUMBERS = 37_089
# Flax keeps arrays as this extension of msgpack: shape, type and bytes.
ARRAY = 1
# Where Celo's inputs of the first layer stand in ours: those a parameter, then of rows, then of columns.
INPUTS = (0, 1, 2, 3, 4, 5, 8, 6, 7, 13, 9, 11, 10, 12)
SOURCE = "Celo (Moudgil et al. 2025, https://arxiv.org/abs/2501.12670)"


def read_celo(path: Path) -> Artifact:
    """The learned optimizer of `theta.state`, a tree of arrays that Flax has written as msgpack.

    Weights that never make a difference are left: a layer of the mix that is overwritten, and the softmax over the one
    rule that there is. Two things differ from what they were trained for: tensors of more than two dimensions, which
    Celo takes as many matrices, are one matrix, and vectors whose gradients are below 1e-4 get smaller ratios.
    Raises `FileError` for a file that is missing or holds anything else.
    """
    arrays = _read(path)
    count = sum(leaf.numel() for leaf in arrays.values())
    try:
        weights = _rule(arrays) | _controller(arrays)
    except (KeyError, RuntimeError) as error:
        raise FileError(f"{path} is not Celo's theta.state: it has {count:,} numbers in {len(arrays)} arrays "
                        f"({error}). Expected those of `algoperf/submissions/celo/theta.state`.") from error
    design = named_design("celo")
    expected = shapes_of(design.init_weights(torch.Generator()))
    if count != NUM_NUMBERS or shapes_of(weights) != expected:
        raise FileError(f"{path} has {count:,} numbers, Celo's theta.state {NUM_NUMBERS:,}; "
                        "expected `algoperf/submissions/celo/theta.state`, not that of another optimizer.")
    return Artifact(design, {name: weights[name] for name in expected},
                    {"source": SOURCE, "license": "MIT", "file": path.name, "tasks": []})


def _rule(arrays: Tree) -> Tree:
    """The 30-4-4-3 MLP; Celo multiplies from the right."""
    first = torch.cat([arrays[f"ff_mod_stack/~/w0__{index}"][0] for index in INPUTS])
    layers = {"hidden0": first, "hidden1": arrays["ff_mod_stack/~/w1"][0], "output": arrays["ff_mod_stack/~/w2"][0]}
    return {f"rule.{name}.{kind}": leaf for index, (name, weight) in enumerate(layers.items())
            for kind, leaf in (("weight", weight.T.contiguous()), ("bias", arrays[f"ff_mod_stack/~/b{index}"][0]))}


def _controller(arrays: Tree) -> Tree:
    """The mix over tensors, the LSTM, and the logarithm of the step size."""
    found: Tree = {}
    for name, theirs in (("controller.mix", "linear_1"), ("controller.own", "linear_2"),
                         ("controls.output", "step_size")):
        found[f"{name}.weight"] = arrays[f"rnn_params/{theirs}/w"].T.contiguous()
        found[f"{name}.bias"] = arrays[f"rnn_params/{theirs}/b"]
    gates, bias = (_reordered(arrays[f"rnn_params/rnn/linear/{kind}"]) for kind in ("w", "b"))
    seen, before = gates.T.contiguous().chunk(2, dim=-1)
    # Haiku's LSTM adds 1 to what its forget gate gets.
    forgetting = torch.cat([torch.full((len(bias) // 4,), float(index == 1)) for index in range(4)])
    return found | {"controller.gates0.weight": seen.contiguous(), "controller.gates0.bias": bias + forgetting,
                    "controller.recurrent0": before.contiguous(),
                    **{f"controller.start_{name}": arrays[f"lstm_init_state/{name}"][..., None]
                       for name in ("hidden", "cell")}}


def _reordered(gates: Tensor) -> Tensor:
    """Input, new, forget, output as input, forget, new, output, in the last dimension."""
    take, write, keep, show = gates.chunk(4, dim=-1)
    return torch.cat([take, keep, write, show], -1)


def _read(path: Path) -> Tree:
    """Arrays by their path in the tree."""
    try:
        import msgpack
    except ImportError as error:
        raise UsageError("reading Celo's file needs msgpack: pip install 'optsearch[celo]'.") from error
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False)
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}.") from error
    except (OSError, ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise FileError(f"{path} can't be read as msgpack ({error}); expected Celo's theta.state.") from error
    return dict(_leaves(tree))


def _array(code: int, data: bytes) -> Any:
    import msgpack

    if code != ARRAY:
        raise ValueError(f"extension {code} is no array of Flax")
    shape, kind, content = msgpack.unpackb(data, raw=True)
    if kind != b"float32" or len(content) != 4 * math.prod(shape):
        raise ValueError(f"an array of {kind!r} and {len(content)} bytes, not of float32 and shape {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(shape)


def _leaves(tree: Any, place: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(place, tree)]
    if not isinstance(tree, dict):
        return []
    return [leaf for name, part in tree.items() for leaf in _leaves(part, f"{place}/{name}" if place else str(name))]
