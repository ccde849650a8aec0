"""A comparison with the tuned baseline, in words, as data and as a picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsearch import evaluation, pictures, progress
from optsearch.evaluation import Comparison
from optsearch.export import Artifact
from optsearch.search.objective import baseline_cache
from optsearch.search.places import database_exists
from optsearch.search.records import Records
from optsearch.search.storage import resolve_url
from optsearch.tasks import families_of

LEARNED, BASELINE = "learned", "AdamW + cosine, tuned"


@dataclass(frozen=True)
class Headline:
    """How good one exported optimizer is; `seconds` is how long it took to get here."""

    path: Path
    provenance: dict[str, Any]
    comparison: Comparison
    seconds: float

    def to_config(self) -> dict[str, Any]:
        return self.comparison.to_config() | {
            "num_trials": self.provenance.get("num_trials"), "num_pruned": self.provenance.get("num_pruned"),
            "seconds": round(self.seconds, 1), "artifact": str(self.path)}

    def draw(self, path: Path) -> None:
        """Mean losses over families and seeds, on test data and in training."""
        reports = self.comparison.families
        panels = {"test loss": "measured", "training loss": "train"}
        pictures.comparison(path, {
            title: {BASELINE: _mean([getattr(report.baseline_runs, curve) for report in reports], self.horizon),
                    LEARNED: _mean([getattr(report.learned_runs, curve) for report in reports], self.horizon)}
            for title, curve in panels.items()})

    @property
    def horizon(self) -> int:
        return self.comparison.families[0].baseline.horizon


def _mean(curves: Sequence[Tensor], horizon: int) -> pictures.Curve:
    mean = torch.stack([curve.mean(1) for curve in curves]).mean(0)
    every = horizon / len(mean)
    return [every * (index + 1) for index in range(len(mean))], mean.tolist()


def evaluate_file(path: Path, tasks: Sequence[str], *, horizon: int | None = None, first_seed: int = 0,
                  url: str | None = None, quiet: bool = False) -> Headline:
    """Compare an exported optimizer on named tasks; tuned baselines come from the database where there is one."""
    started = time.monotonic()
    artifact = Artifact.load(path)
    families = families_of(tasks)
    horizon = horizon or int(artifact.provenance.get("horizon", 200))
    setups = evaluation.report_setups(families, horizon, first_seed)
    torch.set_num_threads(1)
    with progress.meter("comparing", len(setups), quiet=quiet) as meter:
        reports = []
        for index, setup in enumerate(setups):
            reports.append(evaluation.report(artifact.design, artifact.weights, setup, _cache(url)))
            meter.update(index + 1, setup.family.name)
    return Headline(path, artifact.provenance, evaluation.compared(reports), time.monotonic() - started)


def _cache(url: str | None) -> evaluation.Cache:
    if not database_exists(resolve_url(url)):
        return evaluation.uncached
    return baseline_cache(Records(url))


def in_words(headline: Headline) -> list[str]:
    """The result for a person."""
    comparison = headline.comparison
    tasks = ", ".join(report.baseline.family for report in comparison.families)
    edges = [report.baseline.family for report in comparison.families if not report.baseline.is_interior]
    lines = [
        f"{headline.path} against tuned AdamW + cosine, fresh seeds and test data ({tasks}), 95 % intervals:",
        f"  relative loss   {comparison.relative_loss}   below 1 is better",
        f"  speedup         {comparison.speedup}   to AdamW's final test loss",
        f"  train speedup   {comparison.train_speedup}   to AdamW's final training loss",
    ]
    if comparison.num_failed:
        lines.append(f"  {comparison.num_failed} trainings failed (their loss counts as the task's cap)")
    if edges:
        lines.append(f"  AdamW's best learning rate was at the edge of the grid on {', '.join(edges)}")
    return lines


