"""Is it better than a tuned AdamW? Baselines, metrics and comparisons."""

from optsearch.evaluation.baseline import Baseline
from optsearch.evaluation.comparison import (
    Cache,
    Comparison,
    FamilyReport,
    Opponent,
    compared,
    opponent,
    report,
    report_setups,
    selection_setup,
    tuned_baseline,
    uncached,
    value,
)
from optsearch.evaluation.metrics import Interval

__all__ = ["Baseline", "Cache", "Comparison", "FamilyReport", "Interval", "Opponent", "compared", "opponent", "report",
           "report_setups", "selection_setup", "tuned_baseline", "uncached", "value"]
