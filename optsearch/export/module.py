"""The artifact as an `nn.Module` whose call makes optimizers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from optsearch.export.adapters import Adapters, shared_of
from optsearch.export.artifact import Artifact
from optsearch.export.optimizer import LearnedTorchOptimizer
from optsearch.trees import Tree


class OptimizerModule(nn.Module):
    """A learned optimizer that is ready to use: `module(model.parameters())` stands where AdamW stood.

    The weights are buffers, so `to`, `state_dict` and `torch.save` treat it as any module.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.design = artifact.design
        self.provenance = artifact.provenance
        tree = artifact.tree
        self._names = {name.replace(".", "/"): name for name in tree}
        for key, name in self._names.items():
            self.register_buffer(key, tree[name].clone())

    @property
    def weights(self) -> Tree:
        """The meta-learned numbers; with adapters those that all domains share."""
        return shared_of(self._tree)

    @property
    def adapters(self) -> Adapters | None:
        """What it does otherwise in each domain, if anything."""
        return Adapters.from_tree(self._tree)

    @property
    def _tree(self) -> Tree:
        return {self._names[key]: buffer for key, buffer in self.named_buffers()}

    def forward(self, params: Iterable[Any], *, lr: float = 1.0, weight_decay: float = 0.0,
                num_steps: int | None = None, model: nn.Module | None = None,
                compile: bool = False, domain: str | None = None) -> LearnedTorchOptimizer:
        """An optimizer over `model.parameters()`, `model.named_parameters()` or param groups.

        `num_steps` is how many steps the whole run will have. Where it is None, a learned schedule stays where a
        quarter of a run would be: bring your own LR scheduler then. `model` is the module that the params are of, for
        designs that look at how its layers are wired; without it those guess from names. `compile` spends seconds
        before the first step to make all steps of a small model faster; it needs a C++ compiler. `domain` is for
        learned optimizers with adapters; where it is None, they recognise it at the first step.
        """
        return LearnedTorchOptimizer(params, self.design, self.weights, lr=lr, weight_decay=weight_decay,
                                     num_steps=num_steps, model=model, compile=compile,
                                     adapters=self.adapters, domain=domain)

    def extra_repr(self) -> str:
        return f"{self.design.rule}, base={self.design.base}"


def load(path: str | Path) -> OptimizerModule:
    """Read an exported learned optimizer, or one that comes with the package, by its name.

        optimizer = optsearch.load("best.safetensors")(model.parameters(), num_steps=10_000)
        optimizer = optsearch.load("vision")(model.parameters(), num_steps=10_000)

    Raises `FileError` for a file that is missing, damaged, foreign (a pickle, say) or of a newer contract.
    """
    return OptimizerModule(Artifact.load(Path(path)))
