"""A design that begins with the weights of another one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers.labels import Labels, labels_of
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.trees import Tree


@dataclass(frozen=True)
class Inherited:
    """Weights to begin from; `num_taken` of each leaf's entries are another design's."""

    weights: Tree
    num_taken: dict[str, int]

    @property
    def share(self) -> float:
        """The part of all weights that was taken over."""
        return sum(self.num_taken.values()) / sum(leaf.numel() for leaf in self.weights.values())

    def in_words(self) -> str:
        """What was taken over and what was not, in one line."""
        if all(count == self.weights[name].numel() for name, count in self.num_taken.items()):
            return "all weights taken over"
        begun = [f"{name} ({self.weights[name].numel() - count} of {self.weights[name].numel()})"
                 for name, count in self.num_taken.items() if count < self.weights[name].numel()]
        return f"{self.share:.0%} of the weights taken over; begun anew: {', '.join(begun)}"


def inherit(weights: Tree, old: LearnedOptimizer, new: LearnedOptimizer, fresh: Tree) -> Inherited:
    """The weights of the design `old` where they mean the same in `new`, and those of `fresh` elsewhere.

    Inputs and units that the old design did not have are not listened to at first, so that a design which only adds
    some makes the same steps as the old one (Chen et al. 2016, Net2Net, arxiv.org/abs/1511.05641).
    """
    before, after = labels_of(old), labels_of(new)
    found, num_taken = {}, {}
    for name, leaf in fresh.items():
        places = [_shared(*axes) for axes in zip(before[name], after[name], strict=True)] if name in weights else []
        found[name] = _taken(leaf, weights[name], places) if places and all(map(len, places)) else leaf
        num_taken[name] = len(places[0]) * (len(places[1]) if len(places) > 1 else 1) if places else 0
    return Inherited(found, num_taken)


def _taken(fresh: Tensor, known: Tensor, places: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    old, new = ([torch.tensor([pair[side] for pair in axis]) for axis in places] for side in (0, 1))
    found = fresh.clone()
    if found.dim() > 1:
        found[new[0]] = 0.0
    found[torch.meshgrid(*new, indexing="ij")] = known[torch.meshgrid(*old, indexing="ij")].to(found)
    return found


def _shared(old: Labels, new: Labels) -> list[tuple[int, int]]:
    """Places of what both have."""
    known = {label: index for index, label in enumerate(old)}
    return [(known[label], index) for index, label in enumerate(new) if label in known]
