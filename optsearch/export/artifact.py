"""One safetensors file: design, weights, contract number and where it comes from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optsearch import models, trees
from optsearch.errors import DesignError, FileError
from optsearch.export.adapters import Adapters, effective, shared_of
from optsearch.optimizers.optimizer import CONTRACT, LearnedOptimizer
from optsearch.trees import Tree

FORMAT = "optsearch learned optimizer"


def history(provenance: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """What a provenance says, then what it says of what it began with, and so on."""
    while provenance:
        yield provenance
        provenance = provenance.get("initial")


@dataclass(frozen=True)
class Artifact:
    """A learned optimizer as it leaves: plain data, nothing in it is run when it is read.

    `provenance` says where it comes from (study, trial, space, tasks, seeds, versions, scores) as JSON data. With
    `adapters`, `weights` are those that all domains share.
    """

    design: LearnedOptimizer
    weights: Tree
    provenance: dict[str, Any]
    adapters: Adapters | None = None

    @property
    def tree(self) -> Tree:
        """All numbers: the weights, and beside them the adapters'."""
        return self.weights | (self.adapters.to_tree() if self.adapters else {})

    def __repr__(self) -> str:
        source = "trial {trial} of {study}: ".format(**self.provenance) if "trial" in self.provenance else ""
        return f"<Artifact: {source}{self.design!r}>"

    def _repr_html_(self) -> str:
        return self.design._repr_html_()

    def weights_in(self, domain: str) -> Tree:
        """What the design makes its steps with in a domain: the shared weights where it has no adapter."""
        return effective(self.tree, domain)

    def save(self, path: Path) -> None:
        """Raises `FileError` when the place can't be written."""
        metadata = {"format": FORMAT, "contract": str(CONTRACT), "design": json.dumps(self.design.to_config()),
                    "provenance": json.dumps(self.provenance)}
        trees.save(Path(path), self.tree, metadata)

    @staticmethod
    def load(path: Path) -> "Artifact":
        """A file, or one that comes with the package, by its name.

        Raises `FileError` for a file that is missing, damaged, foreign or of a newer contract.
        """
        path = models.resolve(Path(path))
        tree, metadata = trees.load(path)
        if metadata.get("format") != FORMAT:
            raise FileError(f"{path} is no learned optimizer but {metadata.get('format', 'something else')}; "
                            "expected a file made by `optsearch export`.")
        contract = int(metadata["contract"])
        if contract != CONTRACT:
            remedy = "Upgrade optsearch." if contract > CONTRACT else "Export it again from its study."
            raise FileError(f"{path} has contract number {contract}, this optsearch reads {CONTRACT}: "
                            f"the same weights would mean another step. {remedy}")
        try:
            design = LearnedOptimizer.from_config(json.loads(metadata["design"]))
        except DesignError as error:
            raise FileError(f"{path} describes a design that this optsearch does not know: {error}") from error
        expected = trees.shapes_of(design.init_weights(torch.Generator()))
        weights, adapters = shared_of(tree), Adapters.from_tree(tree)
        is_whole = adapters.fit(expected) if adapters else tree.keys() == weights.keys()
        if trees.shapes_of(weights) != expected or not is_whole:
            raise FileError(f"{path} has weights that don't fit its design. Export it again.")
        return Artifact(design, weights, json.loads(metadata["provenance"]), adapters)
