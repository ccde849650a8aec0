"""Points that are not worth a trial, such as those that a study has already, found before they cost one."""

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.recovery import PAUSED

FINGERPRINT, DUPLICATE_OF, OVER_LIMIT = "fingerprint", "duplicate_of", "over_limit"
MAX_DUPLICATES_IN_A_ROW = 10
TAKEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


class Skipped(Exception):
    """The trial is not trained; its user attribute `mark` says why."""

    def __init__(self, reason: str, mark: str, content: Any):
        super().__init__(reason)
        self.mark, self.content = mark, content


class Duplicate(Skipped):
    """The trial would train what trial `number` trains or has trained."""

    def __init__(self, number: int):
        super().__init__(f"the same as trial {number}", DUPLICATE_OF, number)
        self.number = number


@dataclass
class Doorkeeper:
    """Turns duplicates away, but no more than `MAX_DUPLICATES_IN_A_ROW`: a space can be exhausted."""

    num_in_a_row: int = 0

    def check(self, trial: optuna.Trial, fingerprint: str) -> None:
        """Keep the fingerprint with the trial; raises `Duplicate`.

        Two workers that ask for the same point in the same moment may both get through.
        """
        # A retry was let in with the trial that it resumes.
        if FINGERPRINT in trial.user_attrs:
            return
        trial.set_user_attr(FINGERPRINT, fingerprint)
        number = twin_of(trial, fingerprint)
        if number is not None and self.num_in_a_row < MAX_DUPLICATES_IN_A_ROW:
            self.num_in_a_row += 1
            raise Duplicate(number)
        self.num_in_a_row = 0


def twin_of(trial: optuna.Trial, fingerprint: str) -> int | None:
    """The first other trial of this fingerprint that has finished, runs or waits."""
    for other in trial.study.get_trials(deepcopy=False, states=TAKEN):
        # Of two that are asked at once, the later one gives way.
        is_later = other.state is TrialState.RUNNING and other.number > trial.number
        if other.user_attrs.get(FINGERPRINT) == fingerprint and other.number != trial.number and not is_later:
            return other.number
    return None


def state_in_words(trial: FrozenTrial) -> str:
    """A trial's state as a user sees it."""
    if is_duplicate(trial):
        return f"duplicate of {trial.user_attrs[DUPLICATE_OF]}"
    if OVER_LIMIT in trial.user_attrs:
        return "over a limit"
    is_paused = trial.state is TrialState.PRUNED and PAUSED in trial.user_attrs
    return "paused" if is_paused else trial.state.name.lower()


def is_duplicate(trial: FrozenTrial) -> bool:
    """Whether the trial was turned away since another is the same."""
    return DUPLICATE_OF in trial.user_attrs


def is_skipped(trial: FrozenTrial) -> bool:
    """Whether the trial was turned away, which is no failure though Optuna calls it one."""
    return is_duplicate(trial) or OVER_LIMIT in trial.user_attrs
