"""Running a study in front of somebody, or looking at one that runs elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from math import exp

from optsearch import live, progress
from optsearch.dashboard.publishing import Publisher
from optsearch.errors import StorageError
from optsearch.search.definition import StudyDefinition
from optsearch.search.events import Event
from optsearch.search.snapshot import Snapshot
from optsearch.search.study import Store, num_done

POLL_SECONDS = 2.0
# At least, between two looks at a study that runs here.
REREAD_SECONDS = 1.0
# Of the time of one core that looking at a study may take.
MOST_EFFORT = 0.02
# Polls without a running trial after which nothing is taken to run any more: the next one may be about to start.
NUM_IDLE = 3
# Columns and rows of what is no terminal.
PLAIN_WIDTH = 200
# Lines below the table, and those that a terminal needs for its prompt.
NUM_OTHER_LINES = 6


@dataclass
class Lookout:
    """What the panel of a run shows: the study as it was a moment ago, and how far the run is."""

    read: Callable[[], Snapshot]
    total: float
    done: float
    places: dict[int, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    due: float = 0.0
    has_news: bool = True
    view: live.View | None = None

    def __post_init__(self) -> None:
        self.done_before = self.done

    def tell(self, event: Event, done: float) -> None:
        self.places[event.trial], self.done, self.has_news = event.slot, done, True

    def draw(self, width: int, height: int) -> list[str]:
        self._refresh()
        if self.view is None:
            return []
        seconds = time.monotonic() - self.begun
        gained = self.done - self.done_before
        left = (self.total - self.done) * seconds / gained if gained > 0 else None
        return [*live.table(self.view, width, height - NUM_OTHER_LINES), live.best_line(self.view, width),
                live.counts_line(self.view, width), live.bar_line(self.done / self.total, seconds, left, width)]

    def _refresh(self) -> None:
        now = time.monotonic()
        if not self.has_news or now < self.due:
            return
        self.has_news, begun = False, time.thread_time()
        # Whoever cannot read it just now shows what was known before.
        with suppress(StorageError):
            self.view = live.View.of(self.read(), self.places)
            # No event tells of a design.
            self.has_news |= any(not trial.kinds for trial in self.view.running)
        took = time.thread_time() - begun
        self.due = time.monotonic() + max(REREAD_SECONDS, took / MOST_EFFORT)


def run_and_watch(store: Store, name: str, slots: Sequence[str], num_trials: int, *, quiet: bool = False) -> None:
    """Run a study to `num_trials` finished trials, or with freeze-thaw as many trials' steps; show how it goes."""
    study = store.load(name)
    definition = StudyDefinition.of(study)
    running: dict[int, float] = {}
    is_full, done = definition.scheduler == "full", num_done(study)
    steps = [0, *(definition.step(point) for point in range(1, definition.num_points + definition.num_early + 1))]
    lookout = Lookout(Snapshot.reader(store, name), num_trials, done)
    with (progress.meter("trials", num_trials, quiet=quiet, draw=lookout.draw) as meter,
          Publisher(store, name, meter.say) as publish,
          closing(store.run(name, slots, num_trials, quiet=quiet)) as events):
        for event in events:
            if event.kind == "reported" and event.step is not None:
                running[event.trial] = event.step / definition.budget if is_full else 0.0
                done += 0.0 if is_full else (event.step - max(filter(event.step.__gt__, steps))) / definition.budget
            elif event.kind != "started":
                running.pop(event.trial, None)
            done += is_full and event.kind == "finished"
            if event.kind not in ("started", "reported"):
                meter.say(in_words(event))
                publish()
            progressed = min(num_trials, done + sum(running.values()))
            lookout.tell(event, progressed)
            meter.update(progressed)
        # The last picture stays.
        lookout.due = 0.0


def watch(store: Store, name: str, *, until_idle: bool = False) -> None:
    """Show a study that others run, until Ctrl-C or, if wanted, until nothing runs any more."""
    read = Snapshot.reader(store, name)
    view, num_idle = live.View.of(read()), 0

    def draw(width: int, height: int) -> list[str]:
        return [*live.table(view, width, height - NUM_OTHER_LINES), live.best_line(view, width),
                live.counts_line(view, width), live.times_line(view)]

    with suppress(KeyboardInterrupt), progress.meter(name, 1.0, draw=draw, out=sys.stdout) as meter:
        meter.update(0.0)
        for line in draw(PLAIN_WIDTH, PLAIN_WIDTH) if not progress.is_live(sys.stdout) else ():
            meter.say(line)
        while not (until_idle and num_idle >= NUM_IDLE):
            time.sleep(POLL_SECONDS)
            newer = live.View.of(read())
            for line in live.news(view, newer):
                meter.say(line)
            view, num_idle = newer, 0 if newer.running else num_idle + 1


def in_words(event: Event) -> str:
    """A line about a trial."""
    if event.kind == "finished" and event.state is not None and event.value is not None:
        return (f"trial {event.trial} {event.state.name.lower()}: "
                f"loss {exp(event.value):.3f} x tuned AdamW's (value {event.value:.4f})")
    if event.kind == "finished" and event.state is not None:
        return f"trial {event.trial} {event.state.name.lower()}"
    if event.kind == "paused":
        return f"trial {event.trial} paused after {event.step} inner steps, at value {event.value:.4f}"
    return f"trial {event.trial} {event.kind}: {event.reason}"
