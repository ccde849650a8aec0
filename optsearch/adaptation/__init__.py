"""How a learned optimizer goes on learning."""

from optsearch.adaptation.few_shot import AdaptedEstimator, FewShot
from optsearch.adaptation.inheritance import Inherited, inherit

__all__ = ["AdaptedEstimator", "FewShot", "Inherited", "inherit"]
