"""All that a page about a study is made from, gathered in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsearch.export import Artifact
from optsearch.report import yardstick
from optsearch.report.headline import Headline, evaluate_file
from optsearch.report.measuring import Asked, tasks_for
from optsearch.search.forecasting.audit import Audit, audit
from optsearch.search.importance import Importances, importances
from optsearch.search.objectives import quality_of
from optsearch.search.snapshot import Snapshot, Trial
from optsearch.search.study import Store, export, summary

WEIGHTS = "best.safetensors"
# Half and double the horizon, as every headline needs.
RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Material:
    """`artifact` is what `optsearch export` gives, None without a complete trial; `headline` is how good it is.

    `counts` are those of `study.summary`. `headline` is None where nothing was measured.
    """

    snapshot: Snapshot
    counts: Mapping[str, Any]
    artifact: Artifact | None
    headline: Headline | None
    audit: Audit
    importances: Importances

    @property
    def name(self) -> str:
        return self.snapshot.name

    @property
    def winner(self) -> Trial | None:
        """The trial that the artifact is of."""
        if self.artifact is None:
            return None
        number = self.artifact.provenance["trial"]
        return next((trial for trial in self.snapshot.trials if trial.last_number == number), self.snapshot.best)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Where files go, and whether and how the best is measured."""

    directory: Path
    is_evaluated: bool = True
    num_seeds: int = Asked.num_seeds
    num_workers: int = 1
    quiet: bool = False


def gather(store: Store, name: str, wanted: Wanted) -> Material:
    """Raises `StudyError` for a study that isn't there.

    Writes the best one's weights, and what `optsearch evaluate` would write, into the folder.
    """
    study, snapshot = store.load(name), Snapshot.of(store, name)
    path = wanted.directory / WEIGHTS
    found = None
    if snapshot.best is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = export(store, name, path)
    quality = quality_of(study, store.records, snapshot.definition.step)
    return Material(snapshot, summary(study), found,
                    _measured(store, name, path, wanted) if found and wanted.is_evaluated else None,
                    audit(quality, store.records), importances(quality))


def _measured(store: Store, name: str, path: Path, wanted: Wanted) -> Headline:
    asked = Asked(path=path, tasks=tasks_for(path), horizon_ratios=RATIOS, num_seeds=wanted.num_seeds, url=store.url)
    headline = evaluate_file(asked, wanted.num_workers, quiet=wanted.quiet)
    yardstick.write(headline, path.parent, f"optsearch report {name}")
    return headline
