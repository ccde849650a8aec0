"""How a learned optimizer goes on learning."""

from optsearch.adaptation.adapters import with_adapters
from optsearch.adaptation.few_shot import AdaptedEstimator, FewShot
from optsearch.adaptation.inheritance import Inherited, inherit
from optsearch.adaptation.keeping import Keeping, kept, replayed, tasks_behind
from optsearch.adaptation.online import OnlineOptimizer
from optsearch.adaptation.recognising import learned_adapters

__all__ = ["AdaptedEstimator", "FewShot", "Inherited", "Keeping", "OnlineOptimizer", "inherit", "kept",
           "learned_adapters", "replayed", "tasks_behind", "with_adapters"]
