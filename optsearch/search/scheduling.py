"""Which trial a worker trains next, and for how long."""

from typing import Protocol

import optuna

from optsearch.search.objectives import is_weak
from optsearch.search.processes import Message
from optsearch.search.recovery import FINISHED, claim


class Schedule(Protocol):
    """What workers ask between two trials, and between two points of a trial."""

    def claim(self, study: optuna.Study, num_trials: int) -> optuna.Trial | None:
        """The trial to train next, running and the caller's own; None where there is none at the moment."""

    def is_over(self, study: optuna.Study, num_trials: int) -> bool:
        """Whether the study has all that `num_trials` asks for."""

    def goes_on(self, trial: optuna.Trial, message: Message, num_trials: int) -> bool:
        """Whether a trial that has just reported the point in `message` is trained further."""


class WholeTrials:
    """Trials are trained to their end, unless the study's pruner stops them for good."""

    def claim(self, study: optuna.Study, num_trials: int) -> optuna.Trial | None:
        """See `recovery.claim`."""
        return claim(study, num_trials)

    def is_over(self, study: optuna.Study, num_trials: int) -> bool:
        """Complete and pruned trials count, failed and skipped ones don't."""
        return len(study.get_trials(deepcopy=False, states=FINISHED)) >= num_trials

    def goes_on(self, trial: optuna.Trial, message: Message, num_trials: int) -> bool:
        return not is_weak(trial)
