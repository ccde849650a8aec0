"""The slots that run a study's trials side by side; the database is their only coordinator."""

import math
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import joblib
import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from optsearch.errors import StorageError, TrialError, UsageError
from optsearch.search.costs import MAX_OVER_LIMIT_IN_A_ROW, OverLimit
from optsearch.search.duplicates import Doorkeeper, Skipped
from optsearch.search.events import Event, Events, Kind
from optsearch.search.objectives import Objective, Value, is_number, report, value_of
from optsearch.search.processes import StartFailed, TrialDied, TrialProcess, TrialStopped, in_a_line
from optsearch.search.recovery import CONTINUES, FAILURE, PAUSED, RETRY_OF, database, interrupt, recover
from optsearch.search.scheduling import Schedule, WholeTrials
from optsearch.search.storage import storage_errors

STOP = "stop"
POLL_SECONDS = 1.0
MAX_FAILURES_IN_A_ROW = 5


def run_slots(objective: Objective, slots: Sequence[str], *, num_trials: int,
              timeout_seconds: float = math.inf, schedule: Schedule | None = None) -> Events:
    """Run trials, one at a time on each slot (a device such as "cuda:0"), until the study has `num_trials`.

    What counts for these is said by the `schedule`, by default `WholeTrials`. After `timeout_seconds`, or once the
    study's user attribute "stop" is true, no trial is started. Closing the iterator ends the running ones, to be
    resumed. Raises `TrialError` when `MAX_FAILURES_IN_A_ROW` trials have failed, or none can start.
    """
    if not slots:
        raise UsageError('There is no slot to run trials on; expected at least one device, such as "cpu".')
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError('A script that runs a study must do so under `if __name__ == "__main__":`.')
    crew = _Crew(objective, num_trials, time.monotonic() + timeout_seconds, schedule or WholeTrials())
    thread = threading.Thread(target=crew.work, args=(slots,), name="optsearch-slots")
    thread.start()
    try:
        while (event := crew.events.get()) is not None:
            yield event
    finally:
        crew.stopping.set()
        thread.join()
    if crew.problem is not None:
        raise crew.problem


