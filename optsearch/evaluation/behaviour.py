"""What an optimizer does along a run: how far it steps in every tensor, and what its steps are made from."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from optsearch.evaluation import metrics, runs
from optsearch.evaluation.contenders import BASELINE, LR, hand_made
from optsearch.evaluation.hand_made import NUM_LEARNING_RATES, Scheduled
from optsearch.evaluation.runs import Setup
from optsearch.meta_training.inner import InnerOptimizer
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Observation
from optsearch.seeds import generator
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree, prefixed, within

# The direction that steps are held against: Adam's, at a learning rate of -1.
ADAM = Scheduled(AdamW(weight_decay=0.0), "constant")
PURPOSE, NUM_RUNS = "behaviour", 2
# Parameters a tensor whose gradients and steps are kept for the response; sums are over all of them.
NUM_SAMPLES = 64
NUM_LAGS, LEAST_WINDOW = 10, 20
RIDGE, NUM_ROUNDS = 1e-9, 50
# Learning rates from 1e-4 on: below, no run of a few hundred steps gets anywhere.
FIRST_RATE = 6
NUM_RATES = NUM_LEARNING_RATES - FIRST_RATE


@dataclass(frozen=True)
class Response:
    """Least squares of steps on the last gradients: `weights` by lag, largest magnitude 1.

    `momentum` is the decay from one lag to the next that fits them best, nan where nothing moved; `explained` the part
    of the steps' variation that the last gradients and the step before them account for.
    """

    weights: list[float]
    momentum: float
    explained: float


@dataclass(frozen=True)
class Behaviour:
    """`n` runs of one optimizer on one family.

    `losses` `[steps, n]` are those of the batches. Sums of products over the parameters of each tensor, all
    `[steps, n, tensors]`: `updates` and `params` with themselves, `along` of steps (downhill) with Adam's direction,
    `adam` of that with itself. `gradients` and `moves` `[steps, n, tensors, samples]` are of a few parameters.
    `loss_cap` is the family's.
    """

    family: str
    names: tuple[str, ...]
    sizes: Tensor
    losses: Tensor
    sums: Tree
    gradients: Tensor
    moves: Tensor
    loss_cap: float

    def of_runs(self, part: slice) -> "Behaviour":
        return Behaviour(self.family, self.names, self.sizes, self.losses[:, part],
                         {name: leaf[:, part] for name, leaf in self.sums.items()},
                         self.gradients[:, part], self.moves[:, part], self.loss_cap)

    @property
    def diverges(self) -> bool:
        """Whether a run ended at the cap, which is where non-finite losses are."""
        return bool((self.losses[-1] >= self.loss_cap).any())

    @property
    def final_loss(self) -> float:
        return float(metrics.final_loss(self.losses).mean())

    @cached_property
    def step_size(self) -> Tensor:
        """Root mean square of the steps, `[steps, 1 + tensors]`; the first column is all tensors together."""
        return self._root_mean("updates")

    @cached_property
    def relative_step_size(self) -> Tensor:
        """Relative to the root mean square of the params, `[steps, 1 + tensors]`."""
        return self.step_size / self._root_mean("params")

    @cached_property
    def mean_relative_step(self) -> Tensor:
        """Root mean squares over the run, of steps relative to params, `[1 + tensors]`."""
        return (self._total("updates").sum(0) / self._total("params").sum(0)).sqrt()

    @cached_property
    def learning_rate(self) -> Tensor:
        """What Adam's direction would have to be multiplied by to be nearest to the steps, `[steps, 1 + tensors]`."""
        return self._total("along") / self._total("adam")

    @cached_property
    def alignment(self) -> float:
        """Cosine between the steps and Adam's direction, mean over the run."""
        cosines = self._total("along") / (self._total("updates") * self._total("adam")).sqrt()
        return float(cosines[:, 0].nanmean())

    @cached_property
    def response(self) -> Response:
        """Of all tensors together."""
        return response(self.gradients.flatten(1), self.moves.flatten(1))

    @cached_property
    def responses(self) -> list[Response]:
        """Tensor by tensor."""
        return [response(self.gradients[:, :, index].flatten(1), self.moves[:, :, index].flatten(1))
                for index in range(len(self.names))]

    def _total(self, name: str) -> Tensor:
        """Sums over runs, of all tensors and of each."""
        sums = self.sums[name].sum(1)
        return torch.cat([sums.sum(-1, keepdim=True), sums], -1)

    def _root_mean(self, name: str) -> Tensor:
        counts = torch.cat([self.sizes.sum()[None], self.sizes]) * self.losses.shape[1]
        return (self._total(name) / counts).sqrt()


@dataclass(frozen=True)
class _Watched:
    """An optimizer beside whose steps Adam's direction is worked out, and whose figures are kept step by step."""

    original: InnerOptimizer
    kept: list[Tree] = field(default_factory=list)

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        return (prefixed("original", self.original.init(params, batch_dims))
                | prefixed("adam", ADAM.init(params, batch_dims)))

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        updates, after = self.original.update(weights, observation, within("original", state))
        backwards = {LR: -torch.ones_like(state["adam.step"])}
        directions, adam = ADAM.update(backwards, observation, within("adam", state))
        layout = Layout.of(updates, 1)
        step, direction, params, gradient = (
            torch.nan_to_num(Layout.flatten(tree, 1).detach(), posinf=0.0, neginf=0.0)
            for tree in (updates, directions, observation.params, observation.gradients))
        at = _samples(layout)
        self.kept.append({"updates": layout.dots(step, step), "params": layout.dots(params, params),
                          "along": layout.dots(-step, direction), "adam": layout.dots(direction, direction),
                          "gradients": gradient[:, at], "moves": step[:, at]})
        return updates, prefixed("original", after) | prefixed("adam", adam)


