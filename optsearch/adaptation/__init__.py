"""How a learned optimizer goes on learning."""

from optsearch.adaptation.few_shot import AdaptedEstimator, FewShot
from optsearch.adaptation.inheritance import Inherited, inherit
from optsearch.adaptation.online import OnlineOptimizer

__all__ = ["AdaptedEstimator", "FewShot", "Inherited", "OnlineOptimizer", "inherit"]
