"""What an optimizer does beside AdamW, as charts."""

from collections.abc import Mapping, Sequence
from math import isfinite, log10

from torch import Tensor

from optsearch.evaluation import levels
from optsearch.evaluation.behaviour import NUM_LAGS, Behaviour
from optsearch.evaluation.metrics import window
from optsearch.evaluation.responses import NOISES, SCALES, Responses
from optsearch.pictures import Chart, Series

LEARNED, ADAMW, STEP = "learned", "AdamW + cosine", "step"
MOST_LAYERS, LONGEST_NAME = 12, 26


def charts(learned: Behaviour, adamw: Behaviour, responses: Mapping[str, Responses]) -> dict[str, Chart]:
    """By the names of their files."""
    return {
        "step_size": _along("Step size", "root mean square of the step", learned.step_size, adamw.step_size),
        "relative_step_size": _along("Step size relative to the params", "step / params (root mean squares)",
                                     learned.relative_step_size, adamw.relative_step_size),
        "learning_rate": _along("Learning rate in Adam's units", "learning rate", learned.learning_rate,
                                adamw.learning_rate),
        "layers": _layers(learned, adamw), "momentum": _momentum(learned, adamw),
        "scale": _scale(responses), "noise": _noise(responses), "alignment": _alignment(responses)}


def _along(title: str, vertical: str, learned: Tensor, adamw: Tensor) -> Chart:
    """Grey lines are single tensors."""
    layers = [_line("", learned[:, index], quiet=True) for index in range(1, learned.shape[1])]
    return Chart(title, STEP, vertical,
                 [*(layers if len(layers) > 1 else []), _line(LEARNED, learned[:, 0]), _line(ADAMW, adamw[:, 0])],
                 log_y=True, note="Means of a twentieth of the run; grey: the learned optimizer in single tensors."
                 if len(layers) > 1 else "Means of a twentieth of the run.")


def _line(label: str, values: Tensor, *, quiet: bool = False) -> Series:
    """What is above 0 of a curve, which a logarithmic axis can show."""
    means = levels.moving_mean(values.double(), max(1, window(len(values)) // 2), True).tolist()
    shown = [(step + 1, value) for step, value in enumerate(means) if isfinite(value) and value > 0]
    return Series(label, [step for step, _ in shown], [value for _, value in shown], quiet=quiet)


def _layers(learned: Behaviour, adamw: Behaviour) -> Chart:
    largest = sorted(learned.sizes.argsort(descending=True, stable=True)[:MOST_LAYERS].tolist())
    names = [_short(learned.names[index]) for index in largest]

    def bars(label: str, found: Behaviour) -> Series:
        means = found.mean_relative_step[1:].tolist()
        return Series(label, names, [_known(100 * means[index]) for index in largest], "bars")

    return Chart("How far each layer moves", "step in % of its params", "",
                 [bars(LEARNED, learned), bars(ADAMW, adamw)], note="Root mean squares over the run; "
                 f"{'the largest' if len(largest) < len(learned.names) else 'all'} tensors.")


def _short(name: str) -> str:
    """The last words of a long name, as many as there is room for."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"…{name[1 - LONGEST_NAME:].partition('.')[2] or name[1 - LONGEST_NAME:]}"


def _momentum(learned: Behaviour, adamw: Behaviour) -> Chart:
    lags = list(range(NUM_LAGS))
    return Chart("What steps are made from", "lag: steps since the gradient", "weight (largest 1)",
                 [Series(f"{label}: momentum {found.response.momentum:.2f}", lags, found.response.weights)
                  for label, found in ((LEARNED, learned), (ADAMW, adamw))], mark=0.0,
                 note="Least squares of steps on the last gradients; SGD with momentum falls by its momentum a lag.")


def _scale(found: Mapping[str, Responses]) -> Chart:
    # Powers, not numbers: so many decades have no room for their ticks.
    powers, middle = [log10(scale) for scale in SCALES], SCALES.index(1.0)
    return Chart("Response to the gradients' scale", "gradients multiplied by, power of ten",
                 "step size, power of ten (0 at scale 1)",
                 _rows(found, powers, {name: (each.by_scale / each.by_scale[:, middle:middle + 1]).log10().mean(0)
                                       for name, each in found.items()}),
                 note="Flat: scale does not matter, as for Adam. Made-up gradients, half noise; "
                 "means over a matrix, a kernel and a vector.")


def _noise(found: Mapping[str, Responses]) -> Chart:
    return Chart("Step size under noise", "noise / signal", "step size (1 without noise)",
                 _rows(found, NOISES, {name: (each.by_noise / each.by_noise[:, :1]).mean(0)
                                       for name, each in found.items()}), mark=1.0,
                 note="Below 1, steps are smaller where gradients are noisy, though their size grows with the noise.")


def _alignment(found: Mapping[str, Responses]) -> Chart:
    return Chart("Direction under noise", "noise / signal", "cosine of step and signal",
                 _rows(found, NOISES, {name: each.alignment.mean(0) for name, each in found.items()}),
                 note="Higher: more of the noise is averaged away.")


def _rows(found: Mapping[str, Responses], x: Sequence[float], values: Mapping[str, Tensor]) -> list[Series]:
    return [Series(name, x, [_known(value) for value in values[name].tolist()]) for name in found]


def _known(value: float) -> float:
    """0 for what is not a number."""
    return value if isfinite(value) else 0.0
