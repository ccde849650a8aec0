"""A pruner that stops trials which are unlikely to end among the best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite
from typing import Any, Literal, Self

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optsearch.errors import UsageError
from optsearch.search.forecasting.forecaster import Answer, Forecaster
from optsearch.search.forecasting.history import curves_of
from optsearch.search.recovery import chain_of
from optsearch.seeds import seed_for

QUANTILES = (0.05, 0.25, 0.75, 0.95)
Decision = Literal["pruned", "kept", "spared"]
Decider = Literal["predictor", "cold", "warmup"]


@dataclass(frozen=True)
class PruningRule:
    """When a trial is stopped; all are parts or probabilities from 0 to 1.

    Stopped is what ends within the `top` of the final values with a probability below `threshold`, after `warmup` of
    the budget; but never a random `keep` of all trials, whose ends show how often stopping would have been wrong.
    """

    top: float = 0.1
    threshold: float = 0.02
    warmup: float = 0.01
    keep: float = 0.05

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is a part, from 0 to 1, not {value}.")

    def bar(self, ends: Sequence[float]) -> float | None:
        """The value that is to be beaten: the worst of the top, None while nothing has ended."""
        return sorted(ends)[num_top(len(ends), self.top) - 1] if ends else None

    def spares(self, seed: int, chain: int) -> bool:
        """Whether a chain is one of those never stopped, however often it is asked."""
        return seed_for(seed, "spared", chain) < self.keep * 2**63


def num_top(count: int, top: float) -> int:
    """How many of `count` are the top, at least 1."""
    return max(1, ceil(top * count - 1e-9))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was forecast of a trial at `inner_steps`, and what was done: one row of the record.

    `quantiles` are those of `QUANTILES`. `bar` is the value that had to be beaten, `probability_top` the probability
    that it will be. A trial that is "spared" was to be stopped but is one of those never stopped. `decided_by` is
    "predictor", "cold" (the pruner for as long as the predictor is not trusted) or "warmup". Where the predictor
    failed, `problem` says how, and there is no forecast.
    """

    study_id: int
    chain: int
    inner_steps: int
    decision: Decision = "kept"
    decided_by: Decider = "warmup"
    mean: float | None = None
    deviation: float | None = None
    quantiles: tuple[float, ...] = ()
    divergence: float | None = None
    probability_top: float | None = None
    bar: float | None = None
    problem: str = ""

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """From a row of the record."""
        return cls(**content | {"quantiles": tuple(content["quantiles"])})


def record_nothing(judgement: Judgement) -> None:
    """For studies whose forecasts nobody will look at."""


def everyone(study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
    """All trials of the study, as rivals of one of them."""
    return study


@dataclass
class PredictorPruner(BasePruner):
    """Prunes by a forecast of the final value (freeze-thaw: Swersky et al. 2014, https://arxiv.org/abs/1406.3896).

    Until the predictor has earned trust, and wherever it fails, `cold` decides. Steps that are reported must be inner
    steps; a trial that has spent its budget is never pruned. Every forecast is handed to `record`. What a
    trial has to beat are the trials of `rivals(study, trial)`; while none of them has ended, it goes on. Raises
    `UsageError` in a study that maximises.
    """

    forecaster: Forecaster
    rule: PruningRule = PruningRule()
    cold: BasePruner = field(default_factory=MedianPruner)
    record: Callable[[Judgement], None] = record_nothing
    seed: int = 0
    rivals: Callable[[optuna.Study, FrozenTrial], optuna.Study] = everyone

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if study.direction is not StudyDirection.MINIMIZE:
            raise UsageError(f"PredictorPruner prunes where the value is minimised, but study `{study.study_name}` "
                             "maximises it. Report and return the value with its sign turned.")
        step = trial.last_step
        if step is None or step >= self.forecaster.budget:
            return False
        answer = self.forecaster.ask(study, [trial])
        rivals = self.rivals(study, trial)
        facts = self._facts(rivals, answer)
        decided_by = self._decider(trial, answer)
        chain = chain_of(trial)
        decision: Decision = "kept"
        if self._is_weak(rivals, trial, decided_by, facts):
            decision = "spared" if self.rule.spares(self.seed, chain) else "pruned"
        if facts:
            self.record(Judgement(study_id=study._study_id, chain=chain, inner_steps=step, decision=decision,
                                  decided_by=decided_by, **facts))
        return decision == "pruned"

    def ends_of_pruned(self, study: optuna.Study) -> Mapping[int, tuple[float, float]]:
        """See `Forecaster.ends_of_pruned`."""
        return self.forecaster.ends_of_pruned(study)

    def _facts(self, rivals: optuna.Study, answer: Answer) -> dict[str, Any]:
        """What the predictor says of the trial, nothing where it was not asked."""
        bar = self.rule.bar([curve.values[-1] for curve in curves_of(rivals) if curve.is_final])
        forecast = answer.forecast
        if forecast is None or bar is None:
            return {"problem": answer.problem} if answer.problem else {}
        return {"mean": forecast.mean.item(), "deviation": forecast.deviation.item(),
                "quantiles": tuple(forecast.quantile(each).item() for each in QUANTILES),
                "divergence": forecast.divergence.item(), "bar": bar,
                "probability_top": forecast.probability_below(bar).item()}

    def _decider(self, trial: FrozenTrial, answer: Answer) -> Decider:
        has_value = any(map(isfinite, trial.intermediate_values.values()))
        if not has_value or (trial.last_step or 0) < self.rule.warmup * self.forecaster.budget:
            return "warmup"
        return "predictor" if answer.forecast is not None and answer.is_trusted else "cold"

    def _is_weak(self, rivals: optuna.Study, trial: FrozenTrial, decided_by: Decider, facts: dict[str, Any]) -> bool:
        if decided_by == "predictor":
            return bool(facts.get("probability_top", 1.0) < self.rule.threshold)
        return decided_by == "cold" and self.cold.prune(rivals, trial)
