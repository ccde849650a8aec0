"""How a learned optimizer goes on learning."""

from optsearch.adaptation.inheritance import Inherited, inherit

__all__ = ["Inherited", "inherit"]
