"""Who chooses the next design, and who stops a weak one: the one place where both are made."""

from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from optsearch.meta_training import MetaTraining
from optsearch.optimizers import DESIGNS, Cosine
from optsearch.search.costs import CostBook
from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.forecaster import Forecaster
from optsearch.search.forecasting.front_pruner import BEST, FrontPruner
from optsearch.search.forecasting.history import recorded_shares
from optsearch.search.forecasting.pruner import Judgement, PredictorPruner
from optsearch.search.objectives import quality_of, rivals_of
from optsearch.search.records import Records
from optsearch.search.spaces import parse_space
from optsearch.search.storage import quietly
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import Params, TreeSpace

if TYPE_CHECKING:
    import networkx

    from optsearch.search.transfer import Source

# Named designs that a search begins with.
NUM_KNOWN = 4
# Meta-gradients of few inner trainings are mostly noise: steps of more than a small part of `sigma` lose a good start
# before they find a better one.
CAREFULLY = MetaTraining(num_tasks=16, meta_lr=2e-4, min_horizon_ratio=0.3)
NUM_UNPRUNED_TRIALS = 3
UNPRUNED_PART = 0.2


def make_sampler(definition: StudyDefinition, seed: int, pruner: BasePruner,
                 sources: Sequence["Source"] = ()) -> BaseSampler:
    """The study's sampler, which learns what `pruner` forecasts of the trials that it stopped, and from `sources`.

    "tpe" models each group of parameters which occur together (Bergstra et al. 2011; Watanabe 2023).
    """
    seed, num_startup_trials = seed % 2**32, definition.num_startup_trials
    if definition.sampler == "gp":
        from optsearch.search.gp_sampler import ConditionalGPSampler

        encoding = encoding_of(definition.space, definition.space_text)
        forecasts = pruner.ends_of_pruned if isinstance(pruner, (PredictorPruner, FrontPruner)) else None
        book, limits = cost_book(definition.space, definition.space_text), definition.limits
        return ConditionalGPSampler(encoding.tree, to_graph=encoding.to_graph, num_startup_trials=num_startup_trials,
                                    seed=seed, forecasts=forecasts, previous=sources,
                                    known=[point for point in known_points(definition.space, definition.space_text)
                                           if limits.allow(book.cost(point))][:NUM_KNOWN],
                                    is_allowed=lambda point: limits.allow(book.cost(point)),
                                    costs=(lambda point: astuple(book.cost(point))) if definition.pareto else None)
    if definition.sampler == "random":
        return RandomSampler(seed)
    with quietly():
        return TPESampler(n_startup_trials=num_startup_trials, multivariate=True, group=True, constant_liar=True,
                          seed=seed)


def make_pruner(definition: StudyDefinition, records: Records) -> BasePruner:
    """The study's pruner; "median" stops a trial whose best value is above the median of others at the same point."""
    if definition.pruner == "none":
        return NopPruner()
    quality = partial(quality_of, records=records, step_of=definition.step)
    median = MedianPruner(n_startup_trials=NUM_UNPRUNED_TRIALS, n_warmup_steps=round(UNPRUNED_PART * definition.budget))
    if definition.pruner == "median":
        return FrontPruner(median, quality) if definition.pareto else median

    def record(judgement: Judgement) -> None:
        records.put_forecast(judgement.study_id, judgement.chain, judgement.inner_steps, asdict(judgement))

    forecaster = Forecaster(encoding_of(definition.space, definition.space_text), definition.budget, definition.seed,
                            lambda study: recorded_shares(records, study._study_id, definition.step))
    pruner = PredictorPruner(forecaster, cold=median, record=record, seed=definition.seed)
    return FrontPruner(replace(pruner, rule=BEST, rivals=rivals_of), quality) if definition.pareto else pruner


@cache
def cost_book(space: str, text: str) -> CostBook:
    """What points of a space cost; one for all slots of the process."""
    return CostBook(parse_space(space, text))


@cache
def known_points(space: str, text: str) -> list[Params]:
    """Those of a space that are named designs, learned as usual, or carefully where they begin on a good schedule."""
    parsed = parse_space(space, text)
    found = (parsed.point_of(design, CAREFULLY if isinstance(design.schedule, Cosine) else MetaTraining())
             for design, _ in DESIGNS.values())
    return [point for point in found if point is not None]


@cache
def encoding_of(space: str, text: str) -> Encoding:
    """How designs of a space, and their graphs, become numbers; takes a second, once."""
    parsed = parse_space(space, text)

    def to_graph(params: Params) -> "networkx.DiGraph[str]":
        design, _ = parsed.suggest(lambda name, distribution: params[name])
        return design.graph()

    return Encoding(TreeSpace.of(parsed.suggest), to_graph)
