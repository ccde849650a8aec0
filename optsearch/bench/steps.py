"""The exported optimizer's step beside torch's own AdamW."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from optsearch.bench.timing import Report, Spread, in_turns, ratio
from optsearch.bench.unrolls import COMPILED
from optsearch.export import LearnedTorchOptimizer
from optsearch.optimizers import named_design
from optsearch.seeds import generator

Shapes = tuple[tuple[int, ...], ...]
Maker = Callable[[list[Parameter]], Optimizer]

LAYOUTS: dict[str, Shapes] = {"one 1000x1000 matrix": ((1000, 1000),),
                              "48 small tensors": ((64, 64), (64,), (64,), (64,)) * 12,
                              "MLP 64-32-10": ((32, 64), (32,), (10, 32), (10,))}
FUSED, FOREACH = "AdamW, fused", "AdamW, foreach"
TORCH: dict[str, Maker] = {FUSED: lambda params: AdamW(params, fused=True),
                           FOREACH: lambda params: AdamW(params, foreach=True)}

DESIGNS = ("small_fc", "celo2", "adamw_mlp", "opt2vec")


@dataclass(frozen=True)
class Case:
    """A named design with random weights, exported in one form."""

    design: str
    form: str

    @property
    def name(self) -> str:
        return f"{self.design}, {self.form}"

    def __call__(self, params: list[Parameter]) -> LearnedTorchOptimizer:
        design = named_design(self.design)
        weights = design.init_weights(generator(0, "weights"))
        return LearnedTorchOptimizer(params, design, weights, compile=self.form == COMPILED, lr=1.0, weight_decay=0.0,
                                     num_steps=1000)


def params_of(shapes: Shapes) -> list[Parameter]:
    """Params with gradients that look like those of a model at work."""
    draws = generator(0, "params")
    params = [Parameter(0.05 * torch.randn(shape, generator=draws)) for shape in shapes]
    for param in params:
        param.grad = 0.01 * torch.randn(param.shape, generator=draws)
    return params


def measure(cases: Sequence[Case], others: Mapping[str, Maker], shapes: Shapes, repetitions: int,
            report: Report = lambda part: None) -> dict[str, list[float]]:
    """Seconds a step of every case and every other optimizer by name, taken in turns."""
    makers: dict[str, Maker] = {**{case.name: case for case in cases}, **others}
    return in_turns({name: make(params_of(shapes)).step for name, make in makers.items()}, repetitions, report)


def row(case: Case, shapes: Shapes, measured: Mapping[str, list[float]]) -> dict[str, Any]:
    """One line of the result; a ratio is how many of AdamW's steps one learned step takes."""
    seconds, num_parameters = measured[case.name], sum(param.numel() for param in params_of(shapes))
    each = Spread.of([1e9 * value / num_parameters for value in seconds])
    return {"design": case.design, "form": case.form, "num_parameters": num_parameters, "num_tensors": len(shapes),
            "ns_per_parameter": each.median, "lowest": each.lowest, "highest": each.highest,
            "adamw_fused_ratio": ratio(seconds, measured[FUSED]),
            "adamw_foreach_ratio": ratio(seconds, measured[FOREACH]),
            "state_megabytes": state_megabytes(case, shapes)}


def state_megabytes(case: Case, shapes: Shapes) -> float:
    """What the optimizer keeps between steps."""
    optimizer = case(params_of(shapes))
    optimizer.step()
    leaves = [leaf for state in optimizer.state.values() for leaf in state.values() if isinstance(leaf, torch.Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 1e6
