"""A study ends by itself when what more trials are expected to find is not worth what they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

import optuna
from optuna.trial import TrialState

from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.history import newest
from optsearch.search.gp_sampler import GAIN
from optsearch.search.processes import Message
from optsearch.search.recovery import FINISHED, chain_of
from optsearch.search.scheduling import Schedule

# One suggestion may be a lucky guess or an unlucky fit.
NUM_LATEST = 5
# Finished ones beyond those of the start, from which a model learns how far its own suggestions may go wrong.
NUM_MODELLED = 10


@dataclass(frozen=True)
class UntilWorthless:
    """A schedule that is over, too, once the study has `ended`; what waits to go on after a crash is still trained.

    With freeze-thaw this is asked of new designs: what is paused then was worth even less.
    """

    schedule: Schedule

    def claim(self, study: optuna.Study, num_trials: int) -> optuna.Trial | None:
        return None if _is_ended(study) else self.schedule.claim(study, num_trials)

    def is_over(self, study: optuna.Study, num_trials: int) -> bool:
        return self.schedule.is_over(study, num_trials) or _is_ended(study)

    def goes_on(self, trial: optuna.Trial, message: Message, num_trials: int) -> bool:
        return self.schedule.goes_on(trial, message, num_trials)


def ended(study: optuna.Study) -> str:
    """Why the study ends by itself, empty while it doesn't; recomputed from its trials, so that it holds."""
    definition = StudyDefinition.of(study)
    if not definition.stop_gain:
        return ""
    gain = gain_per_budget(study, definition)
    if gain is None or gain >= definition.stop_gain:
        return ""
    return (f"a trial's full budget is expected to improve the best value by {gain:.2g}, less than the bound "
            f"{definition.stop_gain:g}")


def gain_per_budget(study: optuna.Study, definition: StudyDefinition) -> float | None:
    """By how much `definition.budget` more inner steps are expected to improve the best value; None while unknown.

    It is unknown until `NUM_MODELLED` trials more have finished than the sampler's start takes. Only what the model
    suggested says something about it, as a new design, whatever interrupted it.
    """
    designs = sorted(newest(study.get_trials(deepcopy=False)), key=chain_of)
    finished = [trial for trial in designs if trial.state in FINISHED]
    if len(finished) < definition.num_startup_trials + NUM_MODELLED:
        return None
    gains = [trial.user_attrs[GAIN] for trial in designs if GAIN in trial.user_attrs]
    return per_budget(gains, [trial.last_step / definition.budget for trial in finished if trial.last_step])


def per_budget(gains: Sequence[float], parts: Sequence[float]) -> float | None:
    """The median of the latest expected gains, over the mean part of a budget that the latest trials spent.

    Pruned trials make trials cheaper. Both oldest first; None where there are fewer than `NUM_LATEST` gains or no
    part.
    """
    if len(gains) < NUM_LATEST or not parts:
        return None
    return median(gains[-NUM_LATEST:]) / mean(parts[-NUM_LATEST:])


def _is_ended(study: optuna.Study) -> bool:
    """Unless something waits to be resumed."""
    return bool(ended(study)) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
