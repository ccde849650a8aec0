"""Charts: the same data drawn by matplotlib and by plotly, and what they show of a study."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from math import exp
from pathlib import Path

import pytest

from optsearch.pictures import Chart, Series, chart_svg, save_chart
from optsearch.pictures.interactive import interactive
from optsearch.report.charts import study_charts, trial_chart
from optsearch.search.costs import Cost
from optsearch.search.definition import define
from optsearch.search.forecasting.pruner import Judgement
from optsearch.search.snapshot import Point, Snapshot, State, Trial

BEGUN = datetime(2026, 1, 1)
CHARTS = {
    "lines": Chart("Lines", "steps", "loss", [Series("a", [1, 2, 4], [3.0, 2.0, 1.0], low=[2, 1, 0.5], high=[4, 3, 2]),
                                              Series("b", [1, 4], [5.0, 4.0], "step"),
                                              Series("c", [1, 2], [1.0, 1.0], quiet=True)], log_y=True, mark=1.0),
    "points": Chart("Points", "flops", "loss", [Series("a", [10, 5000], [0.5, 0.7], "points", texts=["one", "two"])],
                    log_x=True),
    "bars": Chart("Bars", "importance", "", [
        Series("a", ["rule", "base"], [0.7, 0.3], "bars", [0.6, 0.2], [0.8, 0.4])]),
}


def a_trial(number: int, state: State, values: list[float], **rest: object) -> Trial:
    curve = tuple(Point(inner_steps=1000 * (index + 1), value=value, meta_loss=1.0, inner_steps_per_second=500.0,
                        seconds=2.0 * (index + 1), failed_share=0.0) for index, value in enumerate(values))
    facts = {
        "last_number": number, "parts": {"rule": {"kind": "mlp"}, "base": {"kind": "adamw"}}, "params": {},
        "value": values[-1] if values else None, "cost": Cost(100.0 * (number + 1), 8.0), "curve": curve,
        "forecasts": (), "started": BEGUN, "ended": BEGUN + timedelta(minutes=number), "problem": "",
        "is_feasible": True}
    return Trial(number=number, state=state, **(facts | rest))  # type: ignore[arg-type]


def a_snapshot(*trials: Trial) -> Snapshot:
    definition = define(space="quickstart", tasks=["quadratics"], horizon=40, budget=4000)
    return Snapshot(name="mine", study_id=1, url="sqlite://", definition=definition, trials=trials, finals=None)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_drawn_for_files_for_pages_and_for_the_dashboard(name: str, tmp_path: Path) -> None:
    chart = CHARTS[name]
    save_chart(tmp_path / "chart.png", chart)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    svg = chart_svg(chart)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert svg == chart_svg(chart)
    labels = {series.label for series in chart.series if not series.quiet}
    shown = {trace.name for trace in interactive(chart).data if trace.showlegend}
    assert shown == labels
    for text in (chart.title, *(labels if len(labels) > 1 else ())):
        assert f">{text}<" in re.sub(r"\s+", " ", svg)


def test_the_best_so_far_never_rises_and_counts_what_all_trials_spent() -> None:
    trials = [a_trial(0, "complete", [0.5, 0.2]), a_trial(1, "paused", [0.9]), a_trial(2, "complete", [0.4, 0.3]),
              a_trial(3, "complete", [0.1, -0.4]), a_trial(4, "complete", [-0.9], is_feasible=False)]
    points, best = study_charts(a_snapshot(*trials))["progress"].series
    assert list(best.x) == [2000, 3000, 5000, 7000, 8000]
    assert list(best.y) == pytest.approx([exp(0.2)] * 3 + [exp(-0.4)] * 2)
    assert list(points.x) == [2000, 5000, 7000]


def test_the_front_has_what_nothing_is_better_than_in_both() -> None:
    trials = [a_trial(0, "complete", [0.5]), a_trial(1, "complete", [0.7]), a_trial(2, "complete", [0.1]),
              a_trial(3, "complete", [0.3])]
    _, front = study_charts(a_snapshot(*trials))["front"].series
    assert list(front.x) == [100.0, 300.0]
    assert list(front.y) == pytest.approx([exp(0.5), exp(0.1)])


def test_first_forecasts_stand_against_true_ends() -> None:
    def judged(steps: int, mean: float) -> Judgement:
        return Judgement(study_id=1, chain=0, inner_steps=steps, mean=mean, deviation=0.1,
                         quantiles=(mean - 0.2, mean - 0.1, mean + 0.1, mean + 0.2))

    trial = replace(a_trial(0, "complete", [0.5, 0.2, 0.1]), forecasts=(judged(1000, 0.3), judged(2000, 0.15)))
    charts = study_charts(a_snapshot(trial, a_trial(1, "complete", [0.4])))
    (forecast, _) = charts["calibration"].series
    assert (list(forecast.x), list(forecast.y)) == ([0.1], [0.3])
    curve, band = trial_chart(trial, 3000).series
    assert list(curve.x) == [1000, 2000, 3000]
    assert (list(band.x), list(band.low)) == ([1000, 2000], pytest.approx([0.1, -0.05]))


def test_a_study_without_trials_has_no_charts() -> None:
    assert study_charts(a_snapshot()) == {}
