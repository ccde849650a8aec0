"""The sampler that models a conditional space as a whole, by a Gaussian process on designs and their graphs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.objectives import OneObjective, has_front
from optsearch.search.storage import quietly
from optsearch.search.surrogate.encoding import Encoding, ToGraph
from optsearch.search.surrogate.fits import Fits, observed
from optsearch.search.surrogate.history import Forecasts, History, announce, announced, history
from optsearch.search.surrogate.tree import Params, TreeSpace
from optsearch.search.transfer import Inheritance, Source
from optsearch.seeds import seed_for

ATTRIBUTE, GAIN = "sampler", "expected_gain"
TRANSFER, KNOWN = "transfer", "known"
# Where half of the trials are stopped after at most this part of a whole one, that is a look, and a fit of the model
# gives as many points as can be looked at for `LIST_SHARE` of a whole trial.
SHORT_LOOK, LIST_SHARE, MAX_LIST = 0.1, 0.25, 24
# One in so many is at a random point: from few trials in a space of many dimensions, the model would follow the first
# good point in small steps.
RANDOM_SHARE = 3
# Of so many random points, a trial of the start takes the one farthest from all others.
NUM_SPREAD = 10


class ConditionalGPSampler(BaseSampler):
    """Bayesian optimisation on a tree of parameters, of which a trial asks some.

    Optuna's `GPSampler` models the parameters that all trials have; this one models all of `tree`, and where
    `to_graph` draws one, each point's graph. Without a tree it models what all finished trials have. Trials that were
    pruned count as `forecasts(study)` says: by number, the mean and standard deviation of the value that each would
    have ended with. Trials under way, in any process, count as if about to end.

    The first `num_startup_trials` are random, but spread, and later every third one is random. Points that are `known`
    to be good come before them, and count among them. Where there are `previous` studies, a few of their best points
    come first, then fewer random ones, and the model learns from theirs too, as far as they turn out to be alike. Where
    most trials are stopped at a first look, one fit gives a list of suggestions. The same seed suggests the same after
    the same history, but for such a list, which a new process begins anew. Where the model fails, TPE suggests; each
    trial's user attribute `sampler` says who did ("transfer", "known", "startup", "gp", "random", "fallback:
    <reason>"), and for the first of each fit, `expected_gain` is by how much the model expected the best value to
    improve.

    No point is suggested that `is_allowed` forbids, unless all candidates that it checks are forbidden. With several
    objectives it suggests what pushes their front forward; `costs` are those but the first, where they are known from
    a point. They are compared on a logarithmic scale.
    """

    def __init__(self, tree: TreeSpace | None = None, *, to_graph: ToGraph | None = None, num_startup_trials: int = 10,
                 seed: int | None = None, forecasts: Forecasts | None = None,
                 previous: Sequence[Source] = (), known: Sequence[Params] = (),
                 is_allowed: Callable[[Params], bool] | None = None,
                 costs: Callable[[Params], Sequence[float]] | None = None) -> None:
        self._tree = tree
        self._to_graph = to_graph
        self._num_startup_trials = num_startup_trials
        self._forecasts = forecasts
        self._previous = [source for source in previous if source.points]
        self._known = known
        self._seed = _random_seed() if seed is None else seed
        self._encoding: Encoding | None = None
        self._inheritance: Inheritance | None = None
        self._is_allowed = is_allowed
        self._costs = costs
        self._fits = Fits()
        self._list: list[Params] = []
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
        if not search_space:
            return {}
        # A study must outlive whatever fails in a model.
        try:
            how, point, gain = self._suggest(study, trial, search_space)
        except Exception as error:
            how, point, gain = f"fallback: {_line(error)}", self._by_tpe(study, trial, search_space), None
        study._storage.set_trial_user_attr(trial._trial_id, ATTRIBUTE, how)
        if gain is not None:
            study._storage.set_trial_user_attr(trial._trial_id, GAIN, gain)
        announce(study, trial, point)
        return point

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._tpe.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState,
                    values: Sequence[float] | None) -> None:
        self._tpe.after_trial(study, trial, state, values)

    def _suggest(self, study: Study, trial: FrozenTrial,
                 search_space: dict[str, BaseDistribution]) -> tuple[str, Params, float | None]:
        encoding = self._encoding_of(search_space)
        objectives = self._objectives(study, encoding, trial.number)
        known = objectives[0]
        seed = seed_for(self._seed, "suggestion", trial.number)
        inheritance = self._inheritance_of(encoding)
        if (point := inheritance.next_point(_suggested(study, TRANSFER))) is not None:
            return TRANSFER, point, None
        if (point := next(_not_among(_suggested(study, KNOWN), self._known), None)) is not None:
            return KNOWN, point, None
        if len(known.points) < max(2, inheritance.num_startup_trials(self._num_startup_trials)):
            return "startup", self._first_allowed(spread_points(encoding, known, seed)), None
        if len(known.tried) % RANDOM_SHARE == 0:
            return "random", self._first_allowed(encoding.tree.sample(seed % 2**32, NUM_SPREAD)), None
        if (point := self._listed(known)) is not None:
            return "gp", point, None
        return "gp", *self._by_process(encoding, objectives, seed)

    def _listed(self, known: History) -> Params | None:
        """The next on the list that nobody has tried."""
        while self._list:
            if (point := self._list.pop(0)) not in known.tried:
                return point
        return None

    def _objectives(self, study: Study, encoding: Encoding, number: int) -> list[History]:
        """What is known of the first objective, and of the others too where they have to be modelled."""
        if not has_front(study):
            return [history(study, encoding.tree, number, self._forecasts)]
        # What was stopped has no values of the others, unless they are counted.
        forecasts = self._forecasts if self._costs else None
        count = 1 if self._costs else len(study.directions)
        return [history(OneObjective(study, index), encoding.tree, number, forecasts) for index in range(count)]

    def _by_process(self, encoding: Encoding, objectives: Sequence[History], seed: int) -> tuple[Params, float | None]:
        """A point, and where there is one objective, by how much it is expected to improve on the best value."""
        # Takes seconds to import, which who only reads a study does without.
        from optsearch.search.surrogate.acquisition import Choice, NoisyImprovement, best_points, low_points
        from optsearch.search.surrogate.front_search import FrontSearch
        from optsearch.search.surrogate.process import Observations, Warp

        known, before = objectives[0], self._inheritance_of(encoding)
        own = observed(encoding, known)
        both = Observations(torch.cat([before.rows, own.rows]),
                            torch.cat([torch.tensor(before.values, dtype=torch.float64), own.values]),
                            torch.cat([torch.tensor(before.deviations, dtype=torch.float64), own.deviations]))
        process = self._fits.process(encoding, both, len(own.values))
        if len(objectives) > 1 or self._costs is not None:
            search = FrontSearch(encoding, self._fits, self._costs, self._is_allowed)
            return search.points(process, objectives, seed)[0], None
        score = NoisyImprovement(process, encoding.encode(known.pending), seed)
        choice, count = Choice(known.best_first, known.tried, self._is_allowed), _list_size(known)
        if count > 1:
            point, *self._list = low_points(score.draws.posterior, encoding, choice, count, seed)
        else:
            point = best_points(score, encoding, choice, seed)[0]
        return point, Warp.of(own.values).gain(float(score(encoding.encode([point])).detach().exp()))

    def _first_allowed(self, points: Sequence[Params]) -> Params:
        """The first one where none of those checked is allowed."""
        if self._is_allowed is None:
            return points[0]
        return next(filter(self._is_allowed, points), points[0])

    def _by_tpe(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        found = self._tpe.sample_relative(study, trial, self._tpe.infer_relative_search_space(study, trial))
        found = {name: value for name, value in found.items() if name in search_space}
        return self._tree.complete(found, partial(self._tpe.sample_independent, study, trial)) if self._tree else found

    def _encoding_of(self, search_space: dict[str, BaseDistribution]) -> Encoding:
        """The one of last time where the space is the same: it keeps graphs."""
        if self._encoding is None or dict(self._encoding.tree.distributions) != search_space:
            tree = self._tree or TreeSpace.flat(search_space)
            self._encoding = Encoding(tree, self._to_graph if self._tree else None, len(self._previous))
            self._list = []
        return self._encoding

    def _inheritance_of(self, encoding: Encoding) -> Inheritance:
        """The one of last time where the encoding is the same: it keeps rows."""
        if self._inheritance is None or self._inheritance.encoding is not encoding:
            self._inheritance = Inheritance(encoding, self._previous)
        return self._inheritance


def spread_points(encoding: Encoding, known: History, seed: int) -> list[Params]:
    """Random points, the one farthest from those tried first."""
    points = encoding.tree.sample(seed, NUM_SPREAD)
    if not known.tried:
        return points
    plain = Encoding(encoding.tree)
    rows, others = (plain.embedded(plain.encode(each)) for each in (points, known.tried))
    return [points[index] for index in torch.cdist(rows, others).amin(1).argsort(descending=True, stable=True)]


def _list_size(known: History) -> int:
    return min(MAX_LIST, int(LIST_SHARE / known.share)) if known.share <= SHORT_LOOK else 1


def _suggested(study: Study, how: str) -> list[Params]:
    """What was suggested in a way, also to trials that failed."""
    return [announced(trial) for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(ATTRIBUTE) == how]


def _not_among(those: Sequence[Params], points: Iterable[Params]) -> Iterator[Params]:
    return (point for point in points if point not in those)


def _random_seed() -> int:
    return int(numpy.random.default_rng().integers(2**63 - 1))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
