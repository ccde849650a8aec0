import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState
from toy_objective import Toy, finished, steps

from optsearch.errors import StorageError, TrialError, UsageError
from optsearch.search import recovery
from optsearch.search.processes import ENVIRONMENT, StartFailed, TrialDied, TrialFailed, TrialProcess, TrialStopped
from optsearch.search.workers import run_slots

SCRIPT = Path(__file__).parent / "toy_objective.py"


def run(toy, num_trials, slots=("cpu",), **options):
    return list(run_slots(toy, slots, num_trials=num_trials, **options))


def kinds(events):
    return [event.kind for event in events if event.kind != "reported"]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def within(seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def job(tmp_path):
    return {"x": 1.0, "number": 0, "num_steps": 3, "step_seconds": 0, "value": 2.0,
            "killed": (), "doomed": (), "broken": (), "checkpoint": str(tmp_path / "0.json")}


def test_a_process_is_warm_and_has_its_own_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    with closing(TrialProcess("toy_entry:environment")) as process:
        first = process.run({"n": 0})
        assert list(first) == []
        again = process.run({"n": 1})
        assert list(again) == []
    assert first.result["pid"] == again.result["pid"] != os.getpid()
    assert ENVIRONMENT.items() <= again.result["environment"].items()
    assert again.result["job"] == {"n": 1}
    assert dict(os.environ) == before


def test_a_trial_stops_when_told(job):
    with closing(TrialProcess("toy_entry:train")) as process:
        trial = process.run(job)
        for message in trial:
            if message["step"] == 1:
                trial.stop()
        assert trial.result == {"value": 1.0, "stopped": True}


def test_after_a_death_the_next_trial_has_a_new_process(job):
    with closing(TrialProcess("toy_entry:train")) as process:
        with pytest.raises(TrialDied, match=r"SIGKILL.*out of memory\?"):
            list(process.run(job | {"doomed": (0,)}))
        trial = process.run(job)
        assert [message["step"] for message in trial] == [0, 1, 2]


def test_errors_of_a_trial_come_with_their_traceback(job):
    train, quitter = TrialProcess("toy_entry:train"), TrialProcess("toy_entry:quit_at_once")
    with closing(train), pytest.raises(TrialFailed, match="ArithmeticError: no luck") as error:
        list(train.run(job | {"broken": (0,)}))
    assert "Traceback" in error.value.__notes__[0]
    with closing(TrialProcess("toy_entry:nothing")) as process, pytest.raises(StartFailed, match="nothing"):
        process.run(job)
    with closing(quitter), pytest.raises(TrialDied, match="exit status 3"):
        list(quitter.run(job))


def test_an_abandoned_trial_does_not_answer_the_next_one(job):
    with closing(TrialProcess("toy_entry:train")) as process:
        next(iter(process.run(job)))
        trial = process.run(job | {"value": 5.0})
        assert len(list(trial)) == 3
        assert trial.result == {"value": 5.0}


@pytest.mark.parametrize("step_seconds", [0.01, 60])
def test_stopping_ends_a_trial_at_once(job, step_seconds):
    stopping = threading.Event()
    with closing(TrialProcess("toy_entry:train", stopping)) as process:
        trial = process.run(job | {"step_seconds": step_seconds, "num_steps": 10_000})
        threading.Timer(0.3, stopping.set).start()
        start = time.monotonic()
        with pytest.raises(TrialStopped):
            list(trial)
        assert time.monotonic() - start < 5


def test_slots_share_a_study_and_reach_exactly_its_total(tmp_path):
    toy = Toy(tmp_path, pruned=(1,))
    events = run(toy, 5, ["cpu", "cuda:0"])
    study = toy.study()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", *["COMPLETE"] * 3]
    assert steps(study.trials[1]) == [0, 1]
    assert study.trials[1].user_attrs["outcome"] == "PRUNED"
    assert study.trials[0].value == 1.0
    assert {event.slot for event in events} == {"cpu", "cuda:0"}
    assert kinds(events).count("finished") == 5
    assert run(toy, 5) == []
    assert kinds(run(toy, 6)) == ["started", "finished"]


def test_a_killed_trial_is_resumed_and_takes_no_other_with_it(tmp_path):
    toy = Toy(tmp_path, killed=(1,))
    events = run(toy, 3, ["cpu", "cpu"])
    study = toy.study()
    dead, retry = study.trials[1], next(trial for trial in study.trials if "retry_of" in trial.user_attrs)
    assert sorted(trial.number for trial in finished(study)) == [0, *range(2, 4)]
    assert (dead.state, retry.user_attrs["chain"]) == (TrialState.FAIL, 1)
    assert "SIGKILL" in dead.user_attrs["failure"]
    assert steps(dead) == [0, 1, 2]
    assert steps(retry) == list(range(toy.num_steps))
    assert retry.params == dead.params
    assert [line[:6] for line in (tmp_path / "1.log").read_text().splitlines()] == ["from 0", "from 2"]
    assert kinds(events).count("retried") == 1


def test_a_trial_that_always_dies_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "MAX_RETRIES", 1)
    toy = Toy(tmp_path, doomed=range(2))
    events = run(toy, 1)
    assert [trial.state.name for trial in toy.study().trials] == ["FAIL"] * 2 + ["COMPLETE"]
    assert kinds(events).count("retried") == 1


