"""What is learned: designs of learned optimizers, composed of parts."""

from optsearch.optimizers.adam import AdamW, AggMo
from optsearch.optimizers.bases import BASES, SGDM, Lion, RMSprop
from optsearch.optimizers.controllers import CONTROLLERS, History, Linear, NoController
from optsearch.optimizers.costs import Costs, num_weights
from optsearch.optimizers.designs import DESIGNS, named_design
from optsearch.optimizers.feature_groups import FEATURE_GROUPS, GROUP_SETS
from optsearch.optimizers.features import Features
from optsearch.optimizers.gnn import GNN
from optsearch.optimizers.graph import Structure
from optsearch.optimizers.heads import HEADS, ExpMagnitude, OutputRMS, ParameterRMS, Raw
from optsearch.optimizers.kinds import PARTS
from optsearch.optimizers.memory import MEMORIES, KeyValueMemory, NoMemory
from optsearch.optimizers.mixings import MIXINGS, Fixed, Gated, NoMixing, Residual
from optsearch.optimizers.model_graph import ModelGraph
from optsearch.optimizers.moment import Observation
from optsearch.optimizers.muon import Muon
from optsearch.optimizers.optimizer import CONTRACT, LearnedOptimizer
from optsearch.optimizers.rules import GRU, LSTM, MLP, RULES, NoRule
from optsearch.optimizers.schedules import SCHEDULES, Constant, Cosine, Progress
from optsearch.optimizers.soap import SOAP
from optsearch.optimizers.steering import Controls
from optsearch.optimizers.tensors import TensorFeatures
from optsearch.optimizers.transformer import Transformer
from optsearch.optimizers.watchful_mixings import Adaptive, Trust

__all__ = [
    "BASES", "CONTRACT", "CONTROLLERS", "DESIGNS", "FEATURE_GROUPS", "GNN", "GROUP_SETS", "GRU", "HEADS", "LSTM",
    "MEMORIES", "MIXINGS", "MLP", "PARTS", "RULES", "SCHEDULES", "SGDM", "SOAP", "AdamW", "Adaptive", "AggMo",
    "Constant", "Controls", "Cosine", "Costs", "ExpMagnitude", "Features", "Fixed", "Gated", "History",
    "KeyValueMemory", "LearnedOptimizer", "Linear", "Lion", "ModelGraph", "Muon", "NoController", "NoMemory",
    "NoMixing", "NoRule", "Observation", "OutputRMS", "ParameterRMS", "Progress", "RMSprop", "Raw", "Residual",
    "Structure", "TensorFeatures", "Transformer", "Trust", "named_design", "num_weights",
]
