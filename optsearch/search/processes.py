"""A warm child process that runs trials one after another, so that one that dies takes nothing with it."""

import importlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from optsearch.errors import OptsearchError, TrialError

# Threads of many trials on few cores wait for each other; and glibc hands large blocks back to the
# system at once, to fault every page in again at the next operation.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
POLL_SECONDS = 0.2
DYING_SECONDS = 5

Message = dict[str, Any]

_starting = threading.Lock()


class TrialDied(TrialError):
    """The trial's process is gone."""


class TrialFailed(TrialError):
    """The trial raised an error; its traceback is a note of this one."""


class StartFailed(TrialError):
    """The process for trials could not start, whatever the trial."""


class TrialStopped(TrialError):
    """The trial was ended because its worker stops."""


class Channel:
    """The child's way to its parent."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def point(self, message: Message) -> bool:
        """Send one point of the learning curve; whether to go on."""
        self._connection.send(("point", message))
        return self._connection.recv()


class Run:
    """A trial in progress: iterate over its messages, then read its `result`."""

    def __init__(self, process: "TrialProcess"):
        self.result: Message = {}
        self._process = process
        self._goes_on = True

    def __iter__(self) -> Iterator[Message]:
        while (answer := self._process._receive())[0] == "point":
            yield answer[1]
            self._process._send(self._goes_on)
        self.result = answer[1]
        self._process._is_idle = True

    def stop(self) -> None:
        """Ask the trial to end at this message."""
        self._goes_on = False


class TrialProcess:
    """Calls `entry(job, channel)`, named as "package.module:function", in a child process of its own.

    Setting the event `stopping` ends a running trial within moments, with `TrialStopped`.
    """

    def __init__(self, entry: str, stopping: threading.Event | None = None):
        self.entry = entry
        self._stopping = stopping or threading.Event()
        self._is_idle = False
        self._child: Any = None
        self._connection: Any = None

    def run(self, job: Message) -> Run:
        """Start a trial, in a fresh child unless the last trial ended well.

        This raises `StartFailed`; this and the iteration raise `TrialDied`, `TrialFailed` or `TrialStopped`.
        """
        if not self._is_idle:
            self._start()
        self._is_idle = False
        self._send(job)
        return Run(self)

    def close(self) -> None:
        """End the child, whatever it does."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._connection.close()
        self._child, self._is_idle = None, False

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(self.entry, theirs), daemon=True)
        with theirs, _surroundings():
            child.start()
        self._child = child
        try:
            self._receive()
        except TrialFailed as error:
            raise StartFailed(f"No trial could start: {error}") from error
        except TrialDied as error:
            raise StartFailed(f"No trial could start: {error} A script that runs a study must do so under "
                              '`if __name__ == "__main__":`.') from error

    def _send(self, answer: Message | bool) -> None:
        try:
            self._connection.send(answer)
        except OSError as error:
            raise self._death() from error

    def _receive(self) -> tuple[str, Message]:
        is_there = False
        while not is_there:
            if self._stopping.is_set():
                self.close()
                raise TrialStopped("The trial was stopped with its worker.")
            is_there = self._connection.poll(POLL_SECONDS)
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if kind == "failed":
            self.close()
            failure = TrialFailed(content["reason"])
            failure.add_note(content["traceback"])
            raise failure
        return kind, content

    def _death(self) -> TrialDied:
        self._child.join(DYING_SECONDS)
        code = self._child.exitcode
        self.close()
        if code is None or code >= 0:
            return TrialDied(f"The trial's process ended by itself (exit status {code}).")
        name = signal.Signals(-code).name
        hint = "; out of memory?" if name == "SIGKILL" else "."
        return TrialDied(f"The trial's process was killed ({name}){hint}")


def in_a_line(error: BaseException) -> str:
    """What an error says, after its name if it is none of ours."""
    line = str(error) if isinstance(error, OptsearchError) else traceback.format_exception_only(error)[-1]
    return " ".join(line.split())


@contextmanager
def _surroundings() -> Iterator[None]:
    """What a child inherits from its first moment on: the environment, and deafness to Ctrl-C."""
    with _starting:
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        # It would unblock the signal, were it started by the child's start.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(ENVIRONMENT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _serve(entry: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        module, _, name = entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        connection.send(("ready", {}))
        while True:
            connection.send(("result", function(connection.recv(), Channel(connection))))
    except BaseException as error:
        # A parent that is gone, or has closed its end, wants no answer.
        with suppress(OSError):
            connection.send(("failed", {"reason": in_a_line(error), "traceback": traceback.format_exc()}))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
