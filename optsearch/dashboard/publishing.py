"""What a study knows, put into Optuna Dashboard: a note, plots, and pictures of trials."""

import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from optsearch.errors import OptsearchError
from optsearch.optimizers.picture import draw
from optsearch.pictures import save_chart
from optsearch.report.charts import study_charts, trial_chart
from optsearch.search.attachments import attach, file_ids
from optsearch.search.snapshot import Snapshot, Trial
from optsearch.search.study import Store

CURVE, DESIGN = "curve.png", "design.png"
# Between the beginnings of two publications, and the part of the time that they may take altogether.
LEAST_SECONDS, MOST_EFFORT = 20.0, 0.05
# Beside a run; what is still missing then is drawn when the dashboard is opened.
PICTURE_SECONDS = 3.0


def publish(store: Store, name: str, picture_seconds: float = inf) -> None:
    """Bring note, plots and pictures up to date; no picture is begun after `picture_seconds`.

    Raises `StudyError` for a study that isn't there, or that optsearch did not make.
    """
    snapshot = Snapshot.of(store, name)
    publish_study(store, snapshot)
    publish_trials(store, snapshot, picture_seconds)


def publish_study(store: Store, snapshot: Snapshot) -> None:
    """The note and the plots."""
    from optuna_dashboard import get_note, save_note, save_plotly_graph_object

    from optsearch.dashboard.note import with_note
    from optsearch.dashboard.plots import plot

    study = store.load(snapshot.name)
    before = get_note(study)
    after = with_note(before, snapshot)
    if after != before:
        save_note(study, after)
    for identifier, chart in study_charts(snapshot).items():
        save_plotly_graph_object(study, plot(chart), graph_object_id=f"optsearch-{identifier}")


def publish_trials(store: Store, snapshot: Snapshot, seconds: float = inf) -> None:
    """The pictures that are missing, complete trials' first and then the newest; none is begun after `seconds`."""
    study = store.load(snapshot.name)
    files, deadline = file_ids(study), time.monotonic() + seconds
    ended = [trial for trial in snapshot.in_state("complete", "pruned", "paused") if trial.curve]
    with TemporaryDirectory() as folder:
        for trial in sorted(ended, key=lambda trial: (trial.state != "complete", -trial.last_number)):
            for path in _drawn(trial, snapshot.definition.budget, Path(folder), files.get(trial.last_number, {})):
                attach(study, store.places, trial.last_number, path)
            if time.monotonic() > deadline:
                return


def _drawn(trial: Trial, budget: int, folder: Path, names: Container[str]) -> Iterator[Path]:
    if CURVE not in names:
        save_chart(folder / CURVE, trial_chart(trial, budget))
        yield folder / CURVE
    if DESIGN not in names and trial.design is not None:
        draw(folder / DESIGN, f"Trial {trial.number}", trial.design.structure)
        yield folder / DESIGN


@dataclass
class Publisher:
    """Publishes a study that runs, beside it and now and then; a failure costs no more than a line.

    As a context: at its end all is published once more.
    """

    store: Store
    name: str
    say: Callable[[str], None]
    thread: threading.Thread | None = None
    due: float = field(default_factory=lambda: time.monotonic() + LEAST_SECONDS)
    has_failed: bool = False

    def __call__(self) -> None:
        """To be called when a trial has ended; returns at once."""
        if time.monotonic() >= self.due and not (self.thread and self.thread.is_alive()):
            self.thread = threading.Thread(target=self._publish, name="optsearch-publisher", daemon=True)
            self.thread.start()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        if self.thread is not None:
            self.thread.join()
        self._publish()

    def _publish(self) -> None:
        begun = time.monotonic()
        try:
            publish(self.store, self.name, PICTURE_SECONDS)
        except Exception as error:
            if not self.has_failed:
                self.say(f"the dashboard's pages are not up to date: {' '.join(str(error).split())}")
            self.has_failed = True
        self.due = begun + max(LEAST_SECONDS, (time.monotonic() - begun) / MOST_EFFORT)


def publish_made(store: Store, names: list[str]) -> None:
    """Those of the studies that optsearch made, all notes before the first picture; a line for what fails."""
    for step in (publish_study, publish_trials):
        for name in names:
            try:
                step(store, Snapshot.of(store, name))
            except OptsearchError as error:
                print(f"optsearch: {name}: {error}", file=sys.stderr)
