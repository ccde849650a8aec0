"""Trials that are paused and continued, which Optuna has no word for: a finished trial is never changed.

A *config* is a chain of trials with one `config_id`, the number of the first. One that is paused is pruned, with the
user attribute `paused`; what continues it is a new trial of the same parameters and values that `continues` it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import optuna
from optuna.trial import TrialState

from optsearch.search.configs import configs_of
from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.forecaster import fit_predictor
from optsearch.search.forecasting.freeze_thaw import FreezeThaw, new_designs
from optsearch.search.forecasting.history import FailedShares, curve_of, recorded_shares
from optsearch.search.forecasting.standing import Standing
from optsearch.search.ledger import Room, first_row, thawed_row, waiting_row
from optsearch.search.processes import Message
from optsearch.search.records import Records
from optsearch.search.recovery import PAUSED, chain_of, opened, take
from optsearch.search.samplers import encoding_of
from optsearch.search.scheduling import Schedule, WholeTrials
from optsearch.search.trial import OUTCOME


def make_schedule(definition: StudyDefinition, records: Records) -> Schedule:
    """The study's scheduler."""
    if definition.scheduler == "full":
        return WholeTrials()
    encoding, budget, seed = encoding_of(definition.space, definition.space_text), definition.budget, definition.seed
    policy = FreezeThaw(budget, lambda curves: fit_predictor(curves, encoding, budget, seed),
                        partial(new_designs, encoding.tree, seed))
    return Thawing(policy, lambda study: recorded_shares(records, study._study_id, definition.step))


@dataclass
class Thawing:
    """Freeze-thaw in a study: all inner steps of `num_trials` whole trials are spent where they are worth most.

    Reported steps must be inner steps, of which the last is the policy's budget. A config that runs is counted as if
    it were trained to its end, so that no workers together begin more than can be ended. `failed_shares` is asked
    with the study at every decision.
    """

    policy: FreezeThaw
    failed_shares: Callable[[optuna.Study], FailedShares] = lambda study: {}
    _deciding: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def claim(self, study: optuna.Study, num_trials: int) -> optuna.Trial | None:
        """A trial that waits, or a successor of a paused one, or a new one; None where others were faster too."""
        with self._deciding:
            trial_id = self._taken(study, num_trials)
        return None if trial_id is None else opened(study, trial_id)

    def is_over(self, study: optuna.Study, num_trials: int) -> bool:
        """Whether nothing runs, and nothing that could be begun could be brought to its end."""
        scene = self._look(study, num_trials)
        return not scene.standing.running and not scene.waiting and self.policy.is_over(scene.standing)

    def goes_on(self, trial: optuna.Trial, message: Message, num_trials: int) -> bool:
        """Whether the policy goes on with it; else it is marked as paused. What has come to its end never is."""
        if message.get(OUTCOME):
            return True
        with self._deciding:
            scene = self._look(trial.study, num_trials)
            chain = chain_of(trial)
            # It isn't there when another worker has taken it for lost.
            if chain not in scene.chains or self.policy.goes_on(scene.standing, scene.chains.index(chain)):
                return True
        trial.set_user_attr(PAUSED, True)
        return False

    def _taken(self, study: optuna.Study, num_trials: int) -> int | None:
        scene, room = self._look(study, num_trials), Room(num_trials, self.policy.budget)
        if scene.waiting:
            return take(study, lambda session: waiting_row(study, session, room))
        if self.policy.is_over(scene.standing):
            return None
        index = self.policy.next(scene.standing)
        begin = partial(first_row, study) if index is None else partial(thawed_row, study, chain=scene.chains[index])
        return take(study, lambda session: begin(session, room))

    def _look(self, study: optuna.Study, num_trials: int) -> "_Scene":
        limit, budget = num_trials * self.policy.budget, self.policy.budget
        configs = configs_of(study)
        left = limit - sum(config.num_spent for config in configs)
        shares = self.failed_shares(study)
        alive = [(config, curve_of(config.last, shares)) for config in configs
                 if config.is_alive and not config.is_foreign]
        alive = [(config, curve) for config, curve in alive if curve.values or not curve.is_final]
        running = frozenset(index for index, (config, _) in enumerate(alive) if config.state is TrialState.RUNNING)
        standing = Standing([curve for _, curve in alive], running, left)
        free = standing.free(budget)
        waiting = any(config.state is TrialState.WAITING and budget - config.num_spent <= free for config in configs)
        return _Scene([config.chain for config, _ in alive], standing, waiting)


@dataclass(frozen=True)
class _Scene:
    """A study as the policy sees it: the chain of each curve, and whether something waits that can be ended.

    What waits, and what has failed for good, is none of the policy's business, beside what it has cost.
    """

    chains: list[int]
    standing: Standing
    waiting: bool
