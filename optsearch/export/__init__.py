"""How a learned optimizer leaves: one file, an `nn.Module`, a `torch.optim.Optimizer`."""

from optsearch.export.artifact import Artifact
from optsearch.export.averaging import average
from optsearch.export.celo import read_celo
from optsearch.export.embeddings import EmbeddingLog
from optsearch.export.module import OptimizerModule, load
from optsearch.export.optimizer import LearnedTorchOptimizer

__all__ = ["Artifact", "EmbeddingLog", "LearnedTorchOptimizer", "OptimizerModule", "average", "load", "read_celo"]
