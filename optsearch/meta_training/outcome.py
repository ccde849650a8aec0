"""How a meta-training ended, as a sentence that can be shown."""

from enum import Enum


class Outcome(Enum):
    COMPLETED = "Meta-training used its whole budget."
    DIVERGED = "The weights are no longer finite; lower `meta_lr` or `sigma`."
    PRUNED = "Stopped early: the curve so far was worse than other trials' at the same point."
    COLLAPSED = ("Given up: inner trainings end no better than they began; start from a base (`mixing`), or lower "
                 "`meta_lr` or the schedule's `initial_lr`.")
