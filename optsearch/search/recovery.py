"""Trials that lose their process are started again, once, from their last checkpoint.

A *chain* is a trial, its retries and, where trials are paused, those that continue them. All of a step (a claim;
a failure and its retry) is one transaction under a lock, so that no two processes take the same step and no kill
leaves half of it.
"""

import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.orm import Session

from optsearch.errors import UsageError
from optsearch.search.storage import lock

MAX_RETRIES = 3
OWNER, FAILURE, CHAIN, RETRY_OF, NUM_RETRIES = "owner", "failure", "chain", "retry_of", "num_retries"
# A pruned trial that may be continued, and what continues it.
PAUSED, CONTINUES = "paused", "continues"
# What is known only of a trial that has come to its end.
ARTIFACT_IDS, OUTCOME = "artifacts", "outcome"
OF_ONE_TRIAL = (OWNER, FAILURE, PAUSED, ARTIFACT_IDS, OUTCOME)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def chain_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The number of the first trial of the chain."""
    return trial.user_attrs.get(CHAIN, trial.number)


def claim(study: optuna.Study, num_trials: int) -> optuna.Trial | None:
    """The next trial, waiting or new, unless `num_trials` are finished or running already.

    Unlike after `study.ask`, it is never without an owner and a heartbeat, and no two processes together
    start too many.
    """
    def choose(session: Session) -> models.TrialModel | None:
        if _count_active(session, study._study_id) >= num_trials:
            return None
        return _first_waiting(session, study._study_id) or new_row(study, session)

    trial_id = take(study, choose)
    return None if trial_id is None else opened(study, trial_id)


def take(study: optuna.Study, choose: Callable[[Session], models.TrialModel | None]) -> int | None:
    """Make the row that `choose` gives a running trial of this process, all in one transaction; its id.

    While `choose` looks at the study, nobody else changes it.
    """
    storage = database(study)
    with _create_scoped_session(storage.scoped_session) as session:
        _lock_study(session, study._study_id)
        row = choose(session)
        if row is None:
            return None
        row.state, row.datetime_start = TrialState.RUNNING, datetime.now()
        set_attr(storage, session, row, OWNER, _owner())
        # SQLite gives a deleted trial's number to the next one, and a worker that hasn't noticed still beats for it.
        beats = models.TrialHeartbeatModel
        session.execute(delete(beats).where(beats.trial_id == row.trial_id))
        session.add(beats(trial_id=row.trial_id))
        return int(row.trial_id)


def new_row(study: optuna.Study, session: Session, like: FrozenTrial | None = None) -> models.TrialModel:
    """A trial more, in the transaction of `session`."""
    return database(study)._get_prepared_new_trial(study._study_id, like, session)


def opened(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A trial that was taken, with its sampler's relative suggestions; if there are none, it is failed."""
    try:
        # What `study.ask` does too: forget the last trial's view of the study, and look at it anew.
        study._thread_local.cached_all_trials = None
        study.get_trials(deepcopy=False)
        return optuna.Trial(study, trial_id)
    except Exception as error:
        _fail(study, trial_id, str(error), charged=True)
        raise


def recover(study: optuna.Study) -> list[int]:
    """Fail every running trial whose process is gone; the numbers of the trials that wait to resume them.

    A process of this machine is looked up; one of another machine is gone when its heartbeat is older than
    the storage's grace period. Running trials that have neither owner nor heartbeat are somebody else's.
    """
    storage = database(study)
    stale = storage._get_stale_trial_ids(study._study_id) if storage.heartbeat_interval else []
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    lost = [trial for trial in running if _is_lost(trial, is_stale=trial._trial_id in stale)]
    retries = [interrupt(study, trial, "its worker was killed or lost") for trial in lost]
    return [number for number in retries if number is not None]


def interrupt(study: optuna.Study, trial: optuna.Trial | FrozenTrial, reason: str, *,
              charged: bool = True) -> int | None:
    """Fail a running trial for `reason`; the number of the trial that waits to resume it.

    None if the trial isn't running any more, or has used up its `MAX_RETRIES`. One that isn't `charged`
    (the user stopped it) keeps as many as it had.
    """
    return _fail(study, trial._trial_id, reason, charged)


def _fail(study: optuna.Study, trial_id: int, reason: str, charged: bool) -> int | None:
    storage, study_id = database(study), study._study_id
    with _create_scoped_session(storage.scoped_session) as session:
        _lock_study(session, study_id)
        row = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
        if row.state != TrialState.RUNNING:
            return None
        retry = _retry(storage._build_frozen_trial_from_trial_model(row), charged)
        set_attr(storage, session, row, FAILURE, reason)
        row.state, row.datetime_complete = TrialState.FAIL, datetime.now()
        return int(storage._get_prepared_new_trial(study_id, retry, session).number) if retry else None


def _retry(trial: FrozenTrial, charged: bool) -> FrozenTrial | None:
    num_retries = trial.user_attrs.get(NUM_RETRIES, 0) + charged
    if num_retries > MAX_RETRIES:
        return None
    return successor(trial, {RETRY_OF: trial.number, NUM_RETRIES: num_retries})


def successor(trial: FrozenTrial, lineage: dict[str, Any]) -> FrozenTrial:
    """A waiting trial that goes on where `trial` ended, with `lineage` among its user attributes."""
    kept = {key: value for key, value in trial.user_attrs.items() if key not in OF_ONE_TRIAL}
    # Its artifacts, if it came so far, are uploaded again.
    inner = {key: value for key, value in trial.system_attrs.items() if not key.startswith("artifacts:")}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs=kept | {CHAIN: chain_of(trial)} | lineage,
        system_attrs=inner,
    )


def database(study: optuna.Study) -> RDBStorage:
    """What stands behind Optuna's cache; a `UsageError` if it isn't what `open_storage` gives."""
    storage = study._storage
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    if not isinstance(backend, RDBStorage):
        raise UsageError(f"The study is kept in a {type(backend).__name__}; "
                         "expected what open_storage() gives.")
    return backend


def _lock_study(session: Session, study_id: int) -> None:
    lock(session)
    models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)


def set_attr(storage: RDBStorage, session: Session, row: models.TrialModel, key: str, value: Any) -> None:
    """A user attribute of a trial, in the transaction of `session`."""
    trial_id = int(row.trial_id)
    storage._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)


def _count_active(session: Session, study_id: int) -> int:
    trial = models.TrialModel
    is_ours = trial.user_attributes.any(key=OWNER)
    is_active = or_(trial.state.in_(FINISHED), and_(trial.state == TrialState.RUNNING, is_ours))
    return session.scalar(select(func.count()).where(trial.study_id == study_id, is_active)) or 0


def _first_waiting(session: Session, study_id: int) -> models.TrialModel | None:
    trial = models.TrialModel
    waiting = select(trial).where(trial.study_id == study_id, trial.state == TrialState.WAITING)
    return session.scalar(waiting.order_by(trial.trial_id).limit(1).with_for_update())


def _owner() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _start_time(pid)}


def _is_lost(trial: FrozenTrial, is_stale: bool) -> bool:
    owner, here = trial.user_attrs.get(OWNER), _owner()
    if owner and here["boot"] and (owner["host"], owner["boot"]) == (here["host"], here["boot"]):
        return owner["started"] != _start_time(owner["pid"])
    return is_stale


def _boot() -> str | None:
    # With the namespace of process ids, or two containers could take each other's processes for dead.
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """In clock ticks since boot; None if there is no such process (or only its corpse)."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
