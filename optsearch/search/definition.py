"""What a study is: a space, tasks, a horizon and a budget; kept in the study itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from math import inf
from typing import Any, Literal, get_args

import optuna

from optsearch.errors import StudyError
from optsearch.meta_training import part_of_budget
from optsearch.search import resources
from optsearch.search.asking import Space
from optsearch.search.costs import METRICS, Limits
from optsearch.search.spaces import load_space, parse_space
from optsearch.tasks import TASKS, Sampling, TaskDistribution, TaskFamily, families, families_of, own_files, suites

ATTR = "optsearch"
Sampler = Literal["gp", "tpe", "random"]
Pruner = Literal["predictor", "median", "none"]
Scheduler = Literal["full", "freeze-thaw"]
CHOICES = {"sampling": Sampling, "sampler": Sampler, "pruner": Pruner, "scheduler": Scheduler}
# What studies had before they could choose.
OLD = {"sampler": "tpe", "pruner": "median", "max_flops": None, "max_state_bytes": None}
# Of random points of the space `all`, a few per cent cost more than either, up to 9000 and 210.
MAX_FLOPS, MAX_STATE_BYTES = 6000.0, 128.0
NUM_EARLY = 2
# Lists of tasks, and what their families are to a trial.
ROLES = {"tasks": "meta-training", "validation": "validation", "held_out": "held out"}


@dataclass(frozen=True, kw_only=True)
class StudyDefinition:
    """Everything that a trial of the study depends on beside its parameters.

    `horizon` is the number of inner steps that the found optimizer is to be best at, `budget` the inner steps that one
    trial may spend, in `num_points` stretches, after each of which it may be pruned or paused. It begins with the
    weights of the artifact `initial`, as far as they fit its design, or with random ones where that is empty. It learns
    on `tasks`, with `weights` (none: all families alike), and its value is measured on `validation`, or on other rows
    and seeds of the same tasks where there is none; `held_out` is for reports alone. `sampler` chooses designs, after
    `num_startup_trials` random ones, and `pruner` stops weak trials, unless the `scheduler` is "freeze-thaw", which
    pauses and continues them. `files` are hashes of the files that own tasks come from. `previous` are studies of the
    same database that the sampler learns from. The study ends by itself when the improvement that a trial's full budget
    is expected to bring falls below `stop_gain`, in units of the value; 0 is never.
    No design is trained that costs more than `max_flops` FLOPs or `max_state_bytes` bytes of state a step, for each
    parameter; None is no limit. `pareto` is a search for the front of value and both costs.
    """

    space: str
    space_text: str
    tasks: tuple[str, ...]
    weights: tuple[float, ...] = ()
    validation: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    sampling: Sampling = "uniform"
    files: dict[str, str] = field(default_factory=dict)
    horizon: int = 200
    budget: int = 200_000
    num_points: int = 8
    num_startup_trials: int = 8
    sampler: Sampler = "gp"
    pruner: Pruner = "predictor"
    scheduler: Scheduler = "full"
    seed: int = 0
    previous: tuple[str, ...] = ()
    initial: str = ""
    stop_gain: float = 0.0
    max_flops: float | None = MAX_FLOPS
    max_state_bytes: float | None = MAX_STATE_BYTES
    pareto: bool = False

    def __post_init__(self) -> None:
        for name in ("horizon", "budget", "num_points", "num_startup_trials"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.tasks:
            raise StudyError(f"a study needs a task. Tasks: {', '.join(sorted(TASKS))}; your own: ./my_tasks.py:NAME.")
        for name in ("max_flops", "max_state_bytes"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < inf:
                raise StudyError(f"{name} must be a positive number, or none for no limit, not {limit}.")
        if self.pareto and (self.scheduler == "freeze-thaw" or self.stop_gain):
            raise StudyError("a study for a front goes with the scheduler full and without stop_gain, which both look "
                             f"for one best value, not with {self.scheduler} and {self.stop_gain:g}.")
        for name, choices in CHOICES.items():
            if (choice := getattr(self, name)) not in get_args(choices):
                raise StudyError(f"there is no {name} {choice!r}. There are: {', '.join(get_args(choices))}.")
        if not 0 <= self.stop_gain < inf:
            raise StudyError(f"stop_gain must be at least 0, which is never, not {self.stop_gain}.")
        for option, is_used in (("--from", self.previous), ("--stop-gain", self.stop_gain)):
            if is_used and self.sampler != "gp":
                raise StudyError(f"{option} needs the sampler gp, not {self.sampler}. Leave one of them out.")

    def check_tasks(self) -> None:
        """Raise `TaskError` for tasks that don't exist, and `StudyError` for families with two roles."""
        self.distribution()
        names = {role: {family.name for family in families_of(getattr(self, role))} for role in ROLES}
        for one, other in combinations(ROLES, 2):
            if shared := names[one] & names[other]:
                raise StudyError(f"{min(shared)} is both for {ROLES[one]} and {ROLES[other]}; results would look "
                                 "better than they are. Give it one role.")

    @property
    def selected_on(self) -> tuple[TaskFamily, ...]:
        """The families that give a trial its value."""
        return families_of(self.validation or self.tasks)

    @property
    def families(self) -> dict[str, list[str]]:
        """The names of the families of each role."""
        return {role: [family.name for family in families_of(getattr(self, role))] for role in ROLES}

    def distribution(self) -> TaskDistribution:
        """What a trial learns on; raises `TaskError` where weights and tasks don't fit."""
        return distribution(self.tasks, self.weights, self.sampling)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What a trial's values are, all to be minimised."""
        return METRICS if self.pareto else METRICS[:1]

    @property
    def limits(self) -> Limits:
        return Limits(self.max_flops, self.max_state_bytes)

    def step(self, point: int) -> int:
        """The inner steps that point number `point` of a learning curve stands for."""
        return round(self.budget * part_of_budget(point, self.num_points, self.num_early))

    @property
    def num_early(self) -> int:
        """Points before the first stretch has come to its end: what pauses trials can look at many for little."""
        return NUM_EARLY if self.scheduler == "freeze-thaw" else 0

    def parsed_space(self) -> Space:
        return parse_space(self.space, self.space_text)

    def check_unchanged(self) -> None:
        """Raise `StudyError` when a file no longer says what it said when the study was made: space or tasks."""
        now = load_space(self.space)
        if now.hash != self.parsed_space().hash:
            raise StudyError(f"the space {self.space} has changed since the study was made (then "
                             f"{self.parsed_space().hash}, now {now.hash}). Create a new study for the new space, "
                             "or put the old text back.")
        for name, known in self.files.items():
            if own_files.content_hash(name) != known:
                raise StudyError(f"the file of the task {name} has changed since the study was made. Create a new "
                                 "study for the new task, or put the old text back.")

    def write(self, study: optuna.Study) -> None:
        study.set_user_attr(ATTR, asdict(self))

    @staticmethod
    def of(study: optuna.Study) -> "StudyDefinition":
        content = study.user_attrs.get(ATTR)
        if content is None:
            raise StudyError(f"study `{study.study_name}` was not made by optsearch. "
                             "Make one with `optsearch study create`.")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in (OLD | content).items()}
        return StudyDefinition(**values)