def watch(optimizer: InnerOptimizer, weights: Tree, family: TaskFamily, horizon: int) -> Behaviour:
    """Train from a few seeds with each of `m` sets of weights (leaves `[m, ...]`), and keep what it does."""
    watched = _Watched(optimizer)
    setup = Setup(family, horizon, "meta", tuple(range(NUM_RUNS)), PURPOSE, measured_from=horizon)
    found = runs.run(watched, weights, setup)
    stream = generator(0, PURPOSE)
    layout = Layout.of(family.init(stream, family.sample(stream)))
    sums = {name: _joined([each[name] for each in watched.kept], horizon) for name in watched.kept[0]}
    gradients, moves = (sums.pop(name).unflatten(-1, (-1, NUM_SAMPLES)) for name in ("gradients", "moves"))
    return Behaviour(family.name, tuple(name for name, _ in layout.shapes),
                     torch.tensor([prod(shape) for _, shape in layout.shapes]), found.train.cpu(), sums,
                     gradients, moves, family.loss_cap)


def watch_baseline(family: TaskFamily, horizon: int) -> tuple[Behaviour, float]:
    """The baseline at the learning rate, of those from 1e-4 on, that ends at the lowest training loss; and the rate."""
    contender = hand_made(BASELINE)
    rates = contender.learning_rates[FIRST_RATE:]
    setup = Setup(family, horizon, "meta", tuple(range(NUM_RUNS)), PURPOSE)
    found = watch(contender.optimizer, contender.weights_at(rates, setup), family, horizon)
    best = int(metrics.final_loss(found.losses).view(len(rates), -1).mean(1).argmin())
    return found.of_runs(slice(best * NUM_RUNS, (best + 1) * NUM_RUNS)), rates[best]


def response(gradients: Tensor, moves: Tensor) -> Response:
    """How steps `[steps, m]` of `m` parameters depend on the gradients at this and the 9 steps before.

    A step is seen as a weighted sum of them, the same for all up to one factor a parameter and window of a tenth of the
    run, and the step before those, which stands for all that is older. Of SGD with momentum that is exact.
    """
    gradients, moves = gradients.double(), moves.double()
    lagged = gradients.unfold(0, NUM_LAGS, 1)[1:].flip(-1)
    size, found = max(LEAST_WINDOW, metrics.window(len(gradients))), []
    for start in range(0, len(lagged), size):
        part = slice(start, start + size)
        seen, older, steps = lagged[part], -moves[:-NUM_LAGS][part, :, None], -moves[NUM_LAGS:][part, :, None]
        # Over all lags: a spike just before the window must not be measured by what came after it.
        scale, stride = (values.square().mean((0, -1)).sqrt()[:, None] for values in (seen, steps))
        rows = torch.cat([seen / scale, older / stride, steps / stride], -1)
        rows = rows[:, ((scale > 0) & (stride > 0))[:, 0]].transpose(0, 1)
        found.append(rows.mT @ rows)
    return _fitted(torch.cat(found))


def _fitted(products: Tensor) -> Response:
    """From those of lagged gradients, older step and step with each other, `[parameters and windows, 12, 12]`.

    Alternating least squares: weights given the factors, then factors given the weights.
    """
    total = products[:, -1, -1].sum()
    if not total > 0:
        return Response([0.0] * NUM_LAGS, torch.nan, torch.nan)
    factors = torch.ones(len(products), 1, dtype=torch.float64)
    for _ in range(NUM_ROUNDS):
        scaling = torch.cat([factors.expand(-1, NUM_LAGS), torch.ones(len(factors), 2, dtype=torch.float64)], 1)
        gram = (products * scaling[:, :, None] * scaling[:, None]).sum(0)
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(NUM_LAGS + 1, dtype=torch.float64)
        found = torch.linalg.solve(gram[:-1, :-1] + ridge, gram[:-1, -1])
        weights, older = found[:-1], found[-1]
        of_sum = products[:, :NUM_LAGS].mT @ weights
        factors = ((of_sum[:, -1:] - older * of_sum[:, -2:-1])
                   / (of_sum[:, :NUM_LAGS] @ weights)[:, None].clamp(min=RIDGE))
    left = gram[-1, -1] - 2 * found @ gram[:-1, -1] + found @ gram[:-1, :-1] @ found
    decay = weights[1:] @ weights[:-1] / weights[:-1].square().sum()
    return Response((weights / weights[weights.abs().argmax()]).tolist(), float(decay),
                    float((1 - left / total).clamp(0, 1)))


def _samples(layout: Layout) -> Tensor:
    """Indices `[tensors * samples]`, spread evenly over each tensor; small ones have some twice."""
    starts, found = 0, []
    for _, shape in layout.shapes:
        found.append(starts + torch.linspace(0, max(0, prod(shape) - 1), NUM_SAMPLES).round().long())
        starts += prod(shape)
    return torch.cat(found)


def _joined(kept: list[Tensor], horizon: int) -> Tensor:
    """Steps `[runs, k]` of one part of the runs after the other, as `[steps, runs, k]`."""
    return torch.cat([torch.stack(kept[start:start + horizon]) for start in range(0, len(kept), horizon)], 1).cpu()
