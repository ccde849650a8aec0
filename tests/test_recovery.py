import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from toy_entry import PROCESSES

from optsearch.errors import UsageError
from optsearch.search.recovery import MAX_RETRIES, OWNER, chain_of, claim, interrupt, recover
from optsearch.search.storage import open_storage

ENOUGH = 1000


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/a.db"


@pytest.fixture
def study(url):
    storage = open_storage(url, heartbeat_seconds=1, grace_seconds=1)
    return optuna.create_study(study_name="s", storage=storage)


def load(url):
    return optuna.load_study(study_name="s", storage=open_storage(url, grace_seconds=1))


def run_process(*task):
    process = PROCESSES.Process(target=task[0], args=task[1:])
    process.start()
    return process


def claim_and_die(url, num_trials):
    study = load(url)
    for _ in range(num_trials):
        trial = claim(study, ENOUGH)
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("colour", "red")
        trial.report(0.5, 0)
        trial.report(0.25, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def recover_together(url, barrier, counts):
    study = load(url)
    barrier.wait()
    counts.put(len(recover(study)))


def claim_all(url, num_trials):
    study = load(url)
    return len(list(iter(lambda: claim(study, num_trials), None)))


def die_while_recovering(url):
    study = load(url)
    RDBStorage._get_prepared_new_trial = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    recover(study)


def states(study):
    return [trial.state.name for trial in study.trials]


def test_processes_that_recover_at_once_start_each_lost_trial_again_once(url, study):
    run_process(claim_and_die, url, 4).join()
    assert states(study) == ["RUNNING"] * 4
    barrier, counts = PROCESSES.Barrier(3), PROCESSES.Queue()
    processes = [run_process(recover_together, url, barrier, counts) for _ in range(3)]
    assert sum(counts.get(timeout=60) for _ in processes) == 4
    for process in processes:
        process.join()
    assert states(study) == ["FAIL"] * 4 + ["WAITING"] * 4
    assert sorted(trial.user_attrs["retry_of"] for trial in study.trials[4:]) == [0, 1, 2, 3]
    assert recover(study) == []


def test_a_retry_has_what_its_trial_had(url, study):
    run_process(claim_and_die, url, 1).join()
    assert recover(study) == [1]
    lost, retry = study.trials
    assert (retry.params, retry.distributions) == (lost.params, lost.distributions)
    assert retry.intermediate_values == {0: 0.5, 1: 0.25}
    assert retry.user_attrs == {"colour": "red", "chain": 0, "retry_of": 0, "num_retries": 1}
    assert lost.user_attrs["failure"]
    resumed = claim(study, ENOUGH)
    assert resumed.number == 1
    assert resumed.suggest_float("x", 0, 1) == lost.params["x"]


def test_a_kill_in_the_middle_of_a_recovery_loses_nothing(url, study):
    run_process(claim_and_die, url, 1).join()
    process = run_process(die_while_recovering, url)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert states(study) == ["RUNNING"]
    assert recover(study) == [1]
    assert states(study) == ["FAIL", "WAITING"]


def test_a_living_trial_is_left_alone_even_without_heartbeats(study):
    claim(study, ENOUGH)
    time.sleep(2.2)
    assert recover(study) == []


def test_a_trial_of_another_machine_is_lost_with_its_heartbeat(study):
    trial = claim(study, ENOUGH)
    trial.set_user_attr(OWNER, trial.user_attrs[OWNER] | {"host": "elsewhere"})
    assert recover(study) == []
    time.sleep(2.2)
    assert recover(study) == [1]


def test_another_process_with_the_same_number_is_not_the_owner(study):
    trial = claim(study, ENOUGH)
    trial.set_user_attr(OWNER, trial.user_attrs[OWNER] | {"started": 1})
    assert recover(study) == [1]


def test_finished_and_foreign_trials_are_never_touched(study):
    for state in (TrialState.PRUNED, TrialState.FAIL):
        study.tell(claim(study, ENOUGH), state=state)
    study.tell(claim(study, ENOUGH), 1.0)
    study._storage.create_new_trial(study._study_id)
    before = states(study)
    assert before == ["PRUNED", "FAIL", "COMPLETE", "RUNNING"]
    assert recover(study) == []
    assert [interrupt(study, trial, "no reason") for trial in study.trials[:3]] == [None] * 3
    assert states(study) == before


def test_a_chain_ends_after_its_last_retry(study):
    for number in range(MAX_RETRIES):
        assert interrupt(study, claim(study, ENOUGH), "killed") == number + 1
    last = claim(study, ENOUGH)
    assert chain_of(last) == 0
    assert interrupt(study, last, "killed") is None
    assert states(study) == ["FAIL"] * (1 + MAX_RETRIES)


def test_being_stopped_costs_no_retry(study):
    for number in range(2 * MAX_RETRIES):
        assert interrupt(study, claim(study, ENOUGH), "stopped", charged=False) == number + 1
    assert study.trials[-1].user_attrs["num_retries"] == 0
    assert chain_of(study.trials[-1]) == 0


def test_fixed_params_that_were_not_asked_for_yet_stay_fixed(study):
    study.enqueue_trial({"x": 0.125})
    interrupt(study, claim(study, ENOUGH), "killed")
    assert claim(study, ENOUGH).suggest_float("x", 0, 1) == 0.125


def test_workers_together_start_no_more_trials_than_wanted(url, study):
    study.enqueue_trial({})
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(claim_all, [url] * 4, [20] * 4)) == 20
    assert len(study.trials) == 20
    assert [trial.number for trial in study.trials] == list(range(20))


def test_failed_trials_do_not_count(study):
    for _ in range(3):
        study.tell(claim(study, 1), state=TrialState.FAIL)
    assert claim(study, 1) is not None
    assert claim(study, 1) is None


def test_a_trial_that_its_sampler_refuses_does_not_stay_running(study):
    class Refusing(optuna.samplers.RandomSampler):
        def before_trial(self, study, trial):
            raise ValueError("not today")

    study.sampler = Refusing()
    with pytest.raises(ValueError, match="not today"):
        claim(study, ENOUGH)
    assert states(study) == ["FAIL", "WAITING"]


def test_a_worker_that_has_not_noticed_that_its_study_is_gone_is_in_nobodys_way(study):
    trial, storage = claim(study, ENOUGH), study._storage
    optuna.delete_study(study_name="s", storage=storage)
    storage.record_heartbeat(trial._trial_id)
    anew = optuna.create_study(study_name="s", storage=storage)
    assert claim(anew, ENOUGH)._trial_id == trial._trial_id


def test_a_study_in_memory_is_a_misuse():
    with pytest.raises(UsageError, match="open_storage"):
        claim(optuna.create_study(), 1)
