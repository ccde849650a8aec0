"""Where a learned optimizer stands among its opponents: tables, a performance profile, a page."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from optsearch import evaluation, pictures
from optsearch.errors import FileError
from optsearch.evaluation import BASELINE, LEARNED, OPPONENTS, TUNED_LEARNED, Result
from optsearch.evaluation.metrics import interquartile_mean
from optsearch.report.headline import Headline
from optsearch.tables import Table

TITLES = {LEARNED: "learned", TUNED_LEARNED: "learned, learning rate tuned"} | {
    name: opponent.name for name, opponent in OPPONENTS.items()}
RATIOS = tuple(float(ratio) for ratio in torch.logspace(-1, 1, 81, base=4.0))
NAMES = ("evaluation.json", "evaluation.md", "profile.png")


def tables(headline: Headline) -> list[Table]:
    """Everyone at the horizon, family by family, and the learned one at other horizons."""
    found = [_everyone(headline), *_duels(headline), _families(headline)]
    return [*found, _horizons(headline)] if len({result.horizon for result in headline.results}) > 1 else found


def write(headline: Headline, directory: Path, command: str) -> list[Path]:
    """`evaluation.json`, `evaluation.md` and `profile.png`; returns what was written."""
    figures, page, picture = (directory / name for name in NAMES)
    lines = [f"# {headline.path.stem}, evaluated", "", *_facts(headline), "", f"    {command}", "",
             f"![Performance profile]({picture.name})"]
    for table in tables(headline):
        lines += ["", *table.markdown()]
    content = headline.to_config() | {"standings": standings(headline), "duels": duels(headline),
                                      "results": [result.to_config() for result in headline.results]}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        page.write_text("\n".join(lines) + "\n")
        pictures.profile(picture, {title(name): (RATIOS, evaluation.profile(headline.main, name, RATIOS))
                                   for name in _names(headline.main)})
    except OSError as error:
        raise FileError(f"{directory} could not be written to: {error.strerror or error}. "
                        "Choose another folder with --output.") from error
    return [figures, page, picture]


def standings(headline: Headline) -> dict[str, Any]:
    """Of every contender at the horizon."""
    return {name: evaluation.standing(headline.main, name).to_config() for name in _names(headline.main)}


def duels(headline: Headline) -> dict[str, Any]:
    """The learned one over every other contender at the horizon."""
    return {name: evaluation.duel(headline.main, LEARNED, name).to_config() for name in _others(headline)}


def _others(headline: Headline) -> list[str]:
    return [name for name in _names(headline.main) if name not in (LEARNED, TUNED_LEARNED)]


def title(name: str) -> str:
    """A contender's name for people."""
    return TITLES.get(name, name)


def _names(results: Sequence[Result]) -> list[str]:
    """The learned ones, the baseline, all others."""
    everyone = dict.fromkeys(name for result in results for name in result.measurements)
    return sorted(everyone, key=lambda name: (name not in (LEARNED, TUNED_LEARNED), name != BASELINE))


def _facts(headline: Headline) -> Iterator[str]:
    source = headline.artifact.provenance
    first = headline.main[0].measurements[LEARNED]
    seen = headline.seen
    yield (f"{headline.path.name}: {len(headline.main)} families, {len(first.finals)} inner seeds each, "
           f"{headline.horizon} inner steps, test rows. Losses are relative to AdamW + cosine with warm-up, its "
           "learning rate tuned on each family at the same horizon.")
    parts = source.get("averaged", [])
    if parts:
        yield f"\nThe mean of the weights of {len(parts)} of one design:"
    yield from (f"\n{_learned_on(each)}" for each in parts or [source] if each.get("families"))
    yield (f"\nOf these families, {len(seen)} were seen in meta-training or selection"
           f"{': ' + ', '.join(sorted(seen)) if seen else ''}. Made in {headline.seconds:,.0f} s by")


def _learned_on(source: dict[str, Any]) -> str:
    weights = source.get("weights") or [1.0] * len(source["tasks"])
    learned_on = ", ".join(f"{name} ({weight:.3g})" for name, weight in zip(source["tasks"], weights, strict=True))
    is_chosen = (source.get("num_trials") or 0) > 1
    return (f"Meta-trained for {source['inner_steps']:,} inner steps on {learned_on}; selected on "
            f"{', '.join(source['families']['validation']) or 'other rows and seeds of the same tasks'}"
            f"{', the best of ' + str(source['num_trials']) + ' trials' if is_chosen else ''}.")