@dataclass
class _Crew:
    objective: Objective
    num_trials: int
    deadline: float
    schedule: Schedule
    events: SimpleQueue[Event | None] = field(default_factory=SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    problem: Exception | None = None

    def work(self, slots: Sequence[str]) -> None:
        try:
            tasks = [joblib.delayed(self.run_slot)(slot) for slot in slots]
            joblib.Parallel(n_jobs=len(slots), backend="threading", batch_size=1)(tasks)
        finally:
            self.events.put(None)

    def run_slot(self, slot: str) -> None:
        # Whatever left this function would cancel the other slots' tasks in the middle.
        try:
            _Slot(self, slot, self.objective.study()).work()
        except Exception as error:
            self.give_up(error)

    def count_failure(self, error: Exception) -> None:
        self.failures.append(in_a_line(error))
        if len(self.failures) < MAX_FAILURES_IN_A_ROW:
            return
        self.give_up(error if isinstance(error, StorageError) else TrialError(
            f"{len(self.failures)} trials in a row failed, so the run was stopped. The last one: {self.failures[-1]}"))

    def give_up(self, error: Exception) -> None:
        self.problem = self.problem or error
        self.stopping.set()


class _Slot:
    def __init__(self, crew: _Crew, device: str, study: optuna.Study):
        self.crew, self.device, self.study = crew, device, study
        self.process = TrialProcess(crew.objective.entry, crew.stopping)
        self.trial: optuna.Trial | None = None
        self.doorkeeper = Doorkeeper()
        self.num_over_limit = 0

    def work(self) -> None:
        with closing(self.process):
            while not self.crew.stopping.is_set():
                try:
                    with storage_errors(database(self.study).url):
                        self.catch_up()
                        if self.is_over():
                            return
                        self.take_turn()
                except Exception as error:
                    self.crew.count_failure(error)
                    self.crew.stopping.wait(POLL_SECONDS)

    def catch_up(self) -> None:
        if self.trial is not None:
            interrupt(self.study, self.trial, "its worker lost touch with the database", charged=False)
            self.trial = None
        for number in recover(self.study):
            self.tell_of("retried", number, reason="its worker was killed or lost")

    def is_over(self) -> bool:
        is_late = time.monotonic() >= self.crew.deadline
        return (is_late or bool(self.study.user_attrs.get(STOP))
                or self.crew.schedule.is_over(self.study, self.crew.num_trials))

    def take_turn(self) -> None:
        self.trial = self.crew.schedule.claim(self.study, self.crew.num_trials)
        if self.trial is None:
            self.crew.stopping.wait(POLL_SECONDS)
            return
        self.tell_of_start(self.trial)
        with get_heartbeat_thread(self.trial._trial_id, self.study._storage):
            self.run(self.trial)
        self.trial = None

    def run(self, trial: optuna.Trial) -> None:
        try:
            self.finish(trial, *self.outcome(trial))
        except UpdateFinishedTrialError:
            self.tell_of("failed", trial.number, reason="another worker had taken it for lost")
        except StartFailed as error:
            self.give_back(trial, error, charged=False)
            self.crew.give_up(error)
        except TrialStopped as error:
            self.give_back(trial, error, charged=False)
        except TrialDied as error:
            self.give_back(trial, error)
        except Skipped as skipped:
            self.skip(trial, skipped)
        except (StorageError, StorageInternalError, SQLAlchemyError):
            raise
        except Exception as error:
            self.fail(trial, error)

    def outcome(self, trial: optuna.Trial) -> tuple[TrialState, Value]:
        try:
            return self.train(trial)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None

    def train(self, trial: optuna.Trial) -> tuple[TrialState, Value]:
        objective, outcome = self.crew.objective, TrialState.COMPLETE
        job = objective.job(trial)
        self.num_over_limit = 0
        self.doorkeeper.check(trial, objective.fingerprint(job))
        reported = set(self.study._storage.get_trial(trial._trial_id).intermediate_values)
        run = self.process.run(job | {"device": self.device})
        for message in run:
            step, value = objective.point(trial, message)
            if step in reported:
                continue
            reported.add(step)
            report(trial, value, step)
            self.tell_of("reported", trial.number, step=step, value=value)
            if not self.crew.schedule.goes_on(trial, message, self.crew.num_trials):
                outcome = TrialState.PRUNED
                run.stop()
        return outcome, objective.finish(trial, run.result, outcome)

    def finish(self, trial: optuna.Trial, outcome: TrialState, value: Value) -> None:
        if outcome is TrialState.COMPLETE and not is_number(value):
            raise TrialError(f"The trial's value is {value}; expected a number.")
        value = value if outcome is TrialState.COMPLETE else None
        told = self.study.tell(trial, value, outcome, skip_if_finished=True)
        if told.state is not outcome:
            raise UpdateFinishedTrialError
        self.crew.failures.clear()
        self.tell_of("paused" if PAUSED in told.user_attrs else "finished", trial.number, value=value_of(told),
                     step=told.last_step, state=outcome)

    def give_back(self, trial: optuna.Trial, error: TrialError, *, charged: bool = True) -> None:
        retry = interrupt(self.study, trial, str(error), charged=charged)
        self.tell_of("failed", trial.number, reason=str(error))
        if retry is not None:
            self.tell_of("retried", retry, reason=str(error))
        else:
            self.crew.count_failure(error)

    def skip(self, trial: optuna.Trial, skipped: Skipped) -> None:
        trial.set_user_attr(skipped.mark, skipped.content)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self.tell_of("skipped", trial.number, reason=str(skipped))
        self.num_over_limit += isinstance(skipped, OverLimit)
        if self.num_over_limit >= MAX_OVER_LIMIT_IN_A_ROW:
            self.crew.give_up(TrialError(f"{self.num_over_limit} designs in a row were over the limits of the study. "
                                         f"The last one: {skipped}. Make a study with higher limits or a cheaper "
                                         "space."))

    def fail(self, trial: optuna.Trial, error: Exception) -> None:
        reason = in_a_line(error)
        trial.set_user_attr(FAILURE, reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self.tell_of("failed", trial.number, reason=reason)
        self.crew.count_failure(error)

    def tell_of_start(self, trial: optuna.Trial) -> None:
        continued = trial.user_attrs.get(CONTINUES)
        is_thawed = continued is not None and RETRY_OF not in trial.user_attrs
        self.tell_of("thawed" if is_thawed else "started", trial.number,
                     reason=f"goes on where trial {continued} was paused" if is_thawed else "")

    def tell_of(self, kind: Kind, trial: int, **details: Any) -> None:
        self.crew.events.put(Event(kind, trial, self.device, **details))
