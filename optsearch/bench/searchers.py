"""Methods that search for a design, each on the same terms: it asks, and sees curves as far as it pays for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from optsearch.bench import freezing
from optsearch.bench.search_peers import PEERS
from optsearch.bench.spending import Spending
from optsearch.errors import UsageError
from optsearch.search.storage import quietly
from optsearch.seeds import seed_for

REDUCTION_FACTOR = 3
UNPRUNED_PART = 0.2


@dataclass(frozen=True)
class Method:
    """A searcher by name; `search(spending, seed)` runs it until the spending is over, the same for the same seed.

    One that `is_costly` takes seconds for a suggestion.
    """

    name: str
    description: str
    search: Callable[[Spending, int], None] = field(repr=False)
    is_costly: bool = True


def asking(make: Callable[[Spending, int], tuple[BaseSampler, BasePruner]]) -> Callable[[Spending, int], None]:
    """A search by an Optuna sampler and pruner."""
    def search(spending: Spending, seed: int) -> None:
        with quietly():
            with spending.thinking():
                sampler, pruner = make(spending, seed_for(seed, "bench search") % 2**32)
                # Hyperband draws a trial's bracket from the study's name, which would be a random one.
                study = optuna.create_study(study_name=str(seed), sampler=sampler, pruner=pruner)
            while not spending.is_over:
                run_trial(study, spending)

    return search


def run_trial(study: optuna.Study, spending: Spending) -> None:
    """One trial, until it ends or is pruned."""
    problem = spending.problem
    with spending.thinking():
        trial = study.ask()
        problem.tree.ask(trial)
    curve, before = problem.curve(trial.params), 0
    spending.failed_shares[trial.number] = dict(zip(curve.budgets, curve.failed_shares, strict=True))
    for step in [step for step in spending.reports if step < curve.budgets[-1]]:
        spending.train(before, step)
        known, before = curve.until(step), step
        with spending.thinking():
            trial.report(known.values[-1], step)
            is_pruned = trial.should_prune()
        if is_pruned:
            spending.rest(trial.number, known)
            with spending.thinking():
                study.tell(trial, state=TrialState.PRUNED)
            return
    spending.train(before, curve.budgets[-1])
    spending.rest(trial.number, curve)
    with spending.thinking():
        trial.report(curve.values[-1], curve.budgets[-1])
        study.tell(trial, curve.values[-1])


def _random(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    return RandomSampler(seed=seed), NopPruner()


def _tpe(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    return TPESampler(seed=seed), NopPruner()


def _tpe_hyperband(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    return TPESampler(seed=seed), HyperbandPruner(spending.reports[0], spending.problem.budget, REDUCTION_FACTOR)


def _gp_median(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    # Without a warm-up its trials, hundreds of them, end at the first report.
    pruner = MedianPruner(n_warmup_steps=round(UNPRUNED_PART * spending.problem.budget))
    return GPSampler(seed=seed, warn_independent_sampling=False), pruner


def _conditional_gp(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    return freezing.sampler(spending, seed, None), NopPruner()


def _predicting_gp(spending: Spending, seed: int) -> tuple[BaseSampler, BasePruner]:
    from optsearch.search.forecasting.pruner import PredictorPruner

    forecaster = freezing.forecaster(spending, seed)
    return freezing.sampler(spending, seed, forecaster), PredictorPruner(forecaster, seed=seed)


METHODS: Mapping[str, Method] = {method.name: method for method in (
    Method("random", "random search", asking(_random), is_costly=False),
    Method("tpe", "Optuna's TPE", asking(_tpe), is_costly=False),
    Method("tpe_hyperband", "Optuna's TPE, Hyperband", asking(_tpe_hyperband), is_costly=False),
    Method("gp_median", "Optuna's Gaussian process, median pruner", asking(_gp_median)),
    Method("gp", "our conditional Gaussian process, every trial to its end", asking(_conditional_gp)),
    Method("gp_predictor", "our conditional Gaussian process, predictor pruner", asking(_predicting_gp)),
    Method("freeze_thaw", "our conditional Gaussian process, trials paused and continued", freezing.freeze_thaw),
)}


def available() -> Mapping[str, Method]:
    """Our own, and those of other packages for which a Python was given."""
    peers = [Method(peer.name, peer.description, peer.search) for peer in PEERS if peer.python]
    return {**METHODS, **{method.name: method for method in peers}}


def method_named(name: str) -> Method:
    """Raises `UsageError` with the names that there are."""
    missing = {peer.name: peer.variable for peer in PEERS if not peer.python}
    if name in missing:
        raise UsageError(f"{name} is a method of another package; set {missing[name]} to the Python of an environment "
                         "that has it.")
    if name not in available():
        raise UsageError(f"there is no method {name!r}. Methods: {', '.join(available())}.")
    return available()[name]
