"""Small tables: an MLP on breast cancer, wine and diabetes."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from optsearch.tasks import datasets, networks
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

# Inputs, outputs (one real target for diabetes).
TABLES = {"breast_cancer": (30, 2), "wine": (13, 3), "diabetes": (10, 1)}
BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class TabularMLP(TaskFamily):
    """An MLP with one hidden layer; cross entropy over classes, or squared error of one standardised target."""

    num_inputs: int
    num_outputs: int
    hidden_size: int = 32

    def sample(self, generator: torch.Generator) -> Tree:
        return {}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return networks.init_mlp(generator, (self.num_inputs, self.hidden_size, self.num_outputs))

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        outputs = networks.mlp(params, batch["inputs"])
        if self.num_outputs == 1:
            return (outputs[..., 0] - batch["targets"]).square().mean()
        return networks.cross_entropy(outputs, batch["targets"])


def tabular_mlp() -> tuple[TaskFamily, ...]:
    """Tables (breast cancer, wine, diabetes), MLP with 32 hidden units, batch size 32."""
    return tuple(
        TabularMLP(name=f"tabular_mlp/{name}", domain="tabular", batch_size=BATCH_SIZE, data=datasets.table(name),
                   loss_cap=1.5 * log(num_outputs) if num_outputs > 1 else 3.0,
                   num_inputs=num_inputs, num_outputs=num_outputs)
        for name, (num_inputs, num_outputs) in TABLES.items())
