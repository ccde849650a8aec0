"""The tensors of a model as a graph: what layer each belongs to, and which layer feeds which."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor, nn

from optsearch.optimizers import constants
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.wiring import Wiring, layer_of, natural

if TYPE_CHECKING:
    import networkx

KINDS = ("linear", "conv", "attention", "embedding", "norm", "bias", "other")
# "layer" joins the tensors of one layer, "feeds" leads from a layer's largest tensor to that of the next.
RELATIONS = ("layer", "feeds")
# What a tensor can hear from its neighbours through: its layer, those that feed its own, those that its own feeds.
DIRECTIONS = ("layer", "forward", "backward")
UNKNOWN_KIND, UNKNOWN_DEPTH = "other", 0.5
KINDS_OF_MODULES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Linear, nn.Bilinear), "linear"), ((nn.modules.conv._ConvNd,), "conv"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase), "norm"))
EMBEDDING_NAMES = re.compile(r"embed|(?<![a-z])emb|wte|wpe")
ATTENTION_NAMES = re.compile(r"attn|attention|in_proj|out_proj|(?<![a-z])(query|key|value)(?![a-z])")
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """Tensors by name: their kind (one of `KINDS`), their depth in 0..1, and edges (from, to, one of `RELATIONS`).

    Equal only to itself, so that it can be a key; nobody may change what its mappings hold.
    """

    kinds: Mapping[str, str]
    depths: Mapping[str, float]
    edges: tuple[tuple[str, str, str], ...]

    @staticmethod
    def of_module(module: nn.Module) -> "ModelGraph":
        """The graph of a module's parameters, by their names in `named_parameters`.

        Layers are wired as `torch.fx` sees data flow. Modules that it can't trace, whose control flow depends on data
        say, count as a chain in the order of registration. A tensor that layers share has the edges of all of them.
        """
        shapes = {name: tuple(param.shape) for name, param in module.named_parameters()}
        wiring, ranks = Wiring.of_module(module), _layer_ranks(shapes)
        modules = dict(module.named_modules(remove_duplicate=False))
        kinds = {name: _kind_in(modules, name, _guessed(name, len(shape), ranks[layer_of(name)]))
                 for name, shape in shapes.items()}
        return _assembled(wiring, shapes, kinds)

    @staticmethod
    def of_names(shapes: Shapes) -> "ModelGraph":
        """What names and shapes let one guess, in whatever order: a chain of layers; equal shapes give one object."""
        return _of_names(shapes)

    @staticmethod
    def unconnected(shapes: Shapes) -> "ModelGraph":
        """What shapes alone let one guess: no edges; equal shapes give the same object."""
        return _unconnected(shapes)

    def restricted(self, names: Mapping[str, str]) -> "ModelGraph":
        """The graph of some tensors under new names; `names` leads from those to the old ones.

        Equal names give the same object. Names that the graph lacks are left out.
        """
        return _restricted(self, tuple(names.items()))

    def kind(self, name: str) -> str:
        """"other" for tensors that the graph doesn't know."""
        return self.kinds.get(name, UNKNOWN_KIND)

    def depth(self, name: str) -> float:
        """0.5 for tensors that the graph doesn't know."""
        return self.depths.get(name, UNKNOWN_DEPTH)

    def adjacency(self, layout: Layout, like: Tensor) -> Tensor:
        """Shares `[3, tensors, tensors]` of `DIRECTIONS`: `[d, i, j]` is what tensor j has in the mean that i hears.

        Rows sum to 1, or to 0 for tensors without neighbours. In the order of `layout`, as type and device of `like`.
        """
        # Kept as an array and copied anew: a tensor that was made inside a transform of torch.func can't outlive it.
        return (_kept_adjacency(self, layout, like.dtype, like.device) if constants.is_kept(like)
                else like.new_tensor(_adjacency(self, layout)))

    def to_networkx(self) -> "networkx.MultiDiGraph[str]":
        """Nodes have `kind` and `depth`, edges `relation`, which is also their key; "layer" goes both ways."""
        # Imported here so that loading optsearch stays fast.
        import networkx
        graph = networkx.MultiDiGraph()
        graph.add_nodes_from((name, {"kind": self.kind(name), "depth": self.depth(name)}) for name in self.kinds)
        for start, end, relation in self.edges:
            graph.add_edge(start, end, key=relation, relation=relation)
            if relation == "layer":
                graph.add_edge(end, start, key=relation, relation=relation)
        return graph


