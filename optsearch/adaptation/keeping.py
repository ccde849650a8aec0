"""Learning on new tasks without forgetting old ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from optsearch import trees
from optsearch.adaptation.consolidation import ConsolidatedEstimator, importance
from optsearch.adaptation.inheritance import inherit
from optsearch.adaptation.progressive import FrozenEstimator, free_entries, grown
from optsearch.errors import UsageError
from optsearch.export.artifact import history
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.plan import Plan
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.tasks import TaskDistribution, TaskFamily

MethodName = Literal["ewc", "replay", "progressive"]
# The part of the budget that elastic weight consolidation spends to learn what mattered to old tasks.
MEASURING = 0.1


@dataclass(frozen=True)
class Keeping:
    """How what was learned on old tasks is kept.

    "ewc" pulls weights back the more they mattered, with `strength` as in `ConsolidatedEstimator`; "replay" gives the
    part `share` of all turns to old tasks; "progressive" adds `num_units` units to each layer of the rule, and lets
    nothing else learn, as `free_entries` says.
    """

    method: MethodName = "ewc"
    strength: float = 0.5
    share: float = 0.5
    num_units: int = 16

    def __post_init__(self) -> None:
        names = get_args(MethodName)
        if self.method not in names:
            raise UsageError(f"there is no way to keep what was learned named {self.method!r}. Ways: "
                             f"{', '.join(names)}.")
        if not (self.strength > 0 and 0 < self.share < 1 and self.num_units > 0):
            raise UsageError("keeping what was learned needs a strength above 0, a share between 0 and 1 and at least "
                             f"1 unit, not {self.strength}, {self.share} and {self.num_units}.")

    def design_from(self, old: LearnedOptimizer) -> LearnedOptimizer:
        """The design that goes on learning; raises `DesignError` where `old` has nothing to grow."""
        return grown(old, self.num_units) if self.method == "progressive" else old

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


def kept(plan: Plan, keeping: Keeping, old: Sequence[TaskFamily]) -> Plan:
    """`plan`, which begins with weights that were learned on the families `old`, changed so that these are not lost.

    Its budget is what is left of it after "ewc" has measured. Families that are learned on anyway count as new.
    """
    if keeping.method == "ewc":
        return _consolidated(plan, keeping.strength, old)
    if keeping.method == "replay":
        return replace(plan, families=replayed(plan.distribution, old, keeping.share))
    design = keeping.design_from(plan.optimizer)
    fresh = replace(plan, optimizer=design, initial=None).first_weights()
    estimator = FrozenEstimator(plan.chosen_estimator, free_entries(plan.optimizer, design))
    # Decay would move frozen weights, too.
    settings = replace(plan.settings, meta_weight_decay=0.0)
    return replace(plan, optimizer=design, estimator=estimator, settings=settings,
                   initial=inherit(plan.first_weights(), plan.optimizer, design, fresh).weights)


def replayed(new: TaskDistribution, old: Sequence[TaskFamily], share: float) -> TaskDistribution:
    """`new` with the part `share` of its turns given to the families `old`, all alike."""
    names = {family.name for family in new.families}
    others = tuple({family.name: family for family in old if family.name not in names}.values())
    if not others:
        return new
    total = sum(new.weights)
    weights = (*((1 - share) * weight / total for weight in new.weights), *(share / len(others) for _ in others))
    return TaskDistribution((*new.families, *others), weights, new.sampling)


def tasks_behind(provenance: Mapping[str, Any]) -> list[str]:
    """Names of all tasks that an artifact was learned on, and those it began with before it; the latest first."""
    return list(dict.fromkeys(name for source in history(provenance) for name in source.get("tasks", [])))


def _consolidated(plan: Plan, strength: float, old: Sequence[TaskFamily]) -> Plan:
    measuring = replace(plan, families=old, budget=round(MEASURING * plan.budget), estimator=ESTIMATORS["backprop"])
    estimator = ConsolidatedEstimator(plan.chosen_estimator, trees.ravel(plan.first_weights()), importance(measuring),
                                      strength)
    spent = measuring.num_meta_steps * measuring.steps_per_meta_step
    return replace(plan, estimator=estimator, budget=plan.budget - spent)
