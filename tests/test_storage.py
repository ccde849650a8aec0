import os
import pickle
import sqlite3
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from toy_entry import PROCESSES

from optsearch.errors import StorageError, UsageError
from optsearch.search import storage as storage_module
from optsearch.search.storage import SQLiteStorage, open_storage, resolve_url, storage_errors

NUM_PROCESSES = 8
NUM_WAITING = 40


class TestSQLiteStorage(StorageTestCase):
    """Optuna's own test of a storage."""

    @pytest.fixture
    def storage(self, tmp_path):
        return open_storage(f"sqlite:///{tmp_path}/certified.db")


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies/a.db"


def ask_five(url):
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    with warnings.catch_warnings():
        # `ask` knows heartbeats in `Study.optimize` only.
        warnings.simplefilter("ignore", UserWarning)
        return [study.ask().number for _ in range(NUM_WAITING // NUM_PROCESSES)]


def in_processes(num_processes, function, *args):
    with ProcessPoolExecutor(num_processes, mp_context=PROCESSES) as pool:
        futures = [pool.submit(function, *args) for _ in range(num_processes)]
        return [future.result() for future in futures]


def number_of_studies(url):
    return len(open_storage(url).get_all_studies())


def test_no_waiting_trial_is_given_to_two_processes(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    for number in range(NUM_WAITING):
        study.enqueue_trial({"x": number})
    numbers = in_processes(NUM_PROCESSES, ask_five, url)
    assert sorted(chain(*numbers)) == list(range(NUM_WAITING))


def test_processes_may_make_the_same_database_at_once(url):
    assert in_processes(4, number_of_studies, url) == [0] * 4


def pragmas(storage):
    with storage.engine.connect() as connection:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout")]


def test_pickling_keeps_the_settings_and_the_claims(url):
    first = open_storage(url, heartbeat_seconds=7)
    second = pickle.loads(pickle.dumps(first))
    assert pragmas(first) == pragmas(second) == ["wal", 1, 60_000]
    assert second.heartbeat_interval == 7
    study = optuna.create_study(storage=first)
    study.enqueue_trial({})
    trial_id = study.trials[0]._trial_id
    claims = [storage.set_trial_state_values(trial_id, TrialState.RUNNING) for storage in (second, first)]
    assert claims == [True, False]
    assert study.trials[0].datetime_start is not None


def test_a_finished_trial_stays_as_it_is(url):
    first, second = open_storage(url), open_storage(url)
    trial_id = first.create_new_trial(first.create_new_study([optuna.study.StudyDirection.MINIMIZE]))
    first.set_trial_state_values(trial_id, TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        second.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    assert second.get_trial(trial_id).state is TrialState.FAIL
    assert second.get_trial(trial_id).values is None


def test_the_url_is_the_argument_or_the_environment_or_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    assert resolve_url() == "sqlite:///studies/optsearch.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///there.db")
    assert resolve_url() == "sqlite:///there.db"
    assert resolve_url("sqlite:///here.db") == "sqlite:///here.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE")
    assert isinstance(open_storage(), SQLiteStorage)
    assert (tmp_path / "studies" / "optsearch.db").exists()


def test_braces_in_a_path_are_no_format(tmp_path):
    open_storage(f"sqlite:///{tmp_path}/{{x}}/a.db")
    assert (tmp_path / "{x}" / "a.db").exists()


@pytest.mark.parametrize("url", ["studies/a.db", "sqlite://", "sqlite:///:memory:", "nosuchsql://host/name"])
def test_what_is_no_url_is_a_misuse(url):
    with pytest.raises(UsageError, match=r"no database URL|one process only"):
        open_storage(url)


def says(error, *words):
    message = str(error.value)
    return "\n" not in message and all(word in message for word in words)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "notes.db").write_text("Dear diary, " * 100)
    with pytest.raises(StorageError) as error:
        open_storage(f"sqlite:///{tmp_path}/notes.db")
    assert says(error, "notes.db", "is not an SQLite database")


def test_a_read_only_database(url, tmp_path):
    open_storage(url)
    read_only = f"sqlite:///file:{tmp_path}/studies/a.db?mode=ro&uri=true"
    storage = open_storage(read_only)
    with pytest.raises(StorageError) as error, storage_errors(read_only):
        optuna.create_study(storage=storage)
    assert says(error, "a.db", "is read-only")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError) as error:
        open_storage(f"sqlite:///{tmp_path}/a.db")
    assert says(error, "can't be opened")


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as error:
        open_storage(f"sqlite:///{tmp_path}/file/a.db")
    assert says(error, "file/a.db", "could not be made")


def test_a_locked_database(url, monkeypatch):
    monkeypatch.setattr(storage_module, "BUSY_TIMEOUT_SECONDS", 0.2)
    storage = open_storage(url)
    holder = sqlite3.connect(storage.engine.url.database)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError) as error, storage_errors(url):
        optuna.create_study(storage=storage)
    assert says(error, "is locked by another program")
    storage.record_heartbeat(1)
    holder.close()


def test_a_missing_driver_is_named_and_a_password_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError) as error:
        open_storage("postgresql+psycopg://me:secret@localhost/x")
    assert says(error, "pip install 'optsearch[postgres]'")
    assert "secret" not in str(error.value)
