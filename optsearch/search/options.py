"""What `definition.define` takes, and what is underneath, by name: for who calls it from Python."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import optuna

from optsearch.search.definition import Pruner, Sampler, Scheduler
from optsearch.tasks import Sampling

Names = str | Sequence[str]
OptunaStudy = optuna.Study


class Options(TypedDict, total=False):
    """What a study may be made from, as in `StudyDefinition`; `domains` bring their standard tasks."""

    space: str
    tasks: Names | Mapping[str, float]
    domains: Names | Mapping[str, float]
    validation: Names
    held_out: Names
    sampling: Sampling
    sampler: Sampler
    pruner: Pruner
    scheduler: Scheduler
    previous: Names
    initial: str
    stop_gain: float
    pareto: bool
    max_flops: float | None
    max_state_bytes: float | None
    horizon: int
    budget: int
    num_points: int
    num_startup_trials: int
    seed: int
