"""What a controller makes of each tensor along runs, with what goes on at every step beside it."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.errors import DesignError
from optsearch.evaluation import levels, metrics, runs
from optsearch.evaluation.runs import Setup
from optsearch.meta_training import inner
from optsearch.optimizers.controllers import Controller
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.model_graph import ModelGraph
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.seeds import generator
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

PHASES, TRENDS = ("early", "middle", "late"), ("falling", "flat", "rising")
# What steps are labelled with, and the labels of each.
LABELS: dict[str, tuple[str, ...]] = {"phase": PHASES, "loss trend": TRENDS}
UNLABELLED = -1
# A slope is one where it is so many of its standard errors from 0, over so many losses at least.
STANDARD_ERRORS, LEAST_WINDOW = 2.0, 5
# Steps that stand beside an embedding as what it could have been made from: as many as Opt2Vec remembers.
NUM_REMEMBERED = 5
PURPOSE = "embeddings"


@dataclass(frozen=True)
class Embeddings:
    """What a controller saw and made of each tensor in `n` runs of one family.

    `made` `[n, steps, tensors, size]` are the embeddings, `seen` `[n, steps, tensors, inputs]` what came in at the last
    `NUM_REMEMBERED` steps (0 before the first), `losses` `[n, steps]` those of the batches. `kinds` are those of
    `ModelGraph`.
    """

    family: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    made: Tensor
    seen: Tensor
    losses: Tensor

    def of(self, part: slice) -> "Embeddings":
        """Some of the runs."""
        return replace(self, made=self.made[part], seen=self.seen[part], losses=self.losses[part])

    def labels(self, name: str) -> Tensor:
        """Indices `[n, steps]` into `LABELS[name]`, -1 where a step has none."""
        if name == "phase":
            return phases(self.losses.shape[1]).expand(self.losses.shape)
        return loss_trends(self.losses)


@dataclass(frozen=True)
class _Watched:
    """A controller whose inputs `[..., inputs, tensors]` and embeddings are kept, step by step."""

    original: Controller
    seen: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    def width(self, num_inputs: int) -> int:
        return self.original.width(num_inputs)

    def init_weights(self, generator: torch.Generator, num_inputs: int) -> Tree:
        return self.original.init_weights(generator, num_inputs)

    def init(self, like: Tensor, num_tensors: int, num_inputs: int) -> Tree:
        return self.original.init(like, num_tensors, num_inputs)

    def update(self, weights: Tree, values: Tensor, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        embedding, state = self.original.update(weights, values, moment, state)
        self.seen.append(values)
        self.made.append(embedding)
        return embedding, state


def collect(design: LearnedOptimizer, weights: Tree, family: TaskFamily, horizon: int, num_runs: int) -> Embeddings:
    """Train `num_runs` times, from seeds 0, 1, ..., and keep what the controller sees and makes.

    Raises `DesignError` for designs without a controller.
    """
    if not design.has_controller:
        raise DesignError("the design has no controller, so it makes no embeddings. Take one that has: opt2vec, "
                          "adamw_lstm, adamw_transformer, ...")
    watched = _Watched(design.controller)
    setup = Setup(family, horizon, "meta", tuple(range(num_runs)), PURPOSE, measured_from=horizon)
    batch = {name: leaf[None] for name, leaf in weights.items()}
    found = runs.run(replace(design, controller=watched), batch, setup)
    names, kinds = _tensors(family)
    return Embeddings(family.name, names, kinds, _joined(watched.made, horizon),
                      _remembered(_joined(watched.seen, horizon)), found.train.T)


def phases(horizon: int) -> Tensor:
    """Which third of a run each of its steps is in, `[horizon]`."""
    return len(PHASES) * torch.arange(horizon) // horizon


def loss_trends(losses: Tensor) -> Tensor:
    """Whether losses `[n, steps]` have been falling, flat or rising, as indices into `TRENDS`.

    Of the least-squares line through the logarithms of the last tenth of the run's losses, five at least: flat where
    its slope is within two standard errors of 0. Steps that have not so many losses behind them are -1.
    """
    count = max(LEAST_WINDOW, metrics.window(losses.shape[-1]))
    known = functional.pad(levels.relative(losses.double()), (max(0, count - losses.shape[-1]), 0))
    windows = known.unfold(-1, count, 1)
    at = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    power = at.square().sum()
    slopes = windows @ at / power
    rest = windows - windows.mean(-1, keepdim=True) - slopes[..., None] * at
    errors = (rest.square().sum(-1) / (count - 2) / power).sqrt()
    trends = 1 + (slopes > STANDARD_ERRORS * errors).long() - (slopes < -STANDARD_ERRORS * errors).long()
    return functional.pad(trends, (count - 1, 0), value=UNLABELLED)[:, -losses.shape[-1]:]


def _tensors(family: TaskFamily) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and kinds of the tensors of a family's params."""
    stream = generator(0, PURPOSE)
    layout = Layout.of(family.init(stream, family.sample(stream)))
    model = inner.graph_of(family) or ModelGraph.of_names(layout.shapes)
    names = tuple(name for name, _ in layout.shapes)
    return names, tuple(model.kind(name) for name in names)


def _joined(kept: list[Tensor], horizon: int) -> Tensor:
    """Steps `[runs, k, tensors]` of one part of the runs after the other, as `[runs, steps, tensors, k]`."""
    parts = [torch.stack(kept[start:start + horizon], 1) for start in range(0, len(kept), horizon)]
    return torch.cat(parts).mT.cpu()


def _remembered(seen: Tensor) -> Tensor:
    """Inputs `[n, steps, tensors, k]` side by side with those of the steps before."""
    padded = functional.pad(seen, (0, 0, 0, 0, NUM_REMEMBERED - 1, 0))
    return padded.unfold(1, NUM_REMEMBERED, 1).flatten(-2)
