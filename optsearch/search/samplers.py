"""Who chooses the next design, and who stops a weak one: the one place where both are made."""

from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler, TPESampler

from optsearch.search.definition import StudyDefinition
from optsearch.search.storage import quietly

NUM_UNPRUNED_TRIALS = 3
UNPRUNED_PART = 0.2


def make_sampler(definition: StudyDefinition, seed: int) -> BaseSampler:
    """TPE that models each group of parameters which occur together (Bergstra et al. 2011; Watanabe 2023)."""
    with quietly():
        return TPESampler(n_startup_trials=definition.num_startup_trials, multivariate=True, group=True,
                          constant_liar=True, seed=seed % 2**32)


def make_pruner(definition: StudyDefinition) -> BasePruner:
    """Stops a trial whose best value so far is above the median of earlier ones at the same point."""
    return MedianPruner(n_startup_trials=NUM_UNPRUNED_TRIALS, n_warmup_steps=round(UNPRUNED_PART * definition.budget))
