"""What a run of trials tells whoever watches it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from optuna.trial import TrialState

Kind = Literal["started", "reported", "finished", "failed", "retried", "skipped",
               "paused", "thawed"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial.

    `retried` names the trial that resumes another; `skipped` is one that would have been a duplicate; `thawed` one that
    has been started to continue a paused one.
    """

    kind: Kind
    trial: int
    slot: str
    step: int | None = None
    value: float | None = None
    state: TrialState | None = None
    reason: str = ""


Events = Generator[Event, None, None]
