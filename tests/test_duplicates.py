"""Trials that a study has already: skipped before they cost anything, until there is nothing else to try."""

from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import TrialState
from toy_objective import Toy, finished

from optsearch.cli.study import show
from optsearch.search import duplicates
from optsearch.search.definition import define
from optsearch.search.duplicates import MAX_DUPLICATES_IN_A_ROW
from optsearch.search.objective import LearnedOptimizerObjective
from optsearch.search.recovery import claim, interrupt
from optsearch.search.study import Store, summary
from optsearch.search.workers import run_slots


@dataclass
class Coin(Toy):
    """A space of two points."""

    num_steps: int = 3
    step_seconds: float = 0

    def job(self, trial):
        side = trial.suggest_categorical("side", ["heads", "tails"])
        return super().job(trial) | {"side": side}

    def fingerprint(self, job):
        return job["side"]


def run(toy, num_trials, slots=("cpu",)):
    return list(run_slots(toy, slots, num_trials=num_trials))


def skipped(study):
    return [trial for trial in study.trials if "duplicate_of" in trial.user_attrs]


def test_no_point_is_trained_twice_until_all_have_been(tmp_path):
    coin = Coin(tmp_path, pruned=(0,))
    events = run(coin, 2)
    study = coin.study()
    first, second = finished(study)
    assert (first.state, second.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert {first.params["side"], second.params["side"]} == {"heads", "tails"}
    assert [event.trial for event in events if event.kind == "skipped"] == list(range(1, second.number))
    assert summary(study)["fail"] == 0

    run(coin, 3)
    study = coin.study()
    again = finished(study)[2]
    assert again.number - second.number == 1 + MAX_DUPLICATES_IN_A_ROW
    assert summary(study)["duplicate"] == len(skipped(study)) == len(study.trials) - 3
    for trial in skipped(study):
        assert trial.state is TrialState.FAIL
        assert not trial.intermediate_values
        assert study.trials[trial.user_attrs["duplicate_of"]] in (first, second)
        assert study.trials[trial.user_attrs["duplicate_of"]].params["side"] == trial.params["side"]
    assert {log.stem for log in tmp_path.glob("*.log")} == {str(trial.number) for trial in finished(study)}


def test_a_killed_trial_is_retried_and_is_nobodys_duplicate(tmp_path):
    coin = Coin(tmp_path, killed=(0,), num_steps=6)
    run(coin, 2)
    study = coin.study()
    retry = next(trial for trial in study.trials if "retry_of" in trial.user_attrs)
    assert (retry.state, retry.user_attrs["chain"]) == (TrialState.COMPLETE, 0)
    assert retry in finished(study)
    assert {trial.user_attrs["duplicate_of"] for trial in skipped(study)} <= {retry.number}


@pytest.fixture
def study(tmp_path):
    return Toy(tmp_path).study()


@pytest.fixture
def two(tmp_path):
    """A study of two designs and two meta learning rates."""
    path = tmp_path / "two.toml"
    path.write_text('[rule]\nkind = "mlp"\n[rule.mlp]\nhidden_size = [4, 5]\n[meta_training]\nmeta_lr = [0.1, 0.2]\n')
    definition = define(space=str(path), tasks=["quadratics"])
    store = Store.at(f"sqlite:///{tmp_path}/a.db")
    study = store.create("two", definition)
    return LearnedOptimizerObjective("two", store.url, definition, [[0.0]], store.records), study


def doorkeeper_says(study, fingerprint="a"):
    trial = claim(study, 1000)
    try:
        duplicates.Doorkeeper().check(trial, fingerprint)
    except duplicates.Duplicate as duplicate:
        study.tell(trial, state=TrialState.FAIL)
        return trial, duplicate.number
    return trial, None


def test_running_and_waiting_trials_count_and_failed_ones_do_not(study):
    first, _ = doorkeeper_says(study)
    assert doorkeeper_says(study)[1] == first.number
    assert doorkeeper_says(study, "b")[1] is None
    study.tell(first, state=TrialState.FAIL)
    second, number = doorkeeper_says(study)
    assert number is None
    retry = interrupt(study, second, "killed")
    resumed, number = doorkeeper_says(study)
    assert (resumed.number, number) == (retry, None)
    assert doorkeeper_says(study)[1] == retry


def test_a_repeat_that_was_let_in_may_be_retried(study):
    doorkeeper_says(study)
    patient = duplicates.Doorkeeper(MAX_DUPLICATES_IN_A_ROW)
    repeat = claim(study, 1000)
    patient.check(repeat, "a")
    assert patient.num_in_a_row == 0
    interrupt(study, repeat, "killed")
    assert doorkeeper_says(study)[1] is None


def test_learned_optimizers_are_told_apart_by_design_and_settings(two):
    objective, study = two
    points = [{"rule.mlp.hidden_size": size, "meta_training.meta_lr": meta_lr}
              for size in (4, 5) for meta_lr in (0.1, 0.2)]
    fingerprints = []
    for point in 2 * points:
        study.enqueue_trial(point)
        fingerprints.append(objective.fingerprint(objective.job(claim(study, 1000))))
    assert fingerprints[:4] == fingerprints[4:]
    assert len(set(fingerprints)) == 4


def test_the_command_line_tells_duplicates_from_failures(two, capsys):
    objective, study = two
    for state, attrs in [("COMPLETE", {}), ("FAIL", {"duplicate_of": 0}), ("FAIL", {"failure": "no luck"})]:
        value = 1.0 if state == "COMPLETE" else None
        study.add_trial(optuna.create_trial(state=TrialState[state], value=value, user_attrs=attrs))
    counts = summary(study)
    assert (counts["complete"], counts["fail"], counts["duplicate"]) == (1, 1, 1)
    show("two", storage=objective.url)
    shown = capsys.readouterr().out.splitlines()
    assert "1 failed, 1 skipped" in shown[0]
    assert [line.split()[:4] for line in shown[-3:]] == [
        ["0", "complete", "1.0000"], ["1", "duplicate", "of", "0"], ["2", "fail"]]
