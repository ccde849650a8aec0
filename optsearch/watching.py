"""Running a study in front of somebody: events become a progress bar and a line a trial."""

from collections.abc import Sequence
from contextlib import closing
from math import exp

from optsearch import progress
from optsearch.search.definition import StudyDefinition
from optsearch.search.events import Event
from optsearch.search.study import Store, num_done


def run_and_watch(store: Store, name: str, slots: Sequence[str], num_trials: int, *, quiet: bool = False) -> None:
    """Run a study to `num_trials` finished trials, or with freeze-thaw as many trials' steps; show how it goes."""
    study = store.load(name)
    definition = StudyDefinition.of(study)
    running: dict[int, float] = {}
    is_full, done = definition.scheduler == "full", num_done(study)
    steps = [0, *(definition.step(point) for point in range(1, definition.num_points + definition.num_early + 1))]
    with (progress.meter("trials", num_trials, quiet=quiet) as meter,
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
            meter.update(min(num_trials, done + sum(running.values())))


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
