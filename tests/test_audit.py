"""The record of forecasts, held against figures that were counted by hand."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import call
from optuna.trial import TrialState, create_trial

from optsearch.search.definition import define
from optsearch.search.forecasting.audit import Accuracy, audit
from optsearch.search.forecasting.pruner import Judgement
from optsearch.search.records import Records
from optsearch.search.recovery import CHAIN
from optsearch.search.study import Store

BUDGET = 1000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    store = Store.at()
    store.create("hand", define(space="quickstart", tasks=["quadratics"], budget=BUDGET, sampler="tpe"))
    return store


def add(study: optuna.Study, values: dict[int, float], state: TrialState = TrialState.COMPLETE, **attrs: Any) -> None:
    """A trial; a complete one ends at its last value."""
    end = values[max(values)] if state is TrialState.COMPLETE else None
    study.add_trial(create_trial(state=state, value=end, intermediate_values=values, user_attrs=attrs))


def forecast(records: Records, chain: int, step: int, mean: float, **rest: Any) -> None:
    """A forecast whose intervals of 50 % and 90 % are 0.1 and 0.2 wide on either side."""
    row = Judgement(study_id=1, chain=chain, inner_steps=step, mean=mean, deviation=0.1,
                    quantiles=(mean - 0.2, mean - 0.1, mean + 0.1, mean + 0.2), divergence=0.0, bar=0.0,
                    probability_top=0.5, **{"decided_by": "predictor", **rest})
    records.put_forecast(1, chain, step, asdict(row))


def fill(store: Store) -> None:
    """Five complete chains, the first of which needed a retry, three pruned ones, one that runs, and a duplicate."""
    study, records = store.load("hand"), store.records
    ends, early = (0.0, 0.1, 0.2, 0.3, 0.4), (1.0, 1.1, 1.2, 1.2, 1.0)
    add(study, {100: 1.0}, TrialState.FAIL)
    for last, value in zip(ends[1:], early[1:], strict=True):
        add(study, {100: value, 500: 0.5, 1000: last})
    add(study, {100: early[0], 500: 0.5, 1000: ends[0]}, **{CHAIN: 0})
    add(study, {250: 2.0}, TrialState.PRUNED)
    add(study, {100: 2.0}, TrialState.PRUNED)
    add(study, {500: 2.0}, TrialState.PRUNED)
    add(study, {100: 2.0}, TrialState.RUNNING)
    add(study, {100: 2.0}, TrialState.FAIL, duplicate_of=1)
    means = (0.1, 0.0, 0.35, 0.31, 0.65)
    for chain, mean in enumerate(means):
        forecast(records, chain, 100, mean, decision="spared" if chain in (0, 4) else "kept")
    forecast(records, 0, 500, 0.15)
    forecast(records, 1, 500, 0.25)
    forecast(records, 2, 1000, 9.0)
    forecast(records, 3, 500, 0.0, decision="spared", decided_by="cold")
    forecast(records, 6, 250, 1.0, decision="pruned")
    forecast(records, 7, 100, 1.0, decision="pruned", decided_by="cold")
    broken = Judgement(study_id=1, chain=8, inner_steps=500, decision="pruned", decided_by="cold", problem="no luck")
    records.put_forecast(1, 8, 500, asdict(broken))


def test_an_audit_is_what_a_hand_counts(store: Store) -> None:
    fill(store)
    found = audit(store.load("hand"), store.records)
    tenth, quarter, half = found.accuracies
    # Of the ten pairs the means have (0, 1), (2, 3) the wrong way round; the last values have (0, 4), (2, 3) alike and
    # (1, 4), (2, 4), (3, 4) the wrong way round.
    assert (tenth.num_trials, tenth.rank_correlation) == (5, pytest.approx((8 - 2) / 10))
    assert tenth.last_value_correlation == pytest.approx((5 - 3) / (8 * 10) ** 0.5)
    # Ends are 0.1, 0.1, 0.15, 0.01 and 0.25 away from the means.
    assert (tenth.within_50, tenth.within_90) == (pytest.approx(3 / 5), pytest.approx(4 / 5))
    assert quarter == Accuracy(0.25, 3, pytest.approx(-1 / 3), None, 0.0, pytest.approx(2 / 3))
    assert half == Accuracy(0.5, 3, pytest.approx(-1 / 3), None, 0.0, pytest.approx(2 / 3))
    counts = (found.num_started, found.num_complete, found.num_pruned, found.num_pruned_by_predictor)
    assert counts == (9, 5, 3, 1)
    assert (found.num_forecasts, found.num_problems) == (11, 1)
    # The spared are 0, the best of all, and 4.
    assert (found.num_spared, found.num_wrong, found.false_prune_rate) == (2, 1, 0.5)
    assert found.compute_saved == pytest.approx((750 + 900 + 500) / (9 * BUDGET))


def test_what_is_not_defined_is_said_to_be_too_few(store: Store) -> None:
    found = audit(store.load("hand"), store.records)
    assert found.accuracies[0] == Accuracy(0.1, 0, None, None, None, None)
    assert (found.false_prune_rate, found.compute_saved) == (None, None)
    lines = found.lines()
    assert "inner steps saved: too few" in lines
    assert lines[-1].split("  ")[0] == "50%"
    assert lines[-1].count("too few") == 4


def test_a_trial_that_ends_early_cost_what_it_spent(store: Store) -> None:
    study = store.load("hand")
    add(study, {100: 2.0, 125: 3.0})
    add(study, {250: 2.0}, TrialState.PRUNED)
    forecast(store.records, 0, 100, 0.5, decision="spared")
    found = audit(study, store.records)
    assert found.compute_saved == pytest.approx(750 / 1125)
    assert (found.num_complete, found.num_early, found.num_spared) == (1, 1, 1)
    assert found.accuracies[0].num_trials == 0


def test_the_command_prints_it_and_the_rest_of_show_stays(store: Store) -> None:
    fill(store)
    shown = call("study", "show", "hand", "--predictor")
    assert shown.returncode == 0, shown.stderr
    assert "pruned wrongly: 50% (1 of 2 trials" in shown.stdout
    (row,) = [line.split() for line in shown.stdout.splitlines() if line.startswith("10%")]
    assert row == ["10%", "5", "0.60", "0.22", "60%", "80%"]
    content = json.loads(call("study", "show", "hand", "--predictor", "--json").stdout)
    assert (content["name"], content["false_prune_rate"], len(content["accuracies"])) == ("hand", 0.5, 3)
    assert "tpe sampler, predictor pruner" in call("study", "show", "hand").stdout
    made = call("study", "create", "other", "--task", "quadratics", "--sampler", "random", "--pruner", "none")
    assert made.returncode == 0, made.stderr
    content = json.loads(call("study", "show", "other", "--json").stdout)
    assert (content["sampler"], content["pruner"]) == ("random", "none")
    refused = call("study", "create", "x", "--task", "quadratics", "--pruner", "best")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no pruner 'best'. There are: predictor, median, none." in refused.stderr


def test_a_deleted_study_takes_its_forecasts_along(store: Store) -> None:
    fill(store)
    assert store.records.forecasts(1)
    store.delete("hand")
    assert store.records.forecasts(1) == {}
