"""How a learned optimizer is learned: unrolls of many inner trainings, and gradient estimators over them."""

from optsearch.meta_training.checkpoints import Checkpoints
from optsearch.meta_training.outcome import Outcome
from optsearch.meta_training.plan import Plan, Snapshot, part_of_budget
from optsearch.meta_training.points import Point
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.training import meta_train

__all__ = ["Checkpoints", "MetaTraining", "Outcome", "Plan", "Point", "Snapshot", "meta_train", "part_of_budget"]
