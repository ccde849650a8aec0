"""What is learned: designs of learned optimizers, composed of parts."""

from optsearch.optimizers.bases import BASES, SGDM, AdamW
from optsearch.optimizers.controllers import CONTROLLERS, History, NoController
from optsearch.optimizers.designs import DESIGNS, named_design
from optsearch.optimizers.features import FEATURE_GROUPS, GROUP_SETS, Features
from optsearch.optimizers.heads import HEADS, ExpMagnitude, OutputRMS, ParameterRMS, Raw
from optsearch.optimizers.memory import MEMORIES, NoMemory
from optsearch.optimizers.mixings import MIXINGS, Gated, NoMixing, Residual
from optsearch.optimizers.model_graph import ModelGraph
from optsearch.optimizers.optimizer import CONTRACT, PARTS, LearnedOptimizer, Observation, num_weights
from optsearch.optimizers.rules import GRU, LSTM, MLP, RULES, NoRule
from optsearch.optimizers.schedules import SCHEDULES, Constant, Progress
from optsearch.optimizers.steering import Controls
from optsearch.optimizers.tensors import TensorFeatures

__all__ = [
    "BASES", "CONTRACT", "CONTROLLERS", "DESIGNS", "FEATURE_GROUPS", "GROUP_SETS", "GRU", "HEADS", "LSTM",
    "MEMORIES", "MIXINGS", "MLP", "PARTS", "RULES", "SCHEDULES", "SGDM", "AdamW", "Constant", "Controls",
    "ExpMagnitude", "Features", "Gated", "History", "LearnedOptimizer", "ModelGraph", "NoController", "NoMemory",
    "NoMixing", "NoRule", "Observation", "OutputRMS", "ParameterRMS", "Progress", "Raw", "Residual",
    "TensorFeatures", "named_design", "num_weights",
]
