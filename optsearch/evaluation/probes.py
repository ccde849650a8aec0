"""What embeddings tell to a linear probe: multinomial logistic regression, tested on other runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.evaluation.embeddings import LABELS, UNLABELLED, Embeddings
from optsearch.seeds import generator

# On the mean loss with inputs of variance 1: enough that separable classes have finite weights.
RIDGE = 1e-3
NUM_SHUFFLES, MOST_SAMPLES = 5, 20_000
NUM_NEWTON_STEPS, NUM_HALVINGS, TOLERANCE = 50, 30, 1e-10


@dataclass(frozen=True)
class Samples:
    """Rows of `inputs` `[n, k]` and the class of each, `labels` `[n]`."""

    inputs: Tensor
    labels: Tensor

    def shuffled(self, stream: torch.Generator) -> "Samples":
        """The same inputs with the labels of others."""
        return Samples(self.inputs, self.labels[torch.randperm(len(self.labels), generator=stream)])


@dataclass(frozen=True)
class Probe:
    """Balanced accuracies of probes on runs that they were not fitted to: the mean over classes of the part found.

    `accuracy` is that of embeddings, `inputs` that of what the controller saw at the last steps, `shuffled` that of
    probes fitted to shuffled labels (a control task, Hewitt and Liang 2019, arxiv.org/abs/1909.03368). Guessing has
    `chance` at most, one over the number of classes that occur.
    """

    accuracy: float
    chance: float
    shuffled: float
    inputs: float

    def to_config(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in vars(self).items()}


def probe(label: str, fitted_to: Sequence[Embeddings], tested_on: Sequence[Embeddings], seed: int = 0) -> Probe:
    """How well a linear map tells `label`, one of `LABELS`; every tensor of every step of a run is one sample."""
    train, test = samples(fitted_to, label, "made"), samples(tested_on, label, "made")
    seen = samples(fitted_to, label, "seen"), samples(tested_on, label, "seen")
    num_classes, stream = len(LABELS[label]), generator(seed, "shuffles")
    shuffled = [_tested(train.shuffled(stream), test, num_classes, seed) for _ in range(NUM_SHUFFLES)]
    return Probe(_tested(train, test, num_classes, seed), 1 / len(test.labels.unique()),
                 sum(shuffled) / NUM_SHUFFLES, _tested(*seen, num_classes, seed))


def samples(found: Sequence[Embeddings], label: str, what: str) -> Samples:
    """All labelled steps of all tensors, by `what` was "made" or "seen" of them; what is not finite is left out."""
    inputs, labels = [], []
    for each in found:
        values: Tensor = getattr(each, what)
        inputs.append(values.flatten(0, -2).double())
        labels.append(each.labels(label)[..., None].expand(values.shape[:-1]).flatten())
    rows, classes = torch.cat(inputs), torch.cat(labels)
    is_known = (classes != UNLABELLED) & rows.isfinite().all(-1)
    return Samples(rows[is_known], classes[is_known])


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the part of each that is predicted as such."""
    return float(torch.stack([(predicted[labels == each] == each).double().mean() for each in labels.unique()]).mean())


def fit(train: Samples, num_classes: int) -> Tensor:
    """Weights `[num_classes, k + 1]` of multinomial logistic regression, the last of which are biases.

    Classes count alike, however many samples they have; biases are not penalised. The loss is convex, so Newton's
    method with halved steps finds its one minimum.
    """
    regression = _Regression.of(train, num_classes)
    weights = train.inputs.new_zeros(num_classes, train.inputs.shape[1] + 1)
    loss = regression.loss(weights)
    for _ in range(NUM_NEWTON_STEPS):
        step = regression.newton_step(weights)
        lower = next((found for power in range(NUM_HALVINGS)
                      if regression.loss(found := weights - 0.5**power * step) < loss - TOLERANCE), None)
        if lower is None:
            break
        weights, loss = lower, regression.loss(lower)
    return weights


def predicted(weights: Tensor, inputs: Tensor) -> Tensor:
    """The class `[n]` of each row of `inputs` `[n, k]` by the weights that `fit` finds."""
    return (inputs @ weights[:, :-1].mT + weights[:, -1]).argmax(1)


@dataclass(frozen=True)
class _Regression:
    """Rows `[n, k]` with a 1 at their end, classes `[n, c]` as ones and zeros, and the weight `[n]` of each row."""

    rows: Tensor
    targets: Tensor
    balance: Tensor
    penalty: Tensor

    @staticmethod
    def of(train: Samples, num_classes: int) -> "_Regression":
        rows = functional.pad(train.inputs, (0, 1), value=1.0)
        targets = functional.one_hot(train.labels, num_classes).double()
        counts = targets.sum(0)
        balance = (targets / counts.clamp(min=1)).sum(1) / (counts > 0).sum()
        # The same added to all biases changes nothing: next to no penalty keeps it at 0.
        penalty = functional.pad(torch.full_like(rows[0, :-1], RIDGE), (0, 1), value=1e-9)
        return _Regression(rows, targets, balance, penalty)

    def loss(self, weights: Tensor) -> float:
        logs = (self.rows @ weights.mT).log_softmax(1)
        return float((self.penalty * weights.square()).sum() / 2 - self.balance @ (logs * self.targets).sum(1))

    def newton_step(self, weights: Tensor) -> Tensor:
        chances = (self.rows @ weights.mT).softmax(1)
        slope = ((chances - self.targets) * self.balance[:, None]).mT @ self.rows + self.penalty * weights
        num_classes, width = weights.shape
        spread = chances[:, :, None] * (torch.eye(num_classes).to(chances) - chances[:, None, :])
        spread = spread * self.balance[:, None, None]
        blocks = [[(self.rows * spread[:, one, other, None]).mT @ self.rows for other in range(num_classes)]
                  for one in range(num_classes)]
        curvature = torch.cat([torch.cat(row, 1) for row in blocks]) + torch.diag(self.penalty.repeat(num_classes))
        return torch.linalg.solve(curvature, slope.flatten()).view(num_classes, width)


def _tested(train: Samples, test: Samples, num_classes: int, seed: int) -> float:
    """The accuracy on `test` of a probe fitted to some of `train`, with inputs in units of their deviation there."""
    chosen = torch.randperm(len(train.labels), generator=generator(seed, "samples"))[:MOST_SAMPLES]
    mean, deviation = train.inputs.mean(0), train.inputs.std(0)
    units = deviation.where(deviation > 0, 1.0)
    weights = fit(Samples((train.inputs[chosen] - mean) / units, train.labels[chosen]), num_classes)
    return balanced_accuracy(predicted(weights, (test.inputs - mean) / units), test.labels)
