"""Is it better than a tuned AdamW? Opponents, metrics, comparisons, and analytics of single runs."""

from optsearch.evaluation.contenders import (
    BASELINE,
    LEARNED,
    TUNED_LEARNED,
    Contender,
    hand_made,
    learned,
    learned_tuned,
)
from optsearch.evaluation.curves import CurveAnalysis
from optsearch.evaluation.hand_made import OPPONENTS
from optsearch.evaluation.loggers import CSVLogger, MLflowLogger, TensorBoardLogger, WandbLogger
from optsearch.evaluation.measurements import Cache, Measurement, Tuned, uncached
from optsearch.evaluation.metrics import Interval
from optsearch.evaluation.selection import (
    Opponent,
    baseline_curve,
    opponent,
    selection_setup,
    value,
    value_and_curves,
    values,
)
from optsearch.evaluation.tracker import LearningCurveTracker
from optsearch.evaluation.yardstick import (
    NUM_REPORT_SEEDS,
    Duel,
    Result,
    Standing,
    compete,
    duel,
    profile,
    report_setup,
    standing,
)

__all__ = [
    "BASELINE", "LEARNED", "NUM_REPORT_SEEDS", "OPPONENTS", "TUNED_LEARNED", "CSVLogger", "Cache", "Contender",
    "CurveAnalysis", "Duel", "Interval", "LearningCurveTracker", "MLflowLogger", "Measurement", "Opponent", "Result",
    "Standing", "TensorBoardLogger", "Tuned", "WandbLogger", "baseline_curve", "compete", "duel",
    "hand_made", "learned",
    "learned_tuned", "opponent", "profile", "report_setup", "selection_setup", "standing", "uncached", "value",
    "value_and_curves", "values",
]
