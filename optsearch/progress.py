"""Progress of long work: bars with an ETA on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 10.0


class Meter(Protocol):
    """What long work reports to."""

    def update(self, done: float, note: str = "") -> None:
        """Say that `done` of the total is behind us."""

    def say(self, line: str) -> None:
        """Print a line above the bar."""


class Silent:
    """A meter that shows nothing."""

    def update(self, done: float, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass


@dataclass
class _Bar:
    bars: Progress
    task: TaskID

    def update(self, done: float, note: str = "") -> None:
        self.bars.update(self.task, completed=done, note=note)

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, soft_wrap=True)


@dataclass
class _Lines:
    label: str
    total: float
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.printed < PLAIN_INTERVAL_SECONDS or done <= 0:
            return
        self.printed = now
        eta_seconds = (now - self.started) / done * (self.total - done)
        self.say(f"{self.label}: {100 * done / self.total:.0f} %, about {eta_seconds:.0f} s left {note}".rstrip())

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def meter(label: str, total: float, *, quiet: bool = False) -> Iterator[Meter]:
    """Progress of `total` units of work on standard error; standard output stays clean for scripts."""
    console = Console(stderr=True)
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        yield _Lines(label, total)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=console) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, note=""))
