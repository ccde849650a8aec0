"""Pictures of curves and of graphs."""

from optsearch.pictures.curves import (
    Colouring,
    Curve,
    Panel,
    clouds,
    comparison,
    dots,
    learning_curve,
    profile,
    races,
    scaling,
)
from optsearch.pictures.graphs import Box, graph

__all__ = ["Box", "Colouring", "Curve", "Panel", "clouds", "comparison", "dots", "graph", "learning_curve", "profile",
           "races", "scaling"]
