"""Optuna's storage, made safe for many processes on one SQLite file."""

import os
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from optsearch.errors import StorageError, UsageError

DEFAULT_URL = "sqlite:///studies/optsearch.db"
BUSY_TIMEOUT_SECONDS = 60

_TROUBLES = {
    "locked": "is locked by another program. Close what holds it, then run the same command again.",
    "readonly": "is read-only. Make the file and its directory writable, or choose another with --storage.",
    "unable to open": "can't be opened. Is it a file in a directory that you may write to?",
    "not a database": "is not an SQLite database. Choose another file with --storage.",
    "malformed": "is damaged. Put back a copy, or choose another with --storage.",
    "is full": "has no room left on its disk. Free some space, then run the same command again.",
    "connect": "can't be reached. Is the server running, and are address and password right?",
}

# What a database says while another process makes the same tables.
_PASSING = ("already exists", "locked", "UNIQUE", "duplicate")

T = TypeVar("T")

_quiet = threading.RLock()


@contextmanager
def quietly(category: type[Warning] = ExperimentalWarning) -> Iterator[None]:
    """Optuna without its warnings of experimental features, which we use on purpose, and without its log."""
    # Filters belong to the whole process: two threads that change them would put back each other's.
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)


def resolve_url(url: str | None = None) -> str:
    """`url`, or else `$OPTUNA_STORAGE`, or else `DEFAULT_URL`; a `UsageError` if it is none."""
    url = url or os.environ.get("OPTUNA_STORAGE") or DEFAULT_URL
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise UsageError(f"`{url}` is no database URL. Expected something like {DEFAULT_URL} "
                         "or postgresql+psycopg://user@host/name.") from error
    if parts.get_backend_name() == "sqlite" and parts.database in (None, "", ":memory:"):
        raise UsageError(f"`{url}` lives in one process only. Expected a file, such as {DEFAULT_URL}.")
    return url


def open_storage(url: str | None = None, *, heartbeat_seconds: int = 10,
                 grace_seconds: int = 60) -> RDBStorage:
    """The database at `resolve_url(url)`, made if it isn't there.

    A trial on another machine is taken for dead when its last heartbeat is older than `grace_seconds`.
    Raises `StorageError` when the database can't be opened, and `UsageError` for a URL that is none.
    """
    url = resolve_url(url)
    make = SQLiteStorage if is_sqlite(url) else RDBStorage
    # Optuna takes the URL for a format string.
    storage = opened(url, lambda: make(url.replace("{", "{{").replace("}", "}}"), engine_options(url)))
    # Set here and not by argument, where Optuna would warn every user that heartbeats are experimental.
    storage.heartbeat_interval, storage.grace_period = heartbeat_seconds, grace_seconds
    return storage


class SQLiteStorage(RDBStorage):
    """An `RDBStorage` in which a trial changes its state at most once, however many processes try.

    Made with `engine_options`, which survive pickling.
    """

    def set_trial_state_values(self, trial_id: int, state: TrialState,
                               values: Sequence[float] | None = None) -> bool:
        """As in Optuna, but nobody else writes between its look at the old state and the new one."""
        with _create_scoped_session(self.scoped_session) as session:
            lock(session)
            return super().set_trial_state_values(trial_id, state, values)

    def record_heartbeat(self, trial_id: int) -> None:
        """As in Optuna, but a beat that fails is only a missed one: the thread goes on beating."""
        with suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


def lock(session: Session) -> None:
    """Keep all others from writing until `session` commits, where `SELECT ... FOR UPDATE` would not.

    Databases other than SQLite obey `FOR UPDATE` and need nothing here.
    """
    if session.get_bind().dialect.name == "sqlite":
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")


class _Connection(sqlite3.Connection):
    # A class, since SQLAlchemy's listeners would be lost whenever a storage is pickled.
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")


def engine_options(url: str) -> dict[str, Any]:
    """What SQLAlchemy's `create_engine` needs besides `url`."""
    if is_sqlite(url):
        return {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS, "factory": _Connection}}
    return {"pool_pre_ping": True}


def is_sqlite(url: str) -> bool:
    """Whether `url` is one of SQLite."""
    return make_url(url).get_backend_name() == "sqlite"


def opened(url: str, make: Callable[[], T]) -> T:
    """The result of `make`, which opens `url`: tried again while others are making the same tables."""
    with storage_errors(url):
        try:
            _make_directory(url)
            return _settled(make)
        except ImportError as error:
            raise StorageError(f"The driver of {_shown(url)} is not installed. For PostgreSQL use a "
                               "postgresql+psycopg:// URL, and pip install 'optsearch[postgres]'.") from error
        except ArgumentError as error:
            raise UsageError(f"`{_shown(url)}` is no database URL that SQLAlchemy knows. Expected something "
                             f"like {DEFAULT_URL} or postgresql+psycopg://user@host/name.") from error
        except OSError as error:
            raise StorageError(f"The directory of the database {_shown(url)} could not be made: "
                               f"{error.strerror or error}. Choose another with --storage.") from error


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what databases raise into a `StorageError` of one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise StorageError(f"The database {_shown(url)} {_trouble(_root(error))}") from error


def _make_directory(url: str) -> None:
    database = make_url(url).database or ""
    if is_sqlite(url) and not database.startswith("file:"):
        Path(database).parent.mkdir(parents=True, exist_ok=True)


def _settled(make: Callable[[], T]) -> T:
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            return make()
        except (SQLAlchemyError, StorageInternalError) as error:
            is_passing = any(sign in _root(error) for sign in _PASSING)
            if not is_passing or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.02, 0.2))


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _trouble(message: str) -> str:
    return next((trouble for sign, trouble in _TROUBLES.items() if sign in message), f"failed: {message}")
