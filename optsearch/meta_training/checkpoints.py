"""Checkpoints of a meta-training: the two newest on disk, each with its checksum."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optsearch import trees
from optsearch.errors import FileError
from optsearch.meta_training.plan import Snapshot
from optsearch.meta_training.points import Point

KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one trial in a folder of their own.

    `fingerprint` names what is being trained; checkpoints of anything else are left alone.
    """

    folder: Path
    fingerprint: str

    def save(self, point: Point, curve: list[dict[str, Any]]) -> None:
        """Write the point's snapshot and the curve up to it, then drop all but the newest two."""
        path = self.folder / f"{point.index:06d}.safetensors"
        trees.save(path, point.snapshot.to_tree(),
                   {"fingerprint": self.fingerprint, "curve": json.dumps(curve)})
        for old in self._paths()[:-KEPT]:
            old.unlink(missing_ok=True)

    def newest(self, device: torch.device | str = "cpu") -> tuple[Snapshot, list[dict[str, Any]]] | None:
        """The newest whole snapshot and its curve; a damaged one is passed over for the one before it."""
        for path in reversed(self._paths()):
            try:
                tree, metadata = trees.load(path)
            except FileError:
                continue
            if metadata.get("fingerprint") == self.fingerprint:
                return Snapshot.from_tree(tree, device), json.loads(metadata["curve"])
        return None

    def delete(self) -> None:
        for path in self._paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.safetensors") if re.fullmatch(r"\d{6}", path.stem))
