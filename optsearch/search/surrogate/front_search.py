"""The search for points that push a front forward, with costs that are counted or objectives that are modelled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from botorch.models import SingleTaskGP
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from optsearch.search.rows import random_suggest
from optsearch.search.surrogate.acquisition import Choice, IsAllowed, best_points
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.fits import Fits, observed
from optsearch.search.surrogate.front import Costs, independent, with_costs
from optsearch.search.surrogate.history import History
from optsearch.search.surrogate.posterior import Posterior
from optsearch.search.surrogate.process import Observations, Warp
from optsearch.search.surrogate.tree import Params

CostsOf = Callable[[Params], Sequence[float]]
# Counting the costs of a point takes 50 ms: those of the best by the models are counted.
NUM_COUNTED = 8


@dataclass
class FrontSearch:
    """The search of one study; `costs` are its objectives but the first, where they are known from a point."""

    encoding: Encoding
    fits: Fits
    costs: CostsOf | None = None
    is_allowed: IsAllowed | None = None

    def points(self, process: SingleTaskGP, objectives: Sequence[History], seed: int) -> list[Params]:
        """Points that were not tried, the most promising first.

        `process` models the first objective. `objectives` are what is known of each, of the same points; only of the
        first where costs are counted.
        """
        known = objectives[0]
        if self.costs is not None:
            return self._by_costs(process, known, seed)
        others = [self.fits.process(self.encoding, observed(self.encoding, each), len(each.points), index)
                  for index, each in enumerate(objectives[1:], start=1)]
        score = independent([process, *others], self.encoding.encode(known.pending), seed)
        values = torch.tensor([each.values for each in objectives], dtype=torch.float64).T
        return best_points(score, self.encoding, self._choice(known, values, seed), seed)

    def _by_costs(self, process: SingleTaskGP, known: History, seed: int) -> list[Params]:
        """Models of the costs say which points are worth a count, and the counts which of these is best."""
        logs = self._logs(known.points)
        warps = [Warp.of(column) for column in logs.unbind(-1)]

        def targets(points: Sequence[Params]) -> Tensor:
            columns = self._logs(points).unbind(-1) if points else logs[:0].unbind(-1)
            return torch.stack([warp(column) for warp, column in zip(warps, columns, strict=True)], -1)

        score = with_costs(process, Costs(self._models(known, logs), targets(known.points), targets(known.pending)),
                           self.encoding.encode(known.pending), seed)
        values = torch.cat([torch.tensor(known.values, dtype=torch.float64).unsqueeze(-1), logs], -1)
        found = best_points(score, self.encoding, self._choice(known, values, seed), seed)
        few, rest = found[:NUM_COUNTED], found[NUM_COUNTED:]
        with torch.no_grad():
            growth = score.counted(self.encoding.encode(few), targets(few))
        return [few[index] for index in growth.argsort(descending=True, stable=True)] + rest

    def _models(self, known: History, logs: Tensor) -> list[Posterior]:
        """Of the costs' logarithms, on parameters alone: drawing graphs would tell them little."""
        rows, zeros = self._plain.encode(known.points), torch.zeros(len(logs), dtype=torch.float64)
        return [Posterior(self.fits.process(self._plain, Observations(rows, column, zeros), len(rows), index))
                for index, column in enumerate(logs.unbind(-1), start=1)]

    @cached_property
    def _plain(self) -> Encoding:
        return Encoding(self.encoding.tree)

    def _choice(self, known: History, values: Tensor, seed: int) -> Choice:
        """The points of the front count as the best, in any order."""
        front = is_non_dominated(-values).nonzero().squeeze(-1)
        order = front[torch.randperm(len(front), generator=torch.Generator().manual_seed(seed % 2**63))]
        return Choice([known.points[index] for index in order], known.tried, self.is_allowed)

    def _logs(self, points: Sequence[Params]) -> Tensor:
        """log(1 + cost) `[points, costs]`."""
        assert self.costs is not None
        # What another process is still asking is filled up at random.
        whole = [self.encoding.tree.complete(point, random_suggest(seed=0)) for point in points]
        return torch.tensor([[*self.costs(point)] for point in whole], dtype=torch.float64).log1p()


