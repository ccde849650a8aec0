"""Where the files of studies lie: beside an SQLite database, else in `./studies`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from optuna.artifacts import FileSystemArtifactStore
from sqlalchemy.engine import make_url

from optsearch import trees
from optsearch.export import Artifact
from optsearch.search.storage import is_sqlite


def database_exists(url: str) -> bool:
    """False only for an SQLite file that is not there yet."""
    return not is_sqlite(url) or Path(make_url(url).database or "").exists()


@dataclass(frozen=True)
class Places:
    """The folders that belong to one database."""

    root: Path

    @classmethod
    def of(cls, url: str) -> Self:
        """Named after the database, so that two in one directory stay apart."""
        parts = make_url(url)
        name = Path(parts.database or "optsearch")
        return cls((name.parent if is_sqlite(url) else Path("studies")) / f"{name.stem}-files")

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def artifact_store(self) -> FileSystemArtifactStore:
        """Optuna's artifact store, which the dashboard reads too."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(self.artifacts)

    def study_folder(self, study_id: int) -> Path:
        return self.root / "running" / str(study_id)

    def trial_folder(self, study_id: int, chain: int) -> Path:
        """Checkpoints and drafts of a trial and its retries, until it has finished."""
        return self.study_folder(study_id) / str(chain)

    def keep_initial(self, path: Path) -> str:
        """Keep a copy of an artifact for trials to begin with, and return its name, which says its content.

        Raises `FileError` where it is none.
        """
        found = Artifact.load(path)
        name = f"{trees.checksum(found.weights, {'design': json.dumps(found.design.to_config())})[:16]}.safetensors"
        if not self.initial(name).exists():
            found.save(self.initial(name))
        return name

    def initial(self, name: str) -> Path:
        return self.root / "initial" / name

    def delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
