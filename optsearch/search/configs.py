"""The trials of a study, chain by chain: what is trained under one number, however often it was interrupted."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.duplicates import is_skipped
from optsearch.search.recovery import OWNER, PAUSED, chain_of


@dataclass(frozen=True)
class Config:
    """All trials of a chain, in their order."""

    trials: Sequence[FrozenTrial]

    @property
    def last(self) -> FrozenTrial:
        return self.trials[-1]

    @property
    def chain(self) -> int:
        return chain_of(self.last)

    @property
    def state(self) -> TrialState:
        return self.last.state

    @property
    def num_spent(self) -> int:
        """Inner steps."""
        return max((step for trial in self.trials for step in trial.intermediate_values), default=0)

    @property
    def is_foreign(self) -> bool:
        """Whether it runs, but not in a worker of ours."""
        return self.state is TrialState.RUNNING and OWNER not in self.last.user_attrs

    @property
    def is_paused(self) -> bool:
        return self.state is TrialState.PRUNED and PAUSED in self.last.user_attrs

    @property
    def is_alive(self) -> bool:
        """Whether it runs, is paused or has come to its end."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE) or self.is_paused


def configs_of(study: optuna.Study) -> list[Config]:
    """In the order of being started; what was skipped is none."""
    chains: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if not is_skipped(trial):
            chains.setdefault(chain_of(trial), []).append(trial)
    return [Config(trials) for _, trials in sorted(chains.items())]


def paused_chains(study: optuna.Study) -> set[int]:
    """The chains that may be continued but aren't at the moment."""
    return {config.chain for config in configs_of(study) if config.is_paused}


def ended_chains(study: optuna.Study) -> set[int]:
    """The chains that will never be trained again: complete, pruned for good, or failed without a retry."""
    return {config.chain for config in configs_of(study) if config.state.is_finished() and not config.is_paused}


def num_spent(study: optuna.Study) -> int:
    """Inner steps of all configs, as far as they were reported."""
    return sum(config.num_spent for config in configs_of(study))
