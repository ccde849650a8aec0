"""Pictures of curves and of graphs."""

from optsearch.pictures.charts import Chart, Series, chart_svg, save_chart
from optsearch.pictures.curves import (
    Colouring,
    Curve,
    Panel,
    clouds,
    comparison,
    dots,
    profile,
    races,
    scaling,
)
from optsearch.pictures.graphs import Box, graph, graph_svg
from optsearch.pictures.sparklines import sparkline_svg

__all__ = ["Box", "Chart", "Colouring", "Curve", "Panel", "Series", "chart_svg", "clouds", "comparison", "dots",
           "graph", "graph_svg", "profile", "races", "save_chart", "scaling", "sparkline_svg"]
