"""Functions of trees of tensors, as fused kernels for one set of shapes."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optsearch.errors import CompileError
from optsearch.trees import Tree

Argument = Tensor | Tree
# Of tensors and trees, to several of them.
Function = Callable[..., tuple[Any, ...]]
# The names of a tree, or None for a tensor.
Names = list[str] | None
# Multiplying and adding may be one instruction, as in matrix products.
OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}
_is_fusing: ContextVar[bool] = ContextVar("is_fusing", default=False)


def is_fusing() -> bool:
    """Whether what is computed now is recorded to be fused into kernels, where many small operations cost nothing."""
    return _is_fusing.get()


@dataclass
class Kernels:
    """Calls functions compiled, each made when its key is first seen; what can't be compiled is called as it is.

    A key stands for one function and one set of shapes. Where somebody asked for it, a failure is a warning.
    """

    is_asked: bool = False
    made: dict[Hashable, Function] = field(default_factory=dict)
    has_failed: bool = False

    def __call__(self, key: Hashable, function: Function, *arguments: Argument) -> tuple[Any, ...]:
        if key not in self.made:
            try:
                self.made[key] = compiled(function, *arguments)
            except CompileError as error:
                if self.is_asked and not self.has_failed:
                    warnings.warn(f"{error} It goes on uncompiled.", stacklevel=2)
                self.made[key], self.has_failed = function, True
        return self.made[key](*arguments)


def compiled(function: Function, *example: Argument) -> Function:
    """`function`, compiled for arguments like `example`: same names, shapes, types and devices.

    Arguments that lie otherwise in memory than the example's are copied first. All of the function becomes one graph,
    so it may not look at values; no gradients flow through. Takes from seconds to a minute, and about two seconds where
    this user compiled the same before. Raises `CompileError` where it can't be done, above all without a C++ compiler.
    """
    # Takes over a second to import, which who doesn't compile does without.
    from torch._inductor import standalone_compile
    from torch.fx.experimental.proxy_tensor import make_fx

    names = _names(example)
    result_names: list[Names] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        results = function(*_assembled(inputs, names))
        result_names[:] = _names(results)
        return [leaf.contiguous() for leaf in leaves(results)]

    inputs = [leaf.detach() for leaf in leaves(example)]
    strides = [leaf.stride() for leaf in inputs]
    fusing = _is_fusing.set(True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            artifact = standalone_compile(make_fx(flat)(*inputs), [*inputs], dynamic_shapes="from_example_inputs",
                                          options={"config_patches": OPTIONS})
            artifact(*inputs)
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"compiling for {inputs[0].device.type} failed: {first_line}. "
                           "Install a C++ compiler (g++), or go on without compiling.") from error
    finally:
        _is_fusing.reset(fusing)

    def call(*arguments: Argument) -> tuple[Any, ...]:
        given = (leaf if leaf.stride() == stride else torch.empty_strided(
            leaf.shape, stride, dtype=leaf.dtype, device=leaf.device).copy_(leaf)
            for leaf, stride in zip(leaves(arguments, names), strides, strict=True))
        return tuple(_assembled(artifact(*given), result_names))

    return call


def leaves(arguments: Sequence[Argument], names: Sequence[Names] | None = None) -> Iterator[Tensor]:
    """The tensors one by one; those of a tree in its own order, or in that of `names`."""
    for argument, known in zip(arguments, names or _names(arguments), strict=True):
        if isinstance(argument, Tensor):
            yield argument
        else:
            yield from (argument[name] for name in known or ())


def _names(arguments: Sequence[Argument]) -> list[Names]:
    return [None if isinstance(argument, Tensor) else list(argument) for argument in arguments]


def _assembled(tensors: Iterable[Tensor], names: Sequence[Names]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if known is None else {name: next(rest) for name in known} for known in names]
