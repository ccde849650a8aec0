"""What is learned: designs of learned optimizers, composed of parts."""

from optsearch.optimizers.bases import BASES, SGDM, AdamW
from optsearch.optimizers.controllers import CONTROLLERS, History, NoController
from optsearch.optimizers.designs import DESIGNS, named_design
from optsearch.optimizers.features import FEATURE_GROUPS, GROUP_SETS, Features
from optsearch.optimizers.heads import HEADS, ExpMagnitude, OutputRMS, ParameterRMS, Raw
from optsearch.optimizers.mixings import MIXINGS, Gated, NoMixing, Residual
from optsearch.optimizers.optimizer import CONTRACT, PARTS, LearnedOptimizer, Observation, num_weights
from optsearch.optimizers.rules import LSTM, MLP, RULES, NoRule
from optsearch.optimizers.schedules import SCHEDULES, Constant, Progress

__all__ = [
    "BASES", "CONTRACT", "CONTROLLERS", "DESIGNS", "FEATURE_GROUPS", "GROUP_SETS", "HEADS", "LSTM", "MIXINGS", "MLP",
    "PARTS", "RULES", "SCHEDULES", "SGDM", "AdamW", "Constant", "ExpMagnitude", "Features", "Gated", "History",
    "LearnedOptimizer", "NoController", "NoMixing", "NoRule", "Observation", "OutputRMS", "ParameterRMS", "Progress",
    "Raw", "Residual", "named_design", "num_weights",
]
