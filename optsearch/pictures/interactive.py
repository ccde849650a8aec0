"""Charts that can be pointed at and zoomed into, for Optuna Dashboard."""

from itertools import cycle
from typing import Any

from plotly.graph_objects import Bar, Figure, Scatter

from optsearch.pictures.charts import CHART_COLOURS, QUIET_COLOUR, Chart, Series


def interactive(chart: Chart) -> Figure:
    """The chart as a plotly figure without colours of its own for ground and text, which are the dashboard's."""
    drawn, colours = Figure(), cycle(CHART_COLOURS)
    for series in chart.series:
        colour = QUIET_COLOUR if series.quiet else next(colours)
        for trace in _traces(series, colour):
            drawn.add_trace(trace)
    if chart.mark is not None:
        drawn.add_hline(y=chart.mark, line_dash="dash", line_color=QUIET_COLOUR)
    drawn.update_layout(
        title={"text": chart.title, "subtitle": {"text": chart.note}}, xaxis_title=chart.horizontal,
        yaxis_title=chart.vertical, xaxis_type="log" if chart.log_x else None,
        yaxis_type="log" if chart.log_y else None, hovermode="closest")
    if any(series.look == "bars" for series in chart.series):
        drawn.update_yaxes(autorange="reversed", automargin=True)
    return drawn


def _traces(series: Series, colour: str) -> list[Any]:
    shown = {"name": series.label, "showlegend": not series.quiet,
             "text": list(series.texts) or None, "hoverinfo": "text+name" if series.texts else None}
    if series.look == "bars":
        return [Bar(x=list(series.y), y=list(series.x), orientation="h", marker_color=colour,
                    error_x=_errors(series), **shown)]
    if series.look == "points":
        return [Scatter(x=list(series.x), y=list(series.y), mode="markers", error_y=_errors(series),
                        marker={"color": colour, "size": 5 if series.quiet else 8}, **shown)]
    line = {"color": colour, "width": 1 if series.quiet else 2.5, "shape": "hv" if series.look == "step" else "linear"}
    found = [Scatter(x=list(series.x), y=list(series.y), mode="lines" if len(series.x) > 1 else "markers", line=line,
                     opacity=0.55 if series.quiet else 1.0, **shown)]
    if series.low:
        hidden = {"x": list(series.x), "mode": "lines", "line": {"width": 0, "shape": line["shape"]},
                  "showlegend": False, "hoverinfo": "skip"}
        found += [Scatter(y=list(series.low), **hidden),
                  Scatter(y=list(series.high), fill="tonexty", fillcolor=_faint(colour), **hidden)]
    return found


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place:place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _errors(series: Series) -> dict[str, Any] | None:
    if not series.low:
        return None
    rows = list(zip(series.y, series.low, series.high, strict=True))
    return {"type": "data", "array": [high - y for y, _, high in rows], "arrayminus": [y - low for y, low, _ in rows],
            "thickness": 1}
