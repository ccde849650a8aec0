"""A pruner that stops trials which are unlikely to enter the front of quality and costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from optsearch.search.forecasting.pruner import PredictorPruner, PruningRule
from optsearch.search.objectives import OneObjective, rivals_of

# The best final value is to be beaten, not one of the best.
BEST = PruningRule(top=0.0)


@dataclass
class FrontPruner(BasePruner):
    """Prunes a study of quality and costs by quality, among the trials that cost no more in any respect.

    A trial enters the front where its final value is better than all of theirs. `pruner` decides on the study as
    `quality` shows it.
    """

    pruner: BasePruner
    quality: Callable[[optuna.Study], optuna.Study]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        view = self.quality(study)
        assert isinstance(view, OneObjective)
        seen = view.seen(trial)
        # A predictor learns from all trials, and finds the rivals by itself.
        among = view if isinstance(self.pruner, PredictorPruner) else rivals_of(view, seen)
        return self.pruner.prune(among, seen)

    def ends_of_pruned(self, study: optuna.Study) -> Mapping[int, tuple[float, float]]:
        """See `Forecaster.ends_of_pruned`; nothing without a predictor."""
        if not isinstance(self.pruner, PredictorPruner):
            return {}
        return self.pruner.ends_of_pruned(self.quality(study))
