"""The states of many params as one: a step over all of them is then one update instead of one each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsearch.optimizers.model_graph import ModelGraph
from optsearch.trees import Tree

# One number for the whole bundle; all other leaves end with one entry a parameter, row or column.
STEP = "step"
Group = dict[str, Any]


@dataclass
class Bundle:
    """Params with their joined `state`, and the `parts` of it that stand in the optimizer's, views of the whole.

    `groups` are those of the params, one each; `graph` is that of the model, None where nobody looks at it.
    """

    params: list[Tensor]
    groups: list[Group]
    graph: ModelGraph | None
    state: Tree
    parts: list[Tree]

    @staticmethod
    def of(members: Sequence[tuple[Tensor, Group]], graph: ModelGraph | None, parts: Sequence[Tree]) -> "Bundle":
        """Params on one device, their groups, and their states of equal step."""
        joined = {name: parts[0][name] if name == STEP else torch.cat([part[name] for part in parts], dim=-1)
                  for name in parts[0]}
        return Bundle([param for param, _ in members], [group for _, group in members], graph, joined, list(parts))

    @property
    def clocks(self) -> set[tuple[int, int | None]]:
        """How far the runs of its groups have come, and how long they will be: one entry unless somebody set them."""
        return {(group["step"], group["num_steps"]) for group in self.groups}

    @property
    def weight_decay(self) -> float | Tensor:
        """One number, or where groups differ one a param."""
        decays = [float(group["weight_decay"]) for group in self.groups]
        return decays[0] if len(set(decays)) == 1 else torch.tensor(decays, device=self.params[0].device)

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
