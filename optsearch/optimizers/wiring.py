"""How the layers of a model are wired: as its dataflow shows, or as names let one guess."""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import fx, nn

# A layer's name, and how many layers lie before this use of it.
Use = tuple[str, int]


def layer_of(name: str) -> str:
    """The module that a name leads to, and the number at its end: `w1` and `b1` are of one layer."""
    prefix, _, leaf = name.rpartition(".")
    number = re.search(r"\d+$", leaf)
    return prefix if number is None else f"{prefix}#{number[0]}"


def natural(name: str) -> list[str | int]:
    """A key that sorts `2` before `10`."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


@dataclass(frozen=True)
class Wiring:
    """The tensors of each layer, pairs of layers of which the first feeds the second, and layers before each."""

    layers: dict[str, list[str]]
    feeds: frozenset[tuple[str, str]]
    levels: dict[str, int]

    @staticmethod
    def of_names(names: Iterable[str]) -> "Wiring":
        """A chain of layers in the natural order of their names."""
        layers: dict[str, list[str]] = {}
        for name in sorted(names, key=natural):
            layers.setdefault(layer_of(name), []).append(name)
        return _chain({layer: layers[layer] for layer in sorted(layers, key=natural)})

    @staticmethod
    def of_module(module: nn.Module) -> "Wiring":
        """What `torch.fx` sees flow; a chain in the order of registration where it can't follow the module."""
        first_names = {id(param): name for name, param in module.named_parameters()}
        layers: dict[str, list[str]] = {}
        for alias, param in module.named_parameters(remove_duplicate=False):
            tensors = layers.setdefault(layer_of(alias), [])
            if first_names[id(param)] not in tensors:
                tensors.append(first_names[id(param)])
        graph = _traced(module)
        if graph is None:
            return _chain(layers)
        flow = _Dataflow(module)
        for node in graph.nodes:
            flow.visit(node)
        return Wiring(layers, frozenset(flow.feeds), flow.levels)


def _chain(layers: dict[str, list[str]]) -> Wiring:
    feeds = frozenset(pairwise(layers))
    return Wiring(layers, feeds, {layer: level for level, layer in enumerate(layers)})


def _traced(module: nn.Module) -> fx.Graph | None:
    """Its operations, with arguments that have a default left at it."""
    # What a module may do when it is called, draw random numbers above all, should leave no trace here.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            arguments = inspect.signature(module.forward).parameters.values()
            defaults = {argument.name: argument.default for argument in arguments
                        if argument.default is not argument.empty}
            return fx.Tracer().trace(module, defaults)
        # A module is somebody's own code: there is no end to what may go wrong in it.
        except Exception:
            return None


class _Dataflow:
    """Walks operations in order, and keeps the layers that the data of each has last been through."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._params = dict(module.named_parameters(remove_duplicate=False))
        self._last: dict[fx.Node, set[Use]] = {}
        # Layers of what is made of parameters alone: they count where data first meets them.
        self._waiting: dict[fx.Node, list[str]] = {}
        self.feeds: set[tuple[str, str]] = set()
        self.levels: dict[str, int] = {}

    def visit(self, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        waiting = [layer for each in inputs for layer in self._waiting.get(each, [])]
        if node.op == "get_attr":
            self._waiting[node] = [layer_of(str(node.target))] if node.target in self._params else []
        elif _is_size(node):
            self._waiting[node] = []
        elif node.op != "call_module" and inputs and all(each in self._waiting for each in inputs):
            self._waiting[node] = waiting
        else:
            before = {use for each in inputs for use in self._last.get(each, ())}
            here = list(dict.fromkeys(waiting + self._layers_below(node)))
            self._last[node] = {self._passed(before, here)} if here else before

    def _layers_below(self, node: fx.Node) -> list[str]:
        """Those of a module that is one operation, in the order of registration."""
        if node.op != "call_module":
            return []
        below = self._module.get_submodule(str(node.target)).named_parameters(remove_duplicate=False)
        return [layer_of(f"{node.target}.{name}") for name, _ in below]

    def _passed(self, before: set[Use], here: Sequence[str]) -> Use:
        """The last of the layers `here`, which data from `before` goes through one by one."""
        self.feeds |= {(layer, here[0]) for layer, _ in before if layer != here[0]}
        self.feeds |= set(pairwise(here))
        level = max((level + (layer != here[0]) for layer, level in before), default=0)
        for index, layer in enumerate(here):
            self.levels[layer] = min(self.levels.get(layer, level + index), level + index)
        return here[-1], level + len(here) - 1


def _is_size(node: fx.Node) -> bool:
    """Whether it says how large data is, not what is in it."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    return node.target is getattr and node.args[1] in ("shape", "device", "dtype")
