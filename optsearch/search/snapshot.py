"""What a study knows at one moment, as plain data for those who show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import exp
from typing import Any, Literal, Self

import optuna

from optsearch.optimizers import LearnedOptimizer
from optsearch.optimizers.words import in_brief, kinds
from optsearch.pictures import sparkline_svg
from optsearch.search.configs import Config, configs_of
from optsearch.search.costs import Cost
from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.pruner import Judgement
from optsearch.search.objectives import design_of, is_feasible, value_of
from optsearch.search.records import Records
from optsearch.search.recovery import FAILURE, OUTCOME, OWNER
from optsearch.search.study import FINALS, Store
from optsearch.tables import Table

LOSS = "loss / tuned AdamW's"
State = Literal["waiting", "running", "paused", "pruned", "complete", "failed"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a learning curve; `value` is log(relative loss) on the validation tasks."""

    inner_steps: int
    value: float
    meta_loss: float
    inner_steps_per_second: float
    seconds: float
    failed_share: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One design that was begun, with all its retries and continuations; `number` is that of the first.

    `value` is the end of a complete trial, or the newest point of any other. `seconds` is what training has taken
    inside its process, evaluation included. `problem` says why a trial failed or how it ended early. `host` is the
    machine of its newest process. `parts` is its design as plain data, empty until that is chosen.
    """

    number: int
    last_number: int
    state: State
    parts: Mapping[str, dict[str, Any]]
    params: Mapping[str, Any]
    value: float | None
    cost: Cost | None
    curve: tuple[Point, ...]
    forecasts: tuple[Judgement, ...]
    started: datetime | None
    ended: datetime | None
    problem: str
    is_feasible: bool
    host: str = ""

    @property
    def design(self) -> LearnedOptimizer | None:
        """Without weights; None until it is chosen."""
        return LearnedOptimizer.from_config(self.parts) if self.parts else None

    @property
    def loss_ratio(self) -> float | None:
        """Its loss over the tuned AdamW's, from `value`."""
        return None if self.value is None else exp(min(self.value, 700.0))

    @property
    def num_spent(self) -> int:
        """Inner steps."""
        return self.curve[-1].inner_steps if self.curve else 0

    @property
    def seconds(self) -> float:
        return self.curve[-1].seconds if self.curve else 0.0

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each part that tells designs apart, without those it lacks."""
        return kinds(self.parts)

    @property
    def in_brief(self) -> str:
        """The kinds of its parts, such as "mlp rule, adamw base"."""
        return in_brief(self.parts)

    @property
    def family(self) -> str:
        """What kind of learned optimizer it is: its controller and its rule, such as "gnn + mlp"."""
        kinds = self.kinds
        return " + ".join(kinds[slot] for slot in ("controller", "rule") if slot in kinds) or "schedule alone"

    def __repr__(self) -> str:
        loss = "" if self.loss_ratio is None else f", {LOSS} {self.loss_ratio:.3f}"
        return f"<Trial {self.number}: {self.state}{loss}: {self.in_brief or 'no design yet'}>"

    def _repr_html_(self) -> str:
        """For a notebook: what it is worth and costs, its parts, its curve."""
        rows = [] if self.loss_ratio is None else [(LOSS, f"{self.loss_ratio:.3f}"), ("value", f"{self.value:.4f}")]
        if self.cost is not None:
            rows += [("FLOPs a parameter and step", f"{self.cost.flops:,.0f}"),
                     ("bytes of state a parameter", f"{self.cost.state_bytes:,.1f}")]
        rows += [("inner steps", f"{self.num_spent:,}"), ("seconds", f"{self.seconds:,.1f}"), *self.kinds.items(),
                 *([("problem", self.problem)] if self.problem else [])]
        curve = sparkline_svg([point.inner_steps for point in self.curve], [point.value for point in self.curve], 0.0)
        note = "Below, log(loss / tuned AdamW's) over inner steps; dashed is AdamW." if curve else ""
        return Table(f"Trial {self.number}: {self.state}", note, ("", ""), rows)._repr_html_() + curve


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A study and its trials in the order of being started; duplicates and designs over the limits are left out.

    `finals` is what `study finalists` has found, None before.
    """

    name: str
    study_id: int
    url: str
    definition: StudyDefinition
    trials: tuple[Trial, ...]
    finals: Mapping[str, Any] | None

    @classmethod
    def of(cls, store: Store, name: str) -> Self:
        """Raises `StudyError` for a study that isn't there, or that optsearch did not make."""
        return cls.reader(store, name)()

    @classmethod
    def reader(cls, store: Store, name: str) -> Callable[[], Self]:
        """Gives a newer one at every call; trials that have ended aren't read again."""
        study, records = store.load(name), store.records
        return lambda: cls.of_study(study, records)

    @classmethod
    def of_study(cls, study: optuna.Study, records: Records) -> Self:
        """Of a study of which the trials that have ended may have been read already."""
        curves, forecasts = records.curves(study._study_id), records.forecasts(study._study_id)
        trials = [_trial(config, curves.get(config.chain, {}), forecasts.get(config.chain, {}))
                  for config in configs_of(study)]
        return cls(name=study.study_name, study_id=study._study_id, url=records.url,
                   definition=StudyDefinition.of(study), trials=tuple(trials), finals=study.user_attrs.get(FINALS))

    def in_state(self, *states: State) -> list[Trial]:
        return [trial for trial in self.trials if trial.state in states]

    @property
    def best(self) -> Trial | None:
        """The complete trial of the lowest value within the limits."""
        ended = [trial for trial in self.in_state("complete") if trial.is_feasible and trial.value is not None]
        return min(ended, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def num_spent(self) -> int:
        """Inner steps of all trials."""
        return sum(trial.num_spent for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Of all trials, one process each."""
        return sum(trial.seconds for trial in self.trials)


def _trial(config: Config, curve: Mapping[int, dict[str, Any]], forecasts: Mapping[int, dict[str, Any]]) -> Trial:
    last = config.last
    points = tuple(Point(**{name: row[name] for name in Point.__dataclass_fields__}) for row in curve.values())
    newest = points[-1].value if points else None
    value = value_of(last) if config.state.name == "COMPLETE" else newest
    return Trial(
        number=config.chain, last_number=last.number, state=_state(config), parts=design_of(last),
        params=last.params, value=value, cost=Cost.kept(last), curve=points,
        forecasts=tuple(map(Judgement.of, forecasts.values())), started=config.trials[0].datetime_start,
        ended=last.datetime_complete, problem=_problem(config), is_feasible=is_feasible(last),
        host=last.user_attrs.get(OWNER, {}).get("host", ""))


def _state(config: Config) -> State:
    if config.is_paused:
        return "paused"
    names: dict[str, State] = {"FAIL": "failed", "COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running"}
    return names.get(config.state.name, "waiting")


def _problem(config: Config) -> str:
    """The reason of a failure, or an outcome that is neither an end nor pruning."""
    attributes = config.last.user_attrs
    outcome = attributes.get(OUTCOME, "")
    return attributes.get(FAILURE, "" if outcome in ("COMPLETED", "PRUNED") else outcome.lower())
