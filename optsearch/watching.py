"""Running a study in front of somebody: events become a progress bar and a line a trial."""

from collections.abc import Sequence
from contextlib import closing
from math import exp

from optsearch import progress
from optsearch.search.definition import StudyDefinition
from optsearch.search.events import Event
from optsearch.search.study import Store, summary


def run_and_watch(store: Store, name: str, slots: Sequence[str], num_trials: int, *, quiet: bool = False) -> None:
    """Run a study to `num_trials` finished trials and show how it goes."""
    study = store.load(name)
    definition = StudyDefinition.of(study)
    running: dict[int, float] = {}
    counts = summary(study)
    num_finished = counts["complete"] + counts["pruned"]
    with (progress.meter("trials", num_trials, quiet=quiet) as meter,
          closing(store.run(name, slots, num_trials, quiet=quiet)) as events):
        for event in events:
            if event.kind == "reported" and event.step is not None:
                running[event.trial] = event.step / definition.budget
            elif event.kind != "started":
                running.pop(event.trial, None)
            num_finished += event.kind == "finished"
            if event.kind not in ("started", "reported"):
                meter.say(in_words(event))
            meter.update(min(num_trials, num_finished + sum(running.values())))


def in_words(event: Event) -> str:
    """A line about a trial."""
    if event.kind == "finished" and event.state is not None and event.value is not None:
        return (f"trial {event.trial} {event.state.name.lower()}: "
                f"loss {exp(event.value):.3f} x tuned AdamW's (value {event.value:.4f})")
    return f"trial {event.trial} {event.kind}: {event.reason}"
