"""Which point to try next where several objectives count: the expected growth of the volume under their front."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models import SingleTaskGP
from botorch.utils.multi_objective.box_decompositions.box_decomposition_list import BoxDecompositionList
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from optsearch.search.surrogate.posterior import Draws, Posterior, normal_draws

NUM_DRAWS = 16
# Observed points that may turn out to be on the front.
NUM_CONTENDERS = 40
# The deviation of what is known, in the scale of the targets: small, but with a slope.
KNOWN = 1e-4
MIN_GAP = 1e-14


class Objective(Protocol):
    """One objective, lower is better: `values` of the known points `[draws or 1, known]`."""

    @property
    def values(self) -> Tensor: ...

    def marginals(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Means `[draws or 1, n]` and standard deviations `[n]` of other points."""


@dataclass(frozen=True)
class Counted:
    """An objective that is known of the known points, and modelled for all others from the first columns of rows."""

    values: Tensor
    posterior: Posterior

    def marginals(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior.marginals(rows[:, :self.posterior.rows.shape[-1]])


@dataclass(frozen=True)
class Costs:
    """What is known of objectives that are costs, and a model of each; `[n, costs]`, in the scale of the targets."""

    models: Sequence[Posterior]
    observed: Tensor
    pending: Tensor


class FrontImprovement:
    """The logarithm of the expected growth of the dominated hypervolume by one more point.

    What BoTorch's `qLogNoisyExpectedHypervolumeImprovement` estimates (Daulton et al. 2021,
    https://arxiv.org/abs/2105.08195; Ament et al. 2023, https://arxiv.org/abs/2310.20708): an average over draws of
    the front, but exact in the new point, whose objectives are independent given a draw: a sum over boxes of products
    of expected lengths, differences of expected improvements on the boxes' sides. The `reference` point `[objectives]`
    bounds the volume. Differentiable in the rows.
    """

    def __init__(self, objectives: Sequence[Objective], reference: Tensor) -> None:
        self.objectives = objectives
        with torch.no_grad():
            values = torch.stack(torch.broadcast_tensors(*(each.values for each in objectives)), -1)
            boxes = BoxDecompositionList(*(FastNondominatedPartitioning(-reference, -front) for front in values))
            # BoTorch's boxes are those of a maximum; a list of them is filled up with empty ones.
            upper, lower = -boxes.get_hypercell_bounds()
            self.is_box = (lower < upper).all(-1)
            self.upper = torch.where(self.is_box.unsqueeze(-1), upper, 0.0)
            self.is_open = lower.isinf() | ~self.is_box.unsqueeze(-1)
            self.lower = torch.where(self.is_open, self.upper - 1, lower)

    def __call__(self, rows: Tensor) -> Tensor:
        """Of rows `[n, columns]`, `[n]`."""
        return self._growth([objective.marginals(rows) for objective in self.objectives])

    def counted(self, rows: Tensor, costs: Tensor) -> Tensor:
        """Of rows whose objectives but the first are known, `[n, objectives - 1]`, in the scale of the targets."""
        deviation = torch.full((len(rows),), KNOWN, dtype=torch.float64)
        return self._growth([self.objectives[0].marginals(rows),
                             *((each.unsqueeze(0), deviation) for each in costs.unbind(-1))])

    def _growth(self, marginals: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """From means and deviations of every objective."""
        total = torch.zeros((), dtype=torch.float64)
        for index, (means, deviation) in enumerate(marginals):
            total = total + self._length(index, means, deviation)
        # `[draws, boxes, n]`
        total = total.masked_fill(~self.is_box.unsqueeze(-1), -torch.inf)
        return total.flatten(0, 1).logsumexp(0) - torch.tensor(len(self.is_box)).double().log()

    def _length(self, index: int, means: Tensor, deviation: Tensor) -> Tensor:
        """The logarithm of how much of a box's side is expected to lie above a point, `[draws, boxes, n]`."""
        up, low = (_log_ei_helper((side[..., index].unsqueeze(-1) - means.unsqueeze(-2)) / deviation)
                   for side in (self.upper, self.lower))
        part = (-torch.expm1((low - up).clamp(max=-MIN_GAP))).log()
        return deviation.log() + up + torch.where(self.is_open[..., index].unsqueeze(-1), 0.0, part)


def independent(processes: Sequence[SingleTaskGP], pending: Tensor, seed: int) -> FrontImprovement:
    """Where every objective has a process of the same rows, and what is under way counts as if about to end."""
    posteriors = [Posterior(process) for process in processes]
    with torch.no_grad():
        means = torch.stack([each.at(each.own)[0] for each in posteriors], -1)
    known = torch.cat([posteriors[0].own[contenders(means)], pending])
    normal = normal_draws(NUM_DRAWS, len(posteriors) * len(known), seed).chunk(len(posteriors), -1)
    return FrontImprovement([Draws(each, known, part) for each, part in zip(posteriors, normal, strict=True)],
                            reference_point(means))


def with_costs(process: SingleTaskGP, costs: Costs, pending: Tensor, seed: int) -> FrontImprovement:
    """Where all objectives but the first are costs, which are known of what was tried and is under way."""
    posterior = Posterior(process)
    with torch.no_grad():
        values = torch.cat([posterior.at(posterior.own)[0].unsqueeze(-1), costs.observed], -1)
    order = contenders(values)
    known = torch.cat([posterior.own[order], pending])
    counted = torch.cat([costs.observed[order], costs.pending])
    return FrontImprovement([Draws(posterior, known, normal_draws(NUM_DRAWS, len(known), seed)),
                             *(Counted(each.unsqueeze(0), model) for each, model
                               in zip(counted.unbind(-1), costs.models, strict=True))], reference_point(values))


def contenders(values: Tensor) -> Tensor:
    """The indices of the rows of `[n, objectives]` that the fewest others dominate."""
    one, other = values.unsqueeze(0), values.unsqueeze(1)
    is_dominated = (other <= one).all(-1) & (other < one).any(-1)
    return is_dominated.sum(0).argsort(stable=True)[:NUM_CONTENDERS]


def reference_point(values: Tensor) -> Tensor:
    """A tenth of its extent beyond the worst of the front of `[n, objectives]`, in each objective."""
    front = -values[is_non_dominated(-values)]
    reference: Tensor = -infer_reference_point(front)
    return reference
