"""A comparison with the tuned baseline, in words, as data and as a picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsearch import evaluation, pictures
from optsearch.evaluation import BASELINE, LEARNED, Result, Standing
from optsearch.evaluation.metrics import interquartile_mean
from optsearch.export import Artifact
from optsearch.export.artifact import history
from optsearch.report.measuring import Asked, horizon_of, measure
from optsearch.tables import Table

TITLES = {LEARNED: "learned", BASELINE: "AdamW + cosine, tuned"}


@dataclass(frozen=True)
class Headline:
    """How good one exported optimizer is at the main horizon; `seconds` is how long it took to get here."""

    path: Path
    artifact: Artifact
    results: tuple[Result, ...]
    horizon: int
    seconds: float

    @property
    def main(self) -> list[Result]:
        """The results at the main horizon."""
        return [result for result in self.results if result.horizon == self.horizon]

    @property
    def seen(self) -> set[str]:
        """Families at the main horizon that it was meta-trained or selected on, as far as is known.

        Those of what it began with count, too.
        """
        known: set[str] = set()
        for source in history(self.artifact.provenance):
            families = source.get("families", {})
            known |= {*families.get("tasks", []), *families.get("validation", [])}
        return known & {result.family for result in self.main}

    @property
    def learned(self) -> Standing:
        return evaluation.standing(self.main, LEARNED)

    def __repr__(self) -> str:
        return f"<Headline: {', '.join(f'{name} {value}' for name, value, _ in _figures(self.learned))}>"

    def _repr_html_(self) -> str:
        """For a notebook: the figures, and the relative loss on each family."""
        title = f"{self.path.name} against tuned AdamW + cosine"
        note = "; ".join(["Fresh seeds and test data, 95 % intervals", *_remarks(self)])
        families = [(result.family, f"{float(interquartile_mean(result.relative_losses(LEARNED))):.3f}",
                     f"{result.baseline.tuned.learning_rate:.3g}") for result in self.main]
        return (Table(title, note, ("", "", ""), _figures(self.learned))._repr_html_()
                + Table("Families", "", ("family", "relative loss", "AdamW's rate"), families)._repr_html_())

    def to_config(self) -> dict[str, Any]:
        provenance, standing = self.artifact.provenance, self.learned
        return standing.to_config() | {
            "horizon": self.horizon, "families": {result.family: _family(result) for result in self.main},
            "num_trials": provenance.get("num_trials"), "num_pruned": provenance.get("num_pruned"),
            "seconds": round(self.seconds, 1), "artifact": str(self.path)}

    @property
    def curves(self) -> dict[str, dict[str, pictures.Curve]]:
        """Mean losses over families and seeds, on test data and in training."""
        return {title: {words: _mean([getattr(result.measurements[name].runs, curve) for result in self.main],
                                     self.horizon) for name, words in TITLES.items()}
                for title, curve in {"test loss": "measured", "training loss": "train"}.items()}

    def draw(self, path: Path) -> None:
        """Its `curves`."""
        pictures.comparison(path, self.curves)


def _family(result: Result) -> dict[str, Any]:
    tuned = result.baseline.tuned
    return {"relative_loss": round(float(interquartile_mean(result.relative_losses(LEARNED))), 4),
            "num_parameters": result.num_parameters, "baseline_lr": tuned.learning_rate,
            "baseline_lr_is_interior": tuned.is_interior, "seconds_ratio": result.seconds_ratios[LEARNED]}


def _mean(curves: Sequence[Tensor], horizon: int) -> pictures.Curve:
    mean = torch.stack([curve.mean(1) for curve in curves]).mean(0)
    every = horizon / len(mean)
    return [every * (index + 1) for index in range(len(mean))], mean.tolist()


def evaluate_file(asked: Asked, num_workers: int = 1, *, quiet: bool = False) -> Headline:
    """Compare an exported optimizer; tuned opponents come from the database where there is one."""
    started = time.monotonic()
    artifact = Artifact.load(asked.path)
    results = measure(asked, num_workers, quiet=quiet)
    return Headline(asked.path, artifact, tuple(results), horizon_of(asked, artifact), time.monotonic() - started)


def _figures(standing: Standing) -> list[tuple[str, str, str]]:
    """What it is, its value, what that means."""
    return [("relative loss", str(standing.relative_loss), "below 1 is better"),
            ("speedup", str(standing.speedup), "to AdamW's final test loss"),
            ("train speedup", str(standing.train_speedup), "to AdamW's final training loss"),
            ("time of a step", f"{standing.seconds_ratio:.2f}", "times that with AdamW, model included, here")]


def in_words(headline: Headline) -> list[str]:
    """The result for a person."""
    tasks = ", ".join(result.family for result in headline.main)
    return [f"{headline.path} against tuned AdamW + cosine, fresh seeds and test data ({tasks}), 95 % intervals:",
            *(f"  {name:<16}{value}   {words}" for name, value, words in _figures(headline.learned)),
            *(f"  {line}" for line in _remarks(headline))]


def _remarks(headline: Headline) -> list[str]:
    standing, lines = headline.learned, []
    edges = [result.family for result in headline.main if not result.baseline.tuned.is_interior]
    if seen := headline.seen:
        lines.append(f"{len(seen)} of {len(headline.main)} families were seen in meta-training or selection, on "
                     "other rows and seeds")
    if standing.num_failed:
        lines.append(f"{standing.num_failed} trainings failed (their loss counts as the task's cap)")
    if edges:
        lines.append(f"AdamW's best learning rate was at the edge of the grid on {', '.join(edges)}")
    return lines
