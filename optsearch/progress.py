"""Progress of long work: bars or live panels on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_INTERVAL_SECONDS = 10.0
REFRESHES_PER_SECOND = 2
# What a panel's lines look like where there are colours.
STYLES = {r"(?m)^trial  .*": "bold", r"(?m)^best so far: trial \d+, loss \S+": "bold green", "[▁▂▃▄▅▆▇█]+": "cyan",
          "━+": "green", "─+": "dim"}
# For terminals that know no Unicode.
ASCII = str.maketrans("▁▂▃▄▅▆▇█━─…", "_.-:=+*##-~")

# A panel's lines, in so many columns and rows.
Draw = Callable[[int, int], list[str]]


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
class _Panel:
    live: Live

    def update(self, done: float, note: str = "") -> None:
        # Not before the first news: whatever prepares the work may show a bar of its own.
        if not self.live.is_started:
            self.live.start(refresh=True)

    def say(self, line: str) -> None:
        self.live.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self.live.stop()


@dataclass
class _Lines:
    label: str
    total: float
    out: TextIO
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
        print(fitting(line, self.out.encoding), file=self.out, flush=True)


@contextmanager
def meter(label: str, total: float, *, quiet: bool = False, draw: Draw | None = None,
          out: TextIO | None = None) -> Iterator[Meter]:
    """Progress of `total` units of work on standard error; standard output stays clean for scripts.

    A terminal shows a bar, or instead what `draw` gives, which is called from another thread.
    """
    out = out or sys.stderr
    console = Console(file=out)
    if quiet:
        yield Silent()
    elif not is_live(out):
        yield _Lines(label, total, out)
    elif draw is not None:
        with closing(_panel(console, draw)) as panel:
            yield panel
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=console) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, note=""))


def is_live(out: TextIO) -> bool:
    """Whether lines that are there can be drawn anew."""
    return Console(file=out).is_interactive


def width(out: TextIO) -> int:
    """How many columns a line may have; elsewhere than on a terminal as many as it likes."""
    return Console(file=out).width if out.isatty() else sys.maxsize


def fitting(text: str, encoding: str | None) -> str:
    """The text, or one without blocks and lines where the encoding has none."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(ASCII)
    return text


def _panel(console: Console, draw: Draw) -> _Panel:
    def drawn() -> Text:
        lines = "\n".join(draw(console.width, console.height))
        text = Text(fitting(lines, console.encoding), no_wrap=True, overflow="crop")
        for pattern, style in STYLES.items():
            text.highlight_regex(pattern, style)
        return text

    # What is piped elsewhere must not come to the terminal.
    return _Panel(Live(console=console, get_renderable=drawn, refresh_per_second=REFRESHES_PER_SECOND,
                       redirect_stdout=sys.stdout.isatty()))