def test_a_failure_is_one_trials_and_says_why(tmp_path):
    toy = Toy(tmp_path, broken=(0,))
    events = run(toy, 2)
    failed = toy.study().trials[0]
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["failure"] == "ArithmeticError: no luck"
    assert kinds(events) == ["started", "failed", "started", "finished", "started", "finished"]


@pytest.mark.parametrize("value", [float("nan"), None])
def test_endless_failures_end_the_run(tmp_path, value):
    with pytest.raises(TrialError, match=f"5 trials in a row failed.* {value}; expected a number"):
        run(Toy(tmp_path, num_steps=1, value=value), 2)
    assert {trial.state for trial in Toy(tmp_path).study().trials} == {TrialState.FAIL}


def test_no_trial_starts_after_the_deadline_or_the_stop(tmp_path):
    assert run(Toy(tmp_path), 2, timeout_seconds=0) == []
    toy = Toy(tmp_path)
    for event in run_slots(toy, ["cpu"], num_trials=3):
        if event.kind == "started":
            toy.study().set_user_attr("stop", True)
    assert len(finished(toy.study())) == 1


def test_closing_leaves_running_trials_to_be_resumed(tmp_path):
    toy = Toy(tmp_path, step_seconds=0.3)
    with closing(run_slots(toy, ["cpu", "cpu"], num_trials=2)) as events:
        next(event for event in events if event.step == 2)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    states = [trial.state.name for trial in toy.study().trials]
    assert sorted(states) == ["FAIL"] * 2 + ["WAITING"] * 2
    run(Toy(tmp_path), 2)
    study = toy.study()
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 2 + ["COMPLETE"] * 2
    assert all(steps(trial) == list(range(6)) for trial in study.trials[2:])


def start_script(directory, *args):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, SCRIPT, directory, *args], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def pids(directory):
    return [int(line.split()[-1]) for log in directory.glob("*.log") for line in log.read_text().splitlines()]


def test_killing_the_parent_ends_the_children_and_a_second_run_finishes(tmp_path):
    with start_script(tmp_path, "3") as script:
        assert any(" 3" in line[-3:] for line in script.stdout)
        # On a busy machine one child is well under way before the other has begun.
        assert within(10, lambda: len(pids(tmp_path)) >= 2)
        children = pids(tmp_path)
        script.kill()
    assert within(5, lambda: not any(map(is_alive, children)))
    run(Toy(tmp_path), 3, ["cpu", "cpu"])
    study = Toy(tmp_path).study()
    assert len(finished(study)) == 3
    assert all(steps(trial) == list(range(6)) for trial in finished(study))
    assert len({trial.user_attrs.get("chain", trial.number) for trial in finished(study)}) == 3


def test_ctrl_c_ends_all_without_a_word_from_the_children(tmp_path):
    with start_script(tmp_path, "3") as script:
        assert any(" 1" in line[-3:] for line in script.stdout)
        os.killpg(script.pid, signal.SIGINT)
        errors = script.stderr.read()
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt\n") == 1
    assert not any(map(is_alive, pids(tmp_path)))
    states = [trial.state.name for trial in Toy(tmp_path).study().trials]
    assert states.count("WAITING") == states.count("FAIL") == 2


def test_a_database_that_breaks_ends_the_run_in_one_line(tmp_path):
    (tmp_path / "toy.db").write_text("Dear diary, " * 100)
    with pytest.raises(StorageError, match=r"toy\.db is not an SQLite database"):
        run(Toy(tmp_path), 1)


def test_an_entry_that_is_not_there_ends_the_run_and_costs_no_trial(tmp_path):
    with pytest.raises(TrialError, match=r"No trial could start.*No module named 'nowhere'"):
        run(Toy(tmp_path, entry="nowhere:train"), 1)
    assert [trial.state.name for trial in Toy(tmp_path).study().trials] == ["FAIL", "WAITING"]


def test_no_slots_is_a_misuse(tmp_path):
    with pytest.raises(UsageError, match="expected at least one device"):
        run(Toy(tmp_path), 1, [])
