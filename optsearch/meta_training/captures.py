"""Functions captured once as a graph of a GPU, and replayed: many small operations at the price of one call."""

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsearch import trees
from optsearch.trees import Tree

Function = Callable[[Tree], Tree]
# Computes the results anew, where they stand.
Replay = Callable[[], None]


@dataclass
class Captures:
    """Calls functions of a tree by replaying them, each captured when its key is first seen with these shapes.

    A key stands for one function, which may draw nothing at random, look at no values and copy nothing from the CPU.
    What goes wrong at a capture is one warning, and functions are then called as they are.
    """

    made: dict[Hashable, Function] = field(default_factory=dict)
    has_failed: bool = False

    def __call__(self, key: Hashable, function: Function, tree: Tree) -> Tree:
        if self.has_failed:
            return function(tree)
        key = (key, tuple((name, tuple(leaf.shape), leaf.dtype, leaf.device) for name, leaf in tree.items()))
        if key not in self.made:
            try:
                self.made[key] = _captured(function, tree)
            except Exception as error:
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"no graph could be made of an unroll ({first_line}); it goes on without one, slower.",
                              stacklevel=2)
                self.has_failed = True
                return function(tree)
        return self.made[key](tree)


def is_at_home(leaf: Tensor) -> bool:
    """Whether functions of what is there can be captured."""
    return leaf.is_cuda


def _captured(function: Function, example: Tree) -> Function:
    """`function` on buffers of its own, for trees of the same names and shapes."""
    buffers = trees.map_leaves(lambda leaf: leaf.clone(memory_format=torch.contiguous_format), example)
    replay, results = record(lambda: function(buffers), next(iter(buffers.values())).device)

    def call(tree: Tree) -> Tree:
        for name, buffer in buffers.items():
            buffer.copy_(tree[name])
        replay()
        # The next replay writes where these results stand.
        return trees.map_leaves(torch.clone, results)

    return call


def record(function: Callable[[], Tree], device: torch.device) -> tuple[Replay, Tree]:
    """A replay of `function` and its results, which hold numbers only after one."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # Libraries set themselves up at the first call, and code is compiled: no graph could hold that.
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = function()
    return graph.replay, results
