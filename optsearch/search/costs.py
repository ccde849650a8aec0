"""What a step of a design costs, known before it is trained, and the limits of a study."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial

from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.asking import META_TRAINING, Space
from optsearch.search.duplicates import OVER_LIMIT, Skipped

# The objectives of a study that looks for a front: a trial's value, then what its design costs.
METRICS = ("log relative loss", "FLOPs per parameter", "bytes per parameter")
FLOPS, STATE_BYTES = "flops_per_parameter", "state_bytes_per_parameter"
# Points over a limit that a worker meets one after another before it takes the limits for a mistake.
MAX_OVER_LIMIT_IN_A_ROW = 50


class OverLimit(Skipped):
    """The trial's design costs more than its study allows."""

    def __init__(self, reason: str):
        super().__init__(reason, OVER_LIMIT, reason)


@dataclass(frozen=True)
class Cost:
    """Of one step, for each parameter that is trained: FLOPs of matrix products, and bytes of state in float32."""

    flops: float
    state_bytes: float

    @classmethod
    def of(cls, design: LearnedOptimizer) -> Self:
        """Counted for one layer of 128 x 128 weights; takes about 50 ms."""
        costs = design.costs()
        return cls(costs.flops_per_parameter, costs.state_bytes_per_parameter)

    @classmethod
    def kept(cls, trial: optuna.Trial | FrozenTrial) -> Self | None:
        """That of a trial which has kept it."""
        attributes = trial.user_attrs
        return cls(attributes[FLOPS], attributes[STATE_BYTES]) if FLOPS in attributes else None

    def keep(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(FLOPS, self.flops)
        trial.set_user_attr(STATE_BYTES, self.state_bytes)

    def is_within(self, other: "Cost") -> bool:
        """Whether it is no more in both respects."""
        return self.flops <= other.flops and self.state_bytes <= other.state_bytes

    def __str__(self) -> str:
        return f"{self.flops:.0f} FLOPs and {self.state_bytes:.0f} bytes per parameter"


@dataclass(frozen=True)
class Limits:
    """The most that a step may cost for each parameter; None where there is no limit."""

    flops: float | None = None
    state_bytes: float | None = None

    def excess(self, cost: Cost) -> dict[str, float]:
        """For every limit, by which part the cost is over it; at most 0 where it is kept."""
        pairs = {FLOPS: (cost.flops, self.flops), STATE_BYTES: (cost.state_bytes, self.state_bytes)}
        return {name: spent / limit - 1 for name, (spent, limit) in pairs.items() if limit is not None}

    def allow(self, cost: Cost) -> bool:
        return all(excess <= 0 for excess in self.excess(cost).values())

    def check(self, trial: optuna.Trial, cost: Cost) -> None:
        """Keep cost and constraints with the trial; raises `OverLimit`."""
        if Cost.kept(trial) is None:
            cost.keep(trial)
        for name, excess in self.excess(cost).items():
            if name not in trial.constraints:
                trial.set_constraint(name, excess)
        if not self.allow(cost):
            raise OverLimit(f"{cost}, but the study allows {self}")

    def __str__(self) -> str:
        limits = {"FLOPs": self.flops, "bytes": self.state_bytes}
        return " and ".join(f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None) or "all"


@dataclass
class CostBook:
    """What points of a space cost, counted once each."""

    space: Space
    _known: dict[tuple[tuple[str, Any], ...], Cost] = field(default_factory=dict, repr=False)

    def cost(self, params: dict[str, Any]) -> Cost:
        key = _key(params)
        if key not in self._known:
            design, _ = self.space.suggest(lambda name, _: params[name])
            self._known[key] = Cost.of(design)
        return self._known[key]

    def learn(self, trials: Iterable[FrozenTrial]) -> None:
        """Take over what trials have kept."""
        self._known |= {_key(trial.params): cost for trial in trials if (cost := Cost.kept(trial)) is not None}


def _key(params: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """How a design is trained doesn't change what it costs."""
    return tuple(sorted(item for item in params.items() if item[0].partition(".")[0] != META_TRAINING))
