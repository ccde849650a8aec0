"""What a table of learning curves holds, in figures."""

from typing import Any

import torch

from optsearch.bench.design_table import DesignTable
from optsearch.search.forecasting.ranks import kendall


def facts(table: DesignTable) -> dict[str, Any]:
    """Plain data: how many curves and designs there are; of each family also how good, and how far chance goes."""
    return {"curves": len(table.curves), "designs": len({curve.design for curve in table.curves}),
            "budget": table.budgets[-1], "horizon": table.horizon,
            "families": {family: _family_facts(table, family) for family in table.families}}


def _family_facts(table: DesignTable, family: str) -> dict[str, Any]:
    curves = [curve for curve in table.curves if curve.family == family]
    ends = [curve.values[-1] for curve in curves]
    return {"curves": len(curves), "designs": len({curve.design for curve in curves}),
            "ended_early": sum(len(curve.values) < len(table.budgets) for curve in curves),
            "best": min(ends), "worst": max(ends), "repeat_correlation": _repeat_correlation(table, family)}


def _repeat_correlation(table: DesignTable, family: str) -> float | None:
    """Kendall's rank correlation of the ends of two meta-trainings of the same designs; None of fewer than two."""
    first, second = ({curve.design: curve.values[-1] for curve in table.of(family, seed)} for seed in (0, 1))
    both = sorted(set(first) & set(second))
    ends = torch.tensor([[each[design] for design in both] for each in (first, second)], dtype=torch.float64)
    return kendall(*ends) if len(both) > 1 else None
