"""The best design of a study: in words, as a picture, as tables."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

from optsearch.optimizers.picture import draw, value_in_words
from optsearch.report.material import WEIGHTS, Material
from optsearch.report.page import Block, Drawing, Listing
from optsearch.search.snapshot import Trial
from optsearch.tables import Table

ON, OFF = "with", "without"


def best_in_words(material: Material) -> str:
    """What was found, in a sentence or two."""
    trial, snapshot = material.winner, material.snapshot
    if trial is None or snapshot.best is None:
        return f"{len(snapshot.trials)} designs were begun; none within the limits has come to its end yet."
    is_best = trial.number == snapshot.best.number
    found = (f"{_named(trial)} is the {'best' if is_best else 'winner of the finalists'} of {len(snapshot.trials)} "
             f"designs: {trial.in_brief}. Where the search measured it, its loss is "
             f"{change(exp(trial.value or 0.0))} that of AdamW with its learning rate tuned.")
    if material.headline is None:
        return found
    loss = material.headline.learned.relative_loss
    return found + (f" On fresh seeds and test rows it is {change(loss.value)} (95 % interval of the ratio "
                    f"{loss.low:.3f} to {loss.high:.3f}).")


def _named(trial: Trial) -> str:
    """With the number that Optuna knows its end by, where it was interrupted or paused."""
    last = trial.last_number
    return f"Trial {trial.number}" + (f" (which ended as trial {last})" if last != trial.number else "")


def change(ratio: float) -> str:
    """A ratio of losses in words."""
    percent = 100 * abs(ratio - 1)
    if ratio >= 2:
        return f"{ratio:.2f} times"
    return f"{percent:.1f} % {'below' if ratio < 1 else 'above'}"


def winner(material: Material, weights: str = WEIGHTS) -> list[Block]:
    """Its graph, its parameters, its cost, and how to use it; `weights` is the file's place from the page."""
    trial, artifact = material.winner, material.artifact
    if trial is None or artifact is None:
        return ["None yet: no trial within the limits is complete."]
    costs, structure = artifact.design.costs(), artifact.design.structure
    rows = [("weights", f"{costs.num_weights:,}"),
            ("FLOPs per parameter and step, in matrix products", f"{costs.flops_per_parameter:,.0f}"),
            ("FLOPs per tensor and step", f"{costs.flops_per_tensor:,.0f}"),
            ("bytes of state per parameter", f"{costs.state_bytes_per_parameter:.1f}")]
    title = f"Trial {trial.number} of {material.name}"
    return [f"{_named(trial)}: {trial.in_brief}.",
            Drawing(title, partial(_draw, title=title, structure=structure),
                    "From left to right: what a step reads, what is computed, and the step that comes out."),
            Table("Cost", "Of one step of a layer with 128 inputs and 128 outputs, in float32.", ("", ""), rows),
            parameters(trial.params, "Parameters"),
            f"Its weights are in {weights}, seen from this page. In a training script:",
            Listing([f'optimizer = optsearch.load("{weights}")(model.parameters(), num_steps=...)'])]


def _draw(path: Path, title: str, structure: Any) -> None:
    draw(path, title, structure)


def parameters(params: Mapping[str, Any], title: str) -> Table:
    """What the search chose, a line a part; switches are told together."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        slot, _, rest = name.partition(".")
        parts.setdefault(slot, {})[rest] = value
    return Table(title, "What the search chose, part by part.", ("part", "kind", "settings"), [
        (slot.replace("_", " "), str(chosen.get("kind", "")), "; ".join(_settings(chosen)))
        for slot, chosen in parts.items()])


def _settings(chosen: Mapping[str, Any]) -> Iterator[str]:
    """Numbers by name, then the switches that are on, then those that are off."""
    words = {name: name.rpartition(".")[2].replace("_", " ") for name in chosen if name != "kind"}
    plain = [f"{word} {value_in_words(_rounded(chosen[name]))}" for name, word in words.items()
             if not isinstance(chosen[name], bool)]
    if plain:
        yield ", ".join(plain)
    for is_on, word in ((True, ON), (False, OFF)):
        if switches := [words[name] for name in words if chosen[name] is is_on]:
            yield f"{word} {', '.join(switches)}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
