"""The sampler that models a conditional space as a whole, by a Gaussian process on designs and their graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.storage import quietly
from optsearch.search.surrogate.encoding import Encoding, ToGraph
from optsearch.search.surrogate.history import Forecasts, History, announce, history
from optsearch.search.surrogate.tree import Params, TreeSpace
from optsearch.seeds import seed_for

ATTRIBUTE = "sampler"
# Of so many random points, a trial of the start takes the one farthest from all others.
NUM_SPREAD = 10
REFIT_PART = 20


@dataclass(frozen=True)
class LastFit:
    """Hyperparameters, the space that they are of, and how many trials they were fitted on."""

    names: tuple[str, ...]
    num_trials: int
    hyperparameters: Mapping[str, torch.Tensor]


class ConditionalGPSampler(BaseSampler):
    """Bayesian optimisation on a tree of parameters, of which a trial asks some.

    Optuna's `GPSampler` models the parameters that all trials have; this one models all of `tree`, and where
    `to_graph` draws one, each point's graph. Without a tree it models what all finished trials have. Trials that were
    pruned count as `forecasts(study)` says: by number, the mean and standard deviation of the value that each would
    have ended with. Trials under way, in any process, count as if about to end.

    The first `num_startup_trials` are random, but spread. The same seed suggests the same after the same history.
    Where the model fails, TPE suggests; each trial's user attribute `sampler` says who did ("startup", "gp", "fallback:
    <reason>"). Single-objective.
    """

    def __init__(self, tree: TreeSpace | None = None, *, to_graph: ToGraph | None = None, num_startup_trials: int = 10,
                 seed: int | None = None, forecasts: Forecasts | None = None) -> None:
        self._tree = tree
        self._to_graph = to_graph
        self._num_startup_trials = num_startup_trials
        self._forecasts = forecasts
        self._seed = _random_seed() if seed is None else seed
        self._encoding: Encoding | None = None
        self._last_fit: LastFit | None = None
        with quietly():
            self._tpe = TPESampler(n_startup_trials=num_startup_trials, multivariate=True, group=True,
                                   constant_liar=True, seed=self._seed % 2**32)

    def reseed_rng(self) -> None:
        self._seed = _random_seed()
        self._tpe.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._tree is not None:
            return dict(self._tree.distributions)
        found = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: each for name, each in found.items() if not each.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        if not search_space:
            return {}
        # A study must outlive whatever fails in a model.
        try:
            how, point = self._suggest(study, trial, search_space)
        except Exception as error:
            how, point = f"fallback: {_line(error)}", self._by_tpe(study, trial, search_space)
        study._storage.set_trial_user_attr(trial._trial_id, ATTRIBUTE, how)
        announce(study, trial, point)
        return point

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._tpe.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState,
                    values: Sequence[float] | None) -> None:
        self._tpe.after_trial(study, trial, state, values)

    def _suggest(self, study: Study, trial: FrozenTrial,
                 search_space: dict[str, BaseDistribution]) -> tuple[str, Params]:
        encoding = self._encoding_of(search_space)
        known = history(study, encoding.tree, trial.number, self._forecasts)
        seed = seed_for(self._seed, "suggestion", trial.number)
        if len(known.points) < max(2, self._num_startup_trials):
            return "startup", spread_point(encoding, known, seed)
        return "gp", self._by_process(encoding, known, seed)

    def _by_process(self, encoding: Encoding, known: History, seed: int) -> Params:
        # Takes seconds to import, which who only reads a study does without.
        from optsearch.search.surrogate.acquisition import NoisyImprovement, best_point
        from optsearch.search.surrogate.process import Observations, fit, hyperparameters

        observations = Observations(encoding.encode(known.points), torch.tensor(known.values, dtype=torch.float64),
                                    torch.tensor(known.deviations, dtype=torch.float64))
        last = self._last_fit if self._last_fit and self._last_fit.names == encoding.names else None
        num_trials = len(known.points)
        is_due = last is None or num_trials - last.num_trials >= max(1, num_trials // REFIT_PART)
        process = fit(encoding, observations, last.hyperparameters if last else None, is_due)
        if is_due:
            self._last_fit = LastFit(encoding.names, num_trials, hyperparameters(process))
        score = NoisyImprovement(process, encoding.encode(known.pending), seed)
        return best_point(score, encoding, known.best_first, known.tried, seed)

    def _by_tpe(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        found = self._tpe.sample_relative(study, trial, self._tpe.infer_relative_search_space(study, trial))
        found = {name: value for name, value in found.items() if name in search_space}
        return self._tree.complete(found, partial(self._tpe.sample_independent, study, trial)) if self._tree else found

    def _encoding_of(self, search_space: dict[str, BaseDistribution]) -> Encoding:
        """The one of last time where the space is the same: it keeps graphs."""
        if self._encoding is None or dict(self._encoding.tree.distributions) != search_space:
            tree = self._tree or TreeSpace.flat(search_space)
            self._encoding = Encoding(tree, self._to_graph if self._tree else None)
        return self._encoding


def spread_point(encoding: Encoding, known: History, seed: int) -> Params:
    """A random point, far from those tried."""
    points = encoding.tree.sample(seed, NUM_SPREAD)
    if not known.tried:
        return points[0]
    plain = Encoding(encoding.tree)
    rows, others = (plain.embedded(plain.encode(each)) for each in (points, known.tried))
    return points[int(torch.cdist(rows, others).amin(1).argmax())]


def _random_seed() -> int:
    return int(numpy.random.default_rng().integers(2**63 - 1))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