def _everyone(headline: Headline) -> Table:
    rows = []
    for name in _names(headline.main):
        found = evaluation.standing(headline.main, name)
        rows.append((title(name), str(found.relative_loss), str(found.speedup), str(found.train_speedup),
                     f"{found.seconds_ratio:.2f}", f"{found.num_tried}",
                     f"{found.num_failed} of {found.num_trainings}", f"{found.num_at_edge}"))
    return Table(
        f"All contenders, {headline.horizon} inner steps",
        "Interquartile means over families and seeds with 95 % bootstrap intervals. Time: of a training step, model "
        "included, relative to AdamW's, median over families, many trainings side by side. Tried: learning rates tried "
        "on each family. Edge: families whose best learning rate was at the edge of the grid.",
        ("optimizer", "relative loss", "speedup", "train speedup", "time", "tried", "failed", "edge"), rows)


def _duels(headline: Headline) -> list[Table]:
    """One table, where there is anybody beside the baseline."""
    rows = []
    for name in _others(headline):
        found = evaluation.duel(headline.main, LEARNED, name)
        rows.append((title(name), str(found.relative_loss), str(found.speedup), str(found.train_speedup),
                     f"{found.num_better} of {found.num_families}", f"{found.worst:.3f} on {found.worst_family}",
                     f"{found.seconds_ratio:.2f}"))
    return [Table("The learned optimizer over each other one",
                  "Its final losses ÷ theirs, and how much sooner it reaches theirs, seed by seed. Better: families on "
                  "which its relative loss is below 1. Worst: the family on which it is highest.",
                  ("over", "relative loss", "speedup", "train speedup", "better", "worst", "time"), rows)
            ] if len(rows) > 1 else []


def _families(headline: Headline) -> Table:
    others = [name for name in _others(headline) if name != BASELINE]
    rows = []
    for result in headline.main:
        learned = result.measurements[LEARNED]
        losses = {name: float(interquartile_mean(result.relative_losses(name))) for name in others}
        best = min(losses, key=losses.__getitem__) if losses else None
        mark = " (seen)" if result.family in headline.seen else ""
        rows.append((
            result.family + mark, f"{result.num_parameters:,}", f"{result.baseline.tuned.learning_rate:.3g}",
            f"{float(interquartile_mean(result.baseline.finals)):.4g}",
            f"{float(interquartile_mean(result.relative_losses(LEARNED))):.3f}",
            f"{float(interquartile_mean(result.speedups(LEARNED))):.2f}", f"{result.seconds_ratios[LEARNED]:.2f}",
            f"{learned.num_failed} of {len(learned.finals)}",
            *([f"{title(best)} {losses[best]:.3f}"] if best else [])))
    return Table("Family by family", "Relative loss, speedup and time of the learned optimizer; the opponent with the "
                 "lowest relative loss beside AdamW + cosine." if others else "Of the learned optimizer.",
                 ("family", "parameters", "AdamW's rate", "AdamW's loss", "relative loss", "speedup", "time", "failed",
                  *(["best opponent"] if others else [])), rows)


def _horizons(headline: Headline) -> Table:
    rows = []
    for horizon in sorted({result.horizon for result in headline.results}):
        results = [result for result in headline.results if result.horizon == horizon]
        itself = baseline_itself(results, headline.main)
        for name in (LEARNED, TUNED_LEARNED):
            if name in results[0].measurements:
                found = evaluation.standing(results, name)
                rows.append((f"{horizon}", title(name), str(found.relative_loss), str(found.speedup),
                             str(found.train_speedup), f"{found.num_failed} of {found.num_trainings}", f"{itself:.3f}"))
    return Table("Other horizons", "AdamW + cosine is tuned anew at each. Itself: its final losses ÷ its own at "
                 f"{headline.main[0].horizon} inner steps, which is what more steps are worth.",
                 ("inner steps", "optimizer", "relative loss", "speedup", "train speedup", "failed", "AdamW itself"),
                 rows)


def baseline_itself(results: Sequence[Result], main: Sequence[Result]) -> float:
    """Interquartile mean of the baseline's final losses ÷ its own on the same families and seeds in `main`."""
    known = {result.family: result.baseline.finals for result in main}
    return float(interquartile_mean(torch.cat([result.baseline.finals / known[result.family] for result in results])))
