"""A function of a conditional space whose private parameters work together with the shared ones."""

from functools import cache
from typing import Any

import numpy
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.search.rows import Suggest, trial_suggest
from optsearch.search.surrogate.tree import TreeSpace

KINDS = ("mlp", "lstm", "transformer", "gnn")
MODES = ("a", "b", "c")
NOISE = 0.01
RATE = FloatDistribution(1e-4, 1e-1, log=True)
SIZE = IntDistribution(4, 64, log=True)
# By kind: what it costs at its best, and where that is, of the shared parameters and of its own, from 0 to 1.
AT_BEST = {"mlp": 0.2, "lstm": 0.1, "transformer": 0.0, "gnn": 0.15}
SHARED = {"mlp": (0.2, 0.8, 0.5), "lstm": (0.7, 0.3, 0.2), "transformer": (0.85, 0.25, 0.8), "gnn": (0.4, 0.6, 0.1)}
OWN = {"mlp": (0.5, 0.2, 0.9), "lstm": (0.1, 0.6, 0.4), "transformer": (0.3, 0.75, 0.6), "gnn": (0.8, 0.5, 0.2)}
MODE = {"mlp": "a", "lstm": "b", "transformer": "c", "gnn": "a"}


def walk(suggest: Suggest) -> float:
    """The value of a point, 0 at the best: four kinds with three parameters each, and four that all of them share.

    The best of what is shared depends on the kind, and that of what is not on what is shared.
    """
    kind = suggest("kind", CategoricalDistribution(KINDS))
    rate = suggest("rate", RATE)
    shared = numpy.array([numpy.log(rate / RATE.low) / numpy.log(RATE.high / RATE.low),
                          suggest("momentum", FloatDistribution(0.0, 1.0)),
                          suggest("decay", FloatDistribution(0.0, 1.0))]) - SHARED[kind]
    mode = suggest("mode", CategoricalDistribution(MODES))
    size = suggest(f"{kind}.size", SIZE)
    own = numpy.array([numpy.log(size / SIZE.low) / numpy.log(SIZE.high / SIZE.low),
                       suggest(f"{kind}.width", FloatDistribution(0.0, 1.0)),
                       suggest(f"{kind}.depth", FloatDistribution(0.0, 1.0))]) - OWN[kind]
    return float(AT_BEST[kind] + shared @ shared + own @ own + 1.6 * shared @ own + 0.15 * (mode != MODE[kind]))


def objective(trial: optuna.Trial) -> float:
    """The value as it is measured, with noise that depends on the trial's number only."""
    return walk(trial_suggest(trial)) + NOISE * float(numpy.random.default_rng(trial.number).standard_normal())


@cache
def tree() -> TreeSpace:
    return TreeSpace.of(walk)


def true_value(params: dict[str, Any]) -> float:
    """Without the noise."""
    return walk(lambda name, _: params[name])
