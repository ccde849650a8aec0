"""The slots that run a study's trials side by side; the database is their only coordinator."""

import math
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

import joblib
import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from optsearch.errors import StorageError, TrialError, UsageError
from optsearch.search.duplicates import DUPLICATE_OF, Doorkeeper, Duplicate
from optsearch.search.events import Event, Events, Kind
from optsearch.search.processes import Message, StartFailed, TrialDied, TrialProcess, TrialStopped, in_a_line
from optsearch.search.recovery import FAILURE, FINISHED, claim, database, interrupt, recover
from optsearch.search.storage import storage_errors

STOP = "stop"
POLL_SECONDS = 1.0
MAX_FAILURES_IN_A_ROW = 5

class Objective(Protocol):
    """What a trial is."""

    @property
    def entry(self) -> str:
        """The function that trains, as "package.module:function"; see `TrialProcess`."""

    def study(self) -> optuna.Study:
        """A study of its own for each slot, with a sampler seeded like no other."""

    def job(self, trial: optuna.Trial) -> Message:
        """Suggest the parameters and say what to train; the worker adds `device`.

        May raise `optuna.TrialPruned` for a trial that isn't worth running.
        """

    def fingerprint(self, job: Message) -> str:
        """The same for two jobs that differ in nothing but chance, of which one is enough."""

    def point(self, trial: optuna.Trial, message: Message) -> tuple[int, float]:
        """Keep one point of the learning curve; the step and value to report.

        A trial that was resumed sends points a second time.
        """

    def finish(self, trial: optuna.Trial, result: Message, outcome: TrialState) -> float | None:
        """Keep attributes and artifacts, which a finished trial takes no more; the trial's value.

        The value of a trial whose `outcome` is `PRUNED` is its last report.
        """


def run_slots(objective: Objective, slots: Sequence[str], *, num_trials: int,
              timeout_seconds: float = math.inf) -> Events:
    """Run trials, one at a time on each slot (a device such as "cuda:0"), until the study has `num_trials`.

    Complete and pruned trials count, failed and skipped ones don't. After `timeout_seconds`, or once the study's user
    attribute "stop" is true, no trial is started. Closing the iterator ends the running ones, to be resumed.
    Raises `TrialError` when `MAX_FAILURES_IN_A_ROW` trials have failed, or none can start.
    """
    if not slots:
        raise UsageError('There is no slot to run trials on; expected at least one device, such as "cpu".')
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError('A script that runs a study must do so under `if __name__ == "__main__":`.')
    crew = _Crew(objective, num_trials, time.monotonic() + timeout_seconds)
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
        num_finished = len(self.study.get_trials(deepcopy=False, states=FINISHED))
        is_late = time.monotonic() >= self.crew.deadline
        return num_finished >= self.crew.num_trials or is_late or bool(self.study.user_attrs.get(STOP))

    def take_turn(self) -> None:
        self.trial = claim(self.study, self.crew.num_trials)
        if self.trial is None:
            self.crew.stopping.wait(POLL_SECONDS)
            return
        self.tell_of("started", self.trial.number)
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
        except Duplicate as duplicate:
            self.skip(trial, duplicate)
        except (StorageError, StorageInternalError, SQLAlchemyError):
            raise
        except Exception as error:
            self.fail(trial, error)

    def outcome(self, trial: optuna.Trial) -> tuple[TrialState, float | None]:
        try:
            return self.train(trial)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None

    def train(self, trial: optuna.Trial) -> tuple[TrialState, float | None]:
        objective, outcome = self.crew.objective, TrialState.COMPLETE
        job = objective.job(trial)
        self.doorkeeper.check(trial, objective.fingerprint(job))
        reported = set(self.study._storage.get_trial(trial._trial_id).intermediate_values)
        run = self.process.run(job | {"device": self.device})
        for message in run:
            step, value = objective.point(trial, message)
            if step in reported:
                continue
            reported.add(step)
            trial.report(value, step)
            self.tell_of("reported", trial.number, step=step, value=value)
            if trial.should_prune():
                outcome = TrialState.PRUNED
                run.stop()
        return outcome, objective.finish(trial, run.result, outcome)

    def finish(self, trial: optuna.Trial, outcome: TrialState, value: float | None) -> None:
        if outcome is TrialState.COMPLETE and (value is None or math.isnan(value)):
            raise TrialError(f"The trial's value is {value}; expected a number.")
        value = value if outcome is TrialState.COMPLETE else None
        told = self.study.tell(trial, value, outcome, skip_if_finished=True)
        if told.state is not outcome:
            raise UpdateFinishedTrialError
        self.crew.failures.clear()
        self.tell_of("finished", trial.number, value=told.value, state=outcome)

    def give_back(self, trial: optuna.Trial, error: TrialError, *, charged: bool = True) -> None:
        retry = interrupt(self.study, trial, str(error), charged=charged)
        self.tell_of("failed", trial.number, reason=str(error))
        if retry is not None:
            self.tell_of("retried", retry, reason=str(error))
        else:
            self.crew.count_failure(error)

    def skip(self, trial: optuna.Trial, duplicate: Duplicate) -> None:
        trial.set_user_attr(DUPLICATE_OF, duplicate.number)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self.tell_of("skipped", trial.number, reason=str(duplicate))

    def fail(self, trial: optuna.Trial, error: Exception) -> None:
        reason = in_a_line(error)
        trial.set_user_attr(FAILURE, reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self.tell_of("failed", trial.number, reason=reason)
        self.crew.count_failure(error)

    def tell_of(self, kind: Kind, trial: int, **details: Any) -> None:
        self.crew.events.put(Event(kind, trial, self.device, **details))
