"""How the cost grows: with tasks, with the rule's size, with the inner model, with what is stepped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt
from statistics import median

from optsearch.bench import steps
from optsearch.bench.timing import Report, in_turns
from optsearch.bench.unrolls import EAGER, UNROLLS, Unroll, digits, engines, small_fc
from optsearch.pictures import Panel
from optsearch.tasks import TaskFamily
from optsearch.tasks.digits import DigitsMLP

NUM_TASKS = (1, 2, 4, 8, 16, 32, 64)
HIDDEN_SIZES = (4, 8, 16, 32, 64)
INNER_SIZES = (8, 32, 128, 512)
STEPPED = (10_000, 100_000, 1_000_000, 10_000_000)
INNER_STEPS = "inner steps per second"

Points = Mapping[int, tuple[Unroll, TaskFamily]]


def unroll_panels() -> list[tuple[str, Points]]:
    """What is varied, and the configurations by its value; all else is as in the first of `UNROLLS`."""
    first, family = UNROLLS[0], digits()
    assert isinstance(family, DigitsMLP)
    models = [replace(family, hidden_size=size) for size in INNER_SIZES]
    return [
        ("tasks", {number: (replace(first, num_tasks=number), family) for number in NUM_TASKS}),
        ("hidden units of the rule", {size: (replace(first, design=small_fc(size)), family) for size in HIDDEN_SIZES}),
        ("parameters of the inner model", {model.hidden_size * (64 + 1 + 10) + 10: (first, model) for model in models}),
    ]


def unroll_panel(varied: str, points: Points, forms: Sequence[str], repetitions: int, report: Report) -> Panel:
    """Inner steps per second of each form."""
    contenders = {(form, value): step for value, (unroll, family) in points.items()
                  for form, step in engines(unroll, family, forms).items()}
    measured = in_turns({f"{form} {value}": step for (form, value), step in contenders.items()}, repetitions, report)
    rates = {(form, value): points[value][0].inner_steps / median(measured[f"{form} {value}"])
             for form, value in contenders}
    curves = {form: [value for made, value in rates if made == form] for form in forms}
    return Panel(INNER_STEPS, varied, {form: (values, [rates[form, value] for value in values])
                                       for form, values in curves.items() if values})


def step_panel(repetitions: int, report: Report) -> Panel:
    """Nanoseconds a parameter of one optimizer step on a square matrix."""
    cases = [steps.Case(design, EAGER) for design in steps.DESIGNS]
    others = {steps.FUSED: steps.TORCH[steps.FUSED]}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for index, size in enumerate(STEPPED):
        side = isqrt(size)
        measured = steps.measure(cases, others, ((side, side),), repetitions)
        report((index + 1) / len(STEPPED))
        for name, seconds in measured.items():
            sizes, values = curves.setdefault(name, ([], []))
            sizes.append(side**2)
            values.append(1e9 * median(seconds) / side**2)
    return Panel("ns per parameter and step", "parameters stepped", curves)
