"""The states of many params as one: a step over all of them is then one update instead of one each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.trees import Tree

# One number for the whole bundle; all other leaves end with one entry a parameter, row or column.
STEP = "step"


@dataclass
class Bundle:
    """Params with their joined `state`, and the `parts` of it that stand in the optimizer's, views of the whole."""

    params: list[Tensor]
    state: Tree
    parts: list[Tree]

    @staticmethod
    def of(params: list[Tensor], parts: Sequence[Tree]) -> "Bundle":
        """Params on one device, and their states of equal step."""
        joined = {name: parts[0][name] if name == STEP else torch.cat([part[name] for part in parts], dim=-1)
                  for name in parts[0]}
        return Bundle(params, joined, list(parts))

    def holds(self, parts: Sequence[Tree]) -> bool:
        """Whether these are the very parts that this bundle made, untouched by anyone since."""
        return len(parts) == len(self.parts) and all(ours is theirs for ours, theirs in
                                                     zip(parts, self.parts, strict=True))

    def advance(self, state: Tree) -> None:
        """Put the next state in place of the old one."""
        pieces = {name: leaf.split([part[name].shape[-1] for part in self.parts], dim=-1)
                  for name, leaf in state.items() if name != STEP}
        self.parts = [{name: state[STEP] if name == STEP else pieces[name][index] for name in state}
                      for index in range(len(self.parts))]
        self.state = state
