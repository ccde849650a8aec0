"""What a terminal, a narrow one and a pipe show of a study that runs."""

import io
import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from math import exp, inf, log, nan
from pathlib import Path

import optuna
import pytest
from command_line import call

from optsearch import live, progress, watching
from optsearch.search.definition import define
from optsearch.search.events import Event
from optsearch.search.forecasting.audit import audit
from optsearch.search.forecasting.pruner import Judgement
from optsearch.search.snapshot import Snapshot
from optsearch.search.study import Store

BUDGET = 4000
DESIGN = {slot: {"kind": kind} for slot, kind in {
    "controller": "transformer", "memory": "key_value", "rule": "mlp", "head": "exp_magnitude", "mixing": "residual",
    "base": "adamw", "schedule": "progress"}.items()}
CURVE = [0.4, 0.1, -0.05]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """With study `mine`: a complete, a pruned and a running trial, the last with a forecast."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    found = Store.at()
    study = found.create("mine", define(space="quickstart", tasks=["quadratics"], horizon=40, budget=BUDGET))
    add(found, study, optuna.trial.TrialState.COMPLETE, [0.3, 0.2, 0.1, -0.1])
    add(found, study, optuna.trial.TrialState.PRUNED, [0.9])
    add(found, study, optuna.trial.TrialState.RUNNING, CURVE)
    return found


def add(store: Store, study: optuna.Study, state: optuna.trial.TrialState, values: list[float]) -> None:
    number = len(study.trials)
    steps = [1000 * (index + 1) for index in range(len(values))]
    study.add_trial(optuna.create_trial(
        state=state, value=values[-1] if state is optuna.trial.TrialState.COMPLETE else None,
        intermediate_values=dict(zip(steps, values, strict=True)),
        user_attrs={"design": DESIGN, "owner": {"host": "far"}}))
    for step, value in zip(steps, values, strict=True):
        store.records.put_point(study._study_id, number, step, {
            "inner_steps": step, "value": value, "meta_loss": 1.0, "inner_steps_per_second": 250.0, "seconds": 1.0,
            "failed_share": 0.0, "point": step // 1000})
    if state is optuna.trial.TrialState.RUNNING:
        judged = Judgement(study_id=study._study_id, chain=number, inner_steps=steps[-1], mean=log(0.9), deviation=0.1,
                           quantiles=(log(0.8), -0.15, -0.05, log(1.1)))
        store.records.put_forecast(study._study_id, number, steps[-1], vars(judged))


def test_a_sparkline_is_high_where_the_value_is_and_flat_where_only_noise_is() -> None:
    assert live.sparkline([1.0, 0.5, 0.0]) == "█▅▁"
    assert live.sparkline([0.0, 0.001]) == "▁▁"
    assert live.sparkline([1.0, nan, 0.0]) == "█!▁"
    assert live.sparkline([inf]) == "!"
    assert live.sparkline([]) == ""
    long = live.sparkline([float(-index) for index in range(100)])
    assert (len(long), long[0], long[-1]) == (live.NUM_BLOCKS, "█", "▁")


def test_a_view_has_the_facts_of_the_study(store: Store) -> None:
    view = live.View.of(Snapshot.of(store, "mine"))
    (running,) = view.running
    assert (running.number, running.values, running.part, running.place) == (2, tuple(CURVE), 0.75, "far")
    assert running.end == (log(0.9), log(0.8), log(1.1))
    # Of 3 budgets three quarters of one are saved, and a quarter of one is left at 250 steps/s.
    assert view.saved == pytest.approx(0.25)
    assert view.saved == pytest.approx(audit(store.load("mine"), store.records).compute_saved)
    assert view.seconds_left == pytest.approx(1000 / 250)
    assert view.best is not None
    assert view.best.number == 0
    assert view.count("pruned") == view.count("complete") == 1
    assert live.View.of(Snapshot.of(store, "mine"), {2: "cuda:1"}).running[0].place == "cuda:1"


def test_a_wide_terminal_shows_all_and_a_narrow_one_what_matters(store: Store) -> None:
    view = live.View.of(Snapshot.of(store, "mine"))
    header, row = live.table(view, 200)
    assert header.split("  ")[0] == "trial"
    for words in ("transformer controller, key_value memory", "progress schedule", live.sparkline(CURVE),
                  f"{exp(-0.05):.3f}", "0.90 (0.80-1.10)", "75%", "250", "far"):
        assert words in row
    narrow = live.table(view, 80)
    assert "0.90 (0.80-1.10)" in narrow[1]
    assert live.sparkline(CURVE) in narrow[1]
    assert "75%" in narrow[1]
    assert "far" not in narrow[1]
    for width in (20, 40, 60, 80, 200):
        lines = [*live.table(view, width), live.best_line(view, width), live.counts_line(view, width),
                 live.bar_line(0.5, 60.0, 60.0, width)]
        assert max(map(len, lines)) <= width
    assert live.bar_line(0.5, 61.0, 59.0, 80).endswith("50%, 0:01:01 elapsed, about 0:00:59 left")


def test_more_trials_than_rows_are_counted(store: Store) -> None:
    view = live.View.of(Snapshot.of(store, "mine"))
    many = replace(view, running=view.running * 30)
    lines = live.table(many, 80, 10)
    assert len(lines) <= 11
    assert lines[-1] == "and 21 more"
    assert live.table(replace(view, running=()), 80) == []


def test_a_run_looks_at_its_study_only_after_news_and_not_too_often(store: Store) -> None:
    looks: list[str] = []

    def read() -> Snapshot:
        looks.append("one")
        return Snapshot.of(store, "mine")

    lookout = watching.Lookout(read, 10.0, 2.0)
    for _ in range(5):
        assert "1 running, 1 complete, 1 pruned" in "\n".join(lookout.draw(200, 24))
    assert len(looks) == 1
    lookout.tell(Event("reported", 2, "cuda:3", step=3000, value=0.0), 4.0)
    lookout.draw(200, 24)
    assert len(looks) == 1
    lookout.due = 0.0
    assert "cuda:3" in lookout.draw(200, 24)[1]
    assert "40%" in lookout.draw(200, 24)[-1]
    assert "left" in lookout.draw(200, 24)[-1]


def test_show_says_what_runs(store: Store) -> None:
    printed = call("study", "show", "mine").stdout
    assert live.sparkline(CURVE) in printed
    assert "0.90 (0.80-1.10)" in printed
    assert f"best so far: trial 0, loss {exp(-0.1):.3f} x tuned AdamW's" in printed
    assert "pruning saved 25% of the inner steps" in printed
    content = json.loads(call("study", "show", "mine", "--json").stdout)
    assert content["running"] == 1
    assert len(content["trials"]) == 3
    assert content["running_trials"][0]["values"] == CURVE
    assert content["compute_saved"] == pytest.approx(0.25)


def test_news_are_what_has_ended_since() -> None:
    before = live.View(running=(), best=None, states={0: "running", 1: "paused"}, values={0: 0.5, 1: 0.2}, saved=None,
                       seconds=None, seconds_left=None)
    now = replace(before, states={0: "pruned", 1: "running", 2: "failed"}, values={0: 0.5, 1: 0.1, 2: None})
    assert live.news(before, now) == ["trial 0 pruned: loss 1.649 x tuned AdamW's (value 0.5000)", "trial 2 failed"]


def test_watching_in_a_pipe_ends_once_nothing_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.01)
    polls: list[float] = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        study = store.load("mine")
        if len(polls) == 2:
            study._storage.set_trial_state_values(study.trials[2]._trial_id, optuna.trial.TrialState.COMPLETE, [-0.2])

    monkeypatch.setattr("time.sleep", sleep)
    result = call("study", "watch", "mine", "--until-idle")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert f"trial 2 complete: loss {exp(-0.2):.3f} x tuned AdamW's" in result.stdout
    assert len(polls) == 1 + watching.NUM_IDLE


def test_ctrl_c_ends_watching_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    assert call("study", "watch", "mine").returncode == 0


CODE = """
import sys, time
from optsearch import progress
with progress.meter("trials", 4, draw=lambda width, height: [f"trial  {width} ▁█"]) as meter:
    meter.update(1); time.sleep(0.7); meter.say("trial 0 complete")