@lru_cache(maxsize=256)
def _of_names(shapes: Shapes) -> ModelGraph:
    by_name = dict(shapes)
    ranks = _layer_ranks(by_name)
    kinds = {name: _guessed(name, len(shape), ranks[layer_of(name)]) for name, shape in shapes}
    return _assembled(Wiring.of_names(by_name), by_name, kinds)


@lru_cache(maxsize=256)
def _unconnected(shapes: Shapes) -> ModelGraph:
    kinds = {name: "bias" if len(shape) < 2 else "linear" if len(shape) == 2 else "conv" for name, shape in shapes}
    return ModelGraph(kinds, dict.fromkeys(kinds, UNKNOWN_DEPTH), ())


@lru_cache(maxsize=256)
def _restricted(graph: ModelGraph, names: tuple[tuple[str, str], ...]) -> ModelGraph:
    names = tuple((new, old) for new, old in names if old in graph.kinds)
    news: dict[str, list[str]] = {}
    for new, old in names:
        news.setdefault(old, []).append(new)
    edges = tuple((start, end, relation) for first, second, relation in graph.edges
                  for start in news.get(first, ()) for end in news.get(second, ()))
    return ModelGraph({new: graph.kind(old) for new, old in names}, {new: graph.depth(old) for new, old in names},
                      edges)


@lru_cache(maxsize=16)
def _adjacency(graph: ModelGraph, layout: Layout) -> "numpy.typing.NDArray[numpy.float64]":
    places = {name: index for index, (name, _) in enumerate(layout.shapes)}
    joined = numpy.zeros((len(DIRECTIONS), len(places), len(places)))
    for start, end, relation in graph.edges:
        if start in places and end in places:
            there, back = (0, 0) if relation == "layer" else (1, 2)
            joined[there, places[end], places[start]] = joined[back, places[start], places[end]] = 1.0
    return joined / joined.sum(-1, keepdims=True).clip(min=1.0)


@lru_cache(maxsize=64)
def _kept_adjacency(graph: ModelGraph, layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(_adjacency(graph, layout), dtype=dtype, device=device)


def _layer_ranks(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The largest number of dimensions in each layer."""
    ranks: dict[str, int] = {}
    for name, shape in shapes.items():
        ranks[layer_of(name)] = max(len(shape), ranks.get(layer_of(name), 0))
    return ranks


def _guessed(name: str, rank: int, layer_rank: int) -> str:
    """A tensor's kind by its name, and by the ranks of itself and of the largest tensor of its layer."""
    if rank < 2:
        return "bias" if layer_rank > 1 or name.endswith("bias") else "norm"
    if rank > 2:
        return "conv"
    if EMBEDDING_NAMES.search(name.lower()):
        return "embedding"
    return "attention" if ATTENTION_NAMES.search(name.lower()) else "linear"


def _kind_in(modules: Mapping[str, nn.Module], name: str, guess: str) -> str:
    """A tensor's kind by the modules that it is in."""
    if name.endswith("bias"):
        return "bias"
    path = name.split(".")[:-1]
    if any(isinstance(modules[".".join(path[:length])], nn.MultiheadAttention) for length in range(len(path) + 1)):
        return "attention"
    owner = modules[".".join(path)]
    kind = next((kind for types, kind in KINDS_OF_MODULES if isinstance(owner, types)), guess)
    # Projections of somebody's own attention are linear layers by type.
    return "attention" if kind == "linear" and ATTENTION_NAMES.search(name.lower()) else kind


def _assembled(wiring: Wiring, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str]) -> ModelGraph:
    def smallness(name: str) -> tuple[int, bool, list[str | int]]:
        return -len(shapes[name]), kinds[name] == "bias", natural(name)

    largest = {layer: min(names, key=smallness) for layer, names in wiring.layers.items()}
    edges = {(first, second, "layer") for names in wiring.layers.values()
             for first, second in combinations(sorted(names), 2)}
    edges |= {(largest[start], largest[end], "feeds") for start, end in wiring.feeds
              if largest[start] != largest[end]}
    last = max(1, *wiring.levels.values()) if wiring.levels else 1
    depths: dict[str, float] = {}
    for layer, level in wiring.levels.items():
        for name in wiring.layers[layer]:
            depths[name] = min(level / last, depths.get(name, 1.0))
    return ModelGraph(kinds, depths, tuple(sorted(edges)))
