"""Whether the predictor's forecasts come true on a table of learning curves, for designs that it has not seen."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from optsearch.bench.design_table import DesignTable
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.power_law import last_value, power_law
from optsearch.search.forecasting.predictor import Forecast, PerformancePredictor
from optsearch.search.forecasting.pruner import PruningRule, num_top
from optsearch.search.forecasting.ranks import coverage, kendall
from optsearch.search.samplers import encoding_of
from optsearch.search.surrogate.encoding import Encoding
from optsearch.seeds import generator

PARTS = (0.1, 0.25, 0.5)
PRUNED_FROM = (0.01, 0.1)
NUM_FOLDS = 5
RULE = PruningRule()


@dataclass(frozen=True)
class Unseen:
    """Forecasts of curves at every budget of a table, each by a predictor that was fitted on other designs.

    `forecasts` has one entry a budget; `bars` `[n]` is the value that the best tenth of the designs fitted on reached.
    """

    curves: Sequence[LearningCurve]
    budgets: Sequence[int]
    forecasts: Sequence[Forecast]
    bars: Tensor

    @property
    def ends(self) -> Tensor:
        return torch.tensor([curve.values[-1] for curve in self.curves], dtype=torch.float64)

    @property
    def is_whole(self) -> Tensor:
        return torch.tensor([curve.budgets[-1] == self.budgets[-1] for curve in self.curves])

    def until(self, index: int) -> list[LearningCurve]:
        return [curve.until(self.budgets[index]) for curve in self.curves]

    def index_at(self, part: float) -> int:
        """The last budget within a part of the whole."""
        return max(0, sum(budget <= part * self.budgets[-1] for budget in self.budgets) - 1)


def audit_table(table: DesignTable, seed: int = 0) -> dict[str, Any]:
    """Plain data, for each family and as the `mean` over them: how forecasts of designs left out compare with the ends.

    Keyed by the part of the budget spent: Kendall's rank correlation with the end of the forecast (`tau`), of the last
    value and of a power law; `coverage_50` and `coverage_90` of those that did not end early. Keyed by the part from
    which trials may be pruned: `false_prune`, the part of the best tenth that was pruned, and `compute_saved`, the
    part of all inner steps that was not spent. `ceiling` is the correlation of the ends of two meta-trainings.
    """
    encoding = encoding_of(table.space, table.space_text)
    families = {family: _audit(table, family, encoding, seed) for family in table.families}
    names = [name for name in next(iter(families.values())) if name != "num_designs"] if families else []
    return {"families": families, "mean": {name: _mean([each[name] for each in families.values()]) for name in names}}


def curves_of(table: DesignTable, family: str, seed: int = 0) -> list[LearningCurve]:
    """Final learning curves of one family, one a design."""
    return [LearningCurve(table.designs[curve.design], table.budgets[:len(curve.values)], curve.values,
                          curve.failed_shares, is_final=True) for curve in table.of(family, seed)]


def forecasts_of_unseen(curves: Sequence[LearningCurve], encoding: Encoding, budgets: Sequence[int],
                        seed: int = 0) -> Unseen:
    """Every curve is forecast by the predictor fitted on the designs of the other folds."""
    order = torch.randperm(len(curves), generator=generator(seed, "folds"))
    means, deviations, divergences = torch.zeros(3, len(budgets), len(curves), dtype=torch.float64)
    bars = torch.zeros(len(curves), dtype=torch.float64)
    for fold in range(NUM_FOLDS):
        inside = sorted(order[fold::NUM_FOLDS].tolist())
        outside = [curve for index, curve in enumerate(curves) if index not in inside]
        predictor = PerformancePredictor.fit(outside, encoding, budgets[-1], seed)
        ends = sorted(curve.values[-1] for curve in outside)
        bars[inside] = ends[num_top(len(ends), RULE.top) - 1]
        for index, budget in enumerate(budgets):
            found = predictor.forecast([curves[row].until(budget) for row in inside])
            means[index, inside], deviations[index, inside] = found.mean, found.deviation
            divergences[index, inside] = found.divergence
    forecasts = [Forecast(*each) for each in zip(means, deviations, divergences, strict=True)]
    return Unseen(curves, budgets, forecasts, bars)


def pruned_at(unseen: Unseen, start: float, threshold: float = RULE.threshold) -> list[int | None]:
    """The first budget from the part `start` on at which each curve is less likely than `threshold` to reach its bar.

    None for a curve that is never pruned.
    """
    found: list[int | None] = [None] * len(unseen.curves)
    for index in range(len(unseen.budgets) - 1):
        budget, forecast = unseen.budgets[index], unseen.forecasts[index]
        if budget < start * unseen.budgets[-1]:
            continue
        chances = (1 - forecast.divergence) * torch.special.ndtr((unseen.bars - forecast.mean) / forecast.deviation)
        for row, chance in enumerate(chances.tolist()):
            if found[row] is None and chance < threshold and budget < unseen.curves[row].budgets[-1]:
                found[row] = budget
    return found


def _audit(table: DesignTable, family: str, encoding: Encoding, seed: int) -> dict[str, Any]:
    curves = curves_of(table, family)
    started = time.perf_counter()
    unseen = forecasts_of_unseen(curves, encoding, table.budgets, seed)
    seconds = time.perf_counter() - started
    accuracy = {part: _accuracy(unseen, part) for part in PARTS}
    pruning = {part: _pruning(unseen, part) for part in PRUNED_FROM}
    by_part = {name: {str(part): each[name] for part, each in found.items()}
               for found in (accuracy, pruning) for name in next(iter(found.values()))}
    return by_part | {"ceiling": _ceiling(table, family), "num_designs": len(curves), "seconds": seconds}


def _accuracy(unseen: Unseen, part: float) -> dict[str, float]:
    index, whole = unseen.index_at(part), unseen.is_whole
    seen, forecast, ends = unseen.until(index), unseen.forecasts[index], unseen.ends
    kept = ends[whole], forecast.mean[whole], forecast.deviation[whole]
    return {"tau": kendall(forecast.mean, ends),
            "last_value_tau": kendall(last_value(seen, unseen.budgets[-1])[0], ends),
            "power_law_tau": kendall(power_law(seen, unseen.budgets[-1])[0], ends),
            "coverage_50": coverage(*kept, 0.5), "coverage_90": coverage(*kept, 0.9)}


def _pruning(unseen: Unseen, start: float) -> dict[str, float]:
    pruned = pruned_at(unseen, start)
    top = unseen.ends.argsort()[:num_top(len(pruned), RULE.top)].tolist()
    whole = sum(curve.budgets[-1] for curve in unseen.curves)
    spent = sum(curve.budgets[-1] if budget is None else budget
                for curve, budget in zip(unseen.curves, pruned, strict=True))
    return {"false_prune": fmean(pruned[row] is not None for row in top), "compute_saved": 1 - spent / whole}


def _ceiling(table: DesignTable, family: str) -> float:
    first, second = ({curve.design: curve.values[-1] for curve in table.of(family, seed)} for seed in (0, 1))
    both = sorted(set(first) & set(second))
    return kendall(*(torch.tensor([ends[design] for design in both]).double() for ends in (first, second))) \
        if len(both) > 1 else nan


def _mean(found: Sequence[Any]) -> Any:
    if isinstance(found[0], dict):
        return {key: fmean(each[key] for each in found) for key in found[0]}
    return fmean(found)
