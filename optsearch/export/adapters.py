"""What a learned optimizer does otherwise in each domain, and how it tells which domain a model is of."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from optsearch.errors import UsageError
from optsearch.export.recogniser import Recogniser
from optsearch.trees import Shapes, Tree, prefixed, shapes_of, within

ADAPTERS, RECOGNISER = "adapters", "recogniser"


def shared_of(weights: Tree) -> Tree:
    """The design's own weights, among which may stand `adapters.DOMAIN.NAME` and `recogniser.NAME`."""
    return {name: leaf for name, leaf in weights.items() if not name.startswith((f"{ADAPTERS}.", f"{RECOGNISER}."))}


def offsets_of(weights: Tree) -> dict[str, Tree]:
    """The offsets of each domain that has some."""
    domains = dict.fromkeys(name.split(".")[1] for name in weights if name.startswith(f"{ADAPTERS}."))
    return {domain: within(f"{ADAPTERS}.{domain}", weights) for domain in domains}


def effective(weights: Tree, domain: str) -> Tree:
    """What a design makes its steps with in a domain: its own weights plus the domain's offsets, if it has any."""
    offsets = within(f"{ADAPTERS}.{domain}", weights)
    return {name: leaf + offsets[name] if name in offsets else leaf for name, leaf in shared_of(weights).items()}


@dataclass(frozen=True)
class Adapters:
    """Offsets to some of the weights, by domain, and the recogniser of these domains in their order."""

    offsets: dict[str, Tree]
    recogniser: Recogniser

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.offsets)

    def weights(self, shared: Tree, domain: str) -> Tree:
        """The weights in a domain; raises `UsageError` for one that has no adapter."""
        if domain not in self.offsets:
            raise UsageError(f"there is no adapter for the domain {domain!r}. Domains: {', '.join(self.domains)}; "
                             "or leave it away to have it recognised.")
        return effective(shared | prefixed(f"{ADAPTERS}.{domain}", self.offsets[domain]), domain)

    def recognise(self, params: Sequence[Tensor]) -> str:
        """The likeliest domain of a model by its params, in the order of its layers, at least one with a gradient."""
        seen = [(param, param.grad) for param in params if param.grad is not None and param.numel()]
        return self.domains[self.recogniser.recognise(*zip(*seen, strict=True))]

    def fit(self, shapes: Shapes) -> bool:
        """Whether they belong to a design with weights of these shapes."""
        leaves = [leaf for offsets in self.offsets.values() for leaf in shapes_of(offsets).items()]
        return (set(leaves) <= set(shapes.items()) and self.recogniser.is_whole
                and len(self.recogniser.outer) == len(self.offsets))

    def to_tree(self) -> Tree:
        """As it stands among weights; see `from_tree`."""
        tree = prefixed(RECOGNISER, self.recogniser.to_tree())
        for domain, offsets in self.offsets.items():
            tree |= prefixed(f"{ADAPTERS}.{domain}", offsets)
        return tree

    @staticmethod
    def from_tree(weights: Tree) -> "Adapters | None":
        """Copies of those that stand among weights, for the CPU; None where there are not offsets and a recogniser."""
        copies = {name: leaf.detach().to("cpu", torch.float32, copy=True) for name, leaf in weights.items()}
        offsets, found = offsets_of(copies), within(RECOGNISER, copies)
        if not offsets or found.keys() != {field.name for field in fields(Recogniser)}:
            return None
        return Adapters(offsets, Recogniser(**found))