"""


@pytest.mark.parametrize(("environment", "is_live", "has_colour"), [
    ({"TERM": "xterm-256color"}, True, True), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
    ({"TERM": "dumb"}, False, False)])
def test_a_panel_is_for_terminals_that_can_show_it(environment: dict[str, str], is_live: bool,
                                                   has_colour: bool) -> None:
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    subprocess.run([sys.executable, "-c", CODE], stdin=theirs, stdout=theirs, stderr=theirs, check=True,
                   env=kept | environment | {"COLUMNS": "100"})
    os.close(theirs)
    time.sleep(0.05)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "trial 0 complete" in shown
    assert ("trial  100 ▁█" in shown.replace("\x1b[36m", "").replace("\x1b[0m", "").replace("\x1b[1m", "")
            .replace("\x1b[1;36m", "")) is is_live
    assert ("\x1b[36m" in shown or "\x1b[1;36m" in shown) is has_colour
    assert ("\x1b" in shown) is is_live


def test_pipes_get_lines_and_the_quiet_nothing() -> None:
    out = io.StringIO()
    with progress.meter("trials", 4, draw=lambda width, height: ["panel"], out=out) as meter:
        meter.update(1)
        meter.say("trial 0 complete")
    assert out.getvalue() == "trial 0 complete\n"
    with progress.meter("trials", 4, quiet=True, draw=lambda width, height: ["panel"], out=out) as meter:
        meter.say("trial 1 complete")
    assert out.getvalue() == "trial 0 complete\n"
    assert progress.fitting("▁█ ━…", "ascii") == "_# #~"
    assert progress.fitting("▁█", "utf-8") == "▁█"


def test_times_of_a_study_that_has_ended_are_its_own(store: Store) -> None:
    snapshot = Snapshot.of(store, "mine")
    begun = datetime(2026, 1, 1)
    ended = replace(snapshot, trials=tuple(
        replace(trial, state="complete", started=begun, ended=begun + timedelta(hours=1)) for trial in snapshot.trials))
    view = live.View.of(ended)
    assert (view.seconds, view.seconds_left) == (3600.0, None)
    assert live.times_line(view) == "1:00:00 since the first trial"
