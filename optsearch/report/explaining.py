"""What an exported learned optimizer does: measured beside AdamW, told in a few sentences and charts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsearch import progress
from optsearch.errors import FileError
from optsearch.evaluation.behaviour import NUM_RATES, Behaviour, watch, watch_baseline
from optsearch.evaluation.contenders import LR
from optsearch.evaluation.hand_made import Scheduled
from optsearch.evaluation.metrics import window
from optsearch.evaluation.responses import NOISES, Responses, respond
from optsearch.export import Artifact
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.bases import SGDM, Base
from optsearch.report import behaviour_charts
from optsearch.tables import Table
from optsearch.tasks.family import TaskFamily

PAGE, FIGURES = "explanation.md", "explanation.json"
NOISY = NOISES.index(3.0)
# Slopes that are none, and those that are hardly any: steps 1.15 and 4 times as large over the scales' six decades.
FLAT, HARDLY = 0.01, 0.1
STAND_INS: dict[str, Base] = {"Adam": AdamW(weight_decay=0.0), "SGD, momentum 0.9": SGDM()}


@dataclass(frozen=True)
class Explanation:
    """`learned` and `adamw` along the same runs, AdamW at `rate`; `responses` to made-up gradients, by name.

    The learned optimizer's are the first of `responses`.
    """

    path: Path
    learned: Behaviour
    adamw: Behaviour
    rate: float
    responses: dict[str, Responses]

    @property
    def num_steps(self) -> int:
        return len(self.learned.losses)

    def to_config(self) -> dict[str, Any]:
        """The figures, None where there is no number."""
        found: dict[str, Any] = _plain({
            "family": self.learned.family, "num_steps": self.num_steps, "num_runs": self.learned.losses.shape[1],
            "adamw_learning_rate": self.rate, "learned": _run_figures(self.learned), "adamw": _run_figures(self.adamw),
            "responses": {name: {"scale_slopes": each.slopes.tolist(), "by_scale": each.by_scale.tolist(),
                                 "by_noise": each.by_noise.tolist(), "alignment": each.alignment.tolist()}
                          for name, each in self.responses.items()}})
        return found


def explain(path: Path, family: TaskFamily, num_steps: int, *, quiet: bool = False) -> Explanation:
    """Measure; `FileError` where `path` is no learned optimizer."""
    artifact = Artifact.load(path)
    weights = artifact.weights_in(family.domain)
    with progress.meter("measuring", 3, quiet=quiet) as meter:
        learned = watch(artifact.design, {name: leaf[None] for name, leaf in weights.items()}, family, num_steps)
        meter.update(1, "AdamW")
        adamw, rate = watch_baseline(family, num_steps)
        meter.update(2, "made-up gradients")
        responses = {"learned": respond(artifact.design, weights)} | {
            name: respond(Scheduled(base, "constant"), {LR: torch.full((1,), 1e-3)})
            for name, base in STAND_INS.items()}
        meter.update(3)
    return Explanation(path, learned, adamw, rate, responses)


def in_words(found: Explanation) -> list[str]:
    """The findings, a sentence or two each."""
    learned, adamw = found.learned, found.adamw
    if learned.diverges:
        return [f"{found.path.name} on {learned.family}: some of {learned.losses.shape[1]} runs of {found.num_steps} "
                f"steps went astray (training loss {learned.final_loss:.4g}), so little can be said of its steps.",
                _scale(found.responses["learned"]), _noise(found.responses)]
    return [
        f"{found.path.name} on {learned.family}, {learned.losses.shape[1]} runs of {found.num_steps} steps, beside "
        f"AdamW + cosine at learning rate {found.rate:.2g}, the best of {NUM_RATES}; training loss "
        f"{learned.final_loss:.4g}, AdamW's {adamw.final_loss:.4g}.",
        f"Its steps {_change(learned)} from the first to the last tenth (AdamW's: to "
        f"{_percent(_last_over_first(adamw.step_size[:, 0]))}); over the run they are "
        f"{_percent(float(learned.mean_relative_step[0]))} of the params (AdamW's "
        f"{_percent(float(adamw.mean_relative_step[0]))}).",
        *_of_layers(learned),
        f"In Adam's units its learning rate goes {_rates(learned)} (AdamW's {_rates(adamw)}); the cosine between its "
        f"steps and Adam's is {learned.alignment:.2f} (AdamW's {adamw.alignment:.2f}).",
        _momentum(found), _scale(found.responses["learned"]), _noise(found.responses)]


def layers(found: Explanation) -> Table:
    """Tensor by tensor."""
    learned, adamw = found.learned, found.adamw
    return Table(
        "Layer by layer",
        "Step size relative to the params' (root mean squares), its last tenth relative to its first, the learning "
        "rate in Adam's units (mean), effective momentum, and what the last gradients explain of the steps; AdamW's "
        "step size last.",
        ("tensor", "parameters", "step / params", "last / first", "learning rate", "momentum", "explained", "AdamW's"),
        [(name, f"{size:,}", _percent(float(learned.mean_relative_step[1 + index])),
          _percent(_last_over_first(learned.step_size[:, 1 + index])),
          _number(_mean(learned.learning_rate[:, 1 + index])), _number(each.momentum), _percent(each.explained),
          _percent(float(adamw.mean_relative_step[1 + index])))
         for index, (name, size, each) in enumerate(zip(learned.names, learned.sizes.tolist(), learned.responses,
                                                         strict=True))])


def write(found: Explanation, directory: Path) -> list[Path]:
    """A page, its pictures and figures; returns what was written."""
    from optsearch.pictures import save_chart

    charts = behaviour_charts.charts(found.learned, found.adamw, found.responses)
    lines = [f"# What {found.path.stem} does", "", *(f"- {sentence}" for sentence in in_words(found))]
    for name, chart in charts.items():
        lines += ["", f"## {chart.title}", "", f"![{chart.title}]({name}.png)", "", chart.note]
    page, figures = directory / PAGE, directory / FIGURES
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, chart in charts.items():
            save_chart(directory / f"{name}.png", chart)
        page.write_text("\n".join([*lines, "", *layers(found).markdown()]) + "\n")
        figures.write_text(json.dumps(found.to_config(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise FileError(f"{directory} could not be written to: {error.strerror or error}. "
                        "Choose another folder with --output.") from error
    return [page, figures, *(directory / f"{name}.png" for name in charts)]


def _of_layers(found: Behaviour) -> Iterator[str]:
    known = sorted((step, name) for step, name in zip(found.mean_relative_step[1:].tolist(), found.names, strict=True)
                   if isfinite(step))
    if len(known) > 1:
        (least, slow), (most, fast) = known[0], known[-1]
        yield (f"Relative to their params it moves {fast} most ({_percent(most)} a step) and {slow} least "
               f"({_percent(least)}).")


def _momentum(found: Explanation) -> str:
    mine, other = found.learned.response, found.adamw.response
    if not isfinite(mine.momentum):
        return "It made no steps that could be held against gradients."
    caution = ("" if mine.explained >= 0.5 else
               ", so it says little: most of what it does is no weighted sum of gradients")
    return (f"Its effective momentum is {mine.momentum:.2f} (AdamW's {other.momentum:.2f}); sums of past gradients "
            f"explain {_percent(mine.explained)} of its steps (AdamW's {_percent(other.explained)}){caution}.")


def _scale(found: Responses) -> str:
    slopes = found.slopes
    mean, spread = float(slopes.mean()), f"slope {_range(slopes)}; Adam's is 0, SGD's 1"
    if not isfinite(mean):
        return "How its steps depend on the gradients' scale is not known: some of them are 0 or not finite."
    if float(slopes.abs().max()) <= HARDLY:
        word = "do not" if float(slopes.abs().max()) <= FLAT else "hardly"
        return f"Its steps {word} depend on the gradients' scale ({spread})."
    told = "grow" if mean > 0 else "shrink"
    factor = 10 ** abs(mean)
    return f"Its steps {told} by a factor of {factor:.3g} where gradients grow tenfold ({spread})."


def _noise(found: dict[str, Responses]) -> str:
    if not found["learned"].by_noise.gt(0).all() or not found["learned"].by_noise.isfinite().all():
        return "What noise does to its steps is not known: some of them are 0 or not finite."
    shrunk = {name: float((each.by_noise[:, NOISY] / each.by_noise[:, 0]).mean()) for name, each in found.items()}
    cosines = {name: float(each.alignment[:, NOISY].mean()) for name, each in found.items()}
    return (f"Where gradients are three parts noise to one part signal, its steps are {_percent(shrunk['learned'])} as "
            f"large as without noise (Adam's {_percent(shrunk['Adam'])}), and their cosine with the signal is "
            f"{cosines['learned']:.2f} (Adam's {cosines['Adam']:.2f}).")


def _change(found: Behaviour) -> str:
    ratio = _last_over_first(found.step_size[:, 0])
    if not isfinite(ratio):
        return "are 0 or not finite"
    if 0.9 <= ratio <= 1.1:
        return f"stay about as large ({_percent(ratio)})"
    return f"{'shrink' if ratio < 1 else 'grow'} to {_percent(ratio)}"


def _rates(found: Behaviour) -> str:
    rates, tenth = found.learning_rate[:, 0], window(len(found.losses))
    return f"from {_number(_mean(rates[:tenth]))} to {_number(_mean(rates[-tenth:]))}"


def _last_over_first(values: Tensor) -> float:
    tenth = window(len(values))
    return float(values[-tenth:].mean() / values[:tenth].mean())


def _mean(values: Tensor) -> float:
    return float(values[values.isfinite()].mean())


def _range(values: Tensor) -> str:
    low, high = (f"{float(each):.2f}" for each in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _percent(value: float) -> str:
    if not isfinite(value):
        return "an unknown part"
    return f"{100 * value:.2g} %" if abs(value) < 1 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:.2g}" if isfinite(value) else "unknown"


def _run_figures(found: Behaviour) -> dict[str, Any]:
    return {"final_loss": found.final_loss, "last_over_first_step_size": _last_over_first(found.step_size[:, 0]),
            "step_size": found.step_size[:, 0].tolist(),
            "relative_step_size": found.relative_step_size[:, 0].tolist(),
            "learning_rate": found.learning_rate[:, 0].tolist(), "alignment": found.alignment,
            **vars(found.response),
            "layers": {name: {"step_size": found.step_size[:, 1 + index].tolist(),
                              "relative_step_size": found.relative_step_size[:, 1 + index].tolist(),
                              "learning_rate": found.learning_rate[:, 1 + index].tolist(),
                              **vars(found.responses[index])} for index, name in enumerate(found.names)}}


def _plain(value: Any) -> Any:
    """JSON data: numbers to six digits, None for those that are not finite."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