def distribution(tasks: Sequence[str], weights: Sequence[float], sampling: Sampling) -> TaskDistribution:
    """Families of named tasks; a task's weight is shared by its families, without weights all are alike."""
    if not weights:
        return TaskDistribution.of(families_of(tasks), sampling)
    if len(weights) != len(tasks):
        raise StudyError(f"{len(tasks)} tasks have {len(weights)} weights; expected one each, or none.")
    return TaskDistribution.by_group({families(name): weight for name, weight in zip(tasks, weights, strict=True)},
                                     sampling)


def preset(name: str) -> tuple[StudyDefinition, int]:
    """A shipped study definition (or the user's own .toml file), and how many trials it wants."""
    _, content = resources.read(resources.STUDIES, name)
    content.pop("description", None)
    num_trials = int(content.pop("num_trials", 40))
    return define(**content), num_trials


def define(*, space: str, tasks: Sequence[str] | Mapping[str, float] = (), domains: Mapping[str, float] | None = None,
           validation: Sequence[str] = (), held_out: Sequence[str] = (), **rest: Any) -> StudyDefinition:
    """A definition from names.

    `tasks` may have weights. Each of `domains` brings all its standard tasks, some of them held out, and a weight that
    the others share: all of these are learned on and chosen by, since a single task to choose by misleads.
    """
    known = {field.name for field in fields(StudyDefinition)} - {"space_text", "weights", "files"}
    if unknown := set(rest) - known:
        raise StudyError(f"a study has no `{min(unknown)}`. It has: {', '.join(sorted(known | {'domains'}))}.")
    weighted = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, 1.0)
    validation, held_out = list(validation), list(held_out)
    for domain, weight in (domains or {}).items():
        roles = suites.roles(domain)
        learned = roles.meta_training + roles.validation
        weighted |= {task: weight / len(learned) for task in learned}
        held_out += roles.held_out
    is_weighted = bool(domains) or isinstance(tasks, Mapping)
    rest["previous"] = tuple(dict.fromkeys(rest.get("previous", ())))
    chosen = {own_files.resolved(name): weight for name, weight in weighted.items()}
    others = [tuple(dict.fromkeys(map(own_files.resolved, names))) for names in (validation, held_out)]
    found = load_space(space)
    definition = StudyDefinition(
        space=space, space_text=found.text, tasks=tuple(chosen), weights=tuple(chosen.values()) if is_weighted else (),
        validation=others[0], held_out=others[1],
        files={name: own_files.content_hash(name) for name in (*chosen, *others[0], *others[1])
               if own_files.is_reference(name)}, **rest)
    definition.check_tasks()
    if definition.horizon < found.longest_truncation:
        raise StudyError(f"horizon must be at least the longest truncation of the space {space}, "
                         f"{found.longest_truncation}, not {definition.horizon}.")
    return definition
