"""What a study is: a space, tasks, a horizon and a budget; kept in the study itself."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import optuna

from optsearch.errors import StudyError
from optsearch.search import resources
from optsearch.search.asking import Space
from optsearch.search.spaces import load_space, parse_space
from optsearch.tasks import TASKS, families_of
from optsearch.tasks.family import DOMAINS

ATTR = "optsearch"


@dataclass(frozen=True, kw_only=True)
class StudyDefinition:
    """Everything that a trial of the study depends on beside its parameters.

    `horizon` is the number of inner steps that the found optimizer is to be best at, `budget` the inner steps
    that one trial may spend, in `num_points` stretches, after each of which it may be pruned.
    """

    space: str
    space_text: str
    tasks: tuple[str, ...]
    horizon: int = 200
    budget: int = 200_000
    num_points: int = 8
    num_startup_trials: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("horizon", "budget", "num_points", "num_startup_trials"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.tasks:
            raise StudyError(f"a study needs a task. Tasks: {', '.join(sorted(TASKS))}.")
        families_of(self.tasks)

    def parsed_space(self) -> Space:
        return parse_space(self.space, self.space_text)

    def check_unchanged(self) -> None:
        """Raise `StudyError` when the space's file no longer says what it said when the study was made."""
        now = load_space(self.space)
        if now.hash != self.parsed_space().hash:
            raise StudyError(f"the space {self.space} has changed since the study was made (then "
                             f"{self.parsed_space().hash}, now {now.hash}). Create a new study for the new space, "
                             "or put the old text back.")

    def write(self, study: optuna.Study) -> None:
        study.set_user_attr(ATTR, asdict(self))

    @staticmethod
    def of(study: optuna.Study) -> "StudyDefinition":
        content = study.user_attrs.get(ATTR)
        if content is None:
            raise StudyError(f"study `{study.study_name}` was not made by optsearch. "
                             "Make one with `optsearch study create`.")
        return StudyDefinition(**content | {"tasks": tuple(content["tasks"])})


def preset(name: str) -> tuple[StudyDefinition, int]:
    """A shipped study definition (or the user's own .toml file), and how many trials it wants."""
    _, content = resources.read(resources.STUDIES, name)
    content.pop("description", None)
    num_trials = int(content.pop("num_trials", 40))
    return define(**content), num_trials


def define(*, space: str, tasks: list[str], domain: str | None = None, **rest: Any) -> StudyDefinition:
    """A definition from names; `domain` adds all tasks of a domain."""
    known = {field.name for field in fields(StudyDefinition)} - {"space_text"}
    unknown = set(rest) - known
    if unknown:
        raise StudyError(f"a study has no `{min(unknown)}`. It has: {', '.join(sorted(known))}.")
    chosen = list(tasks) + (tasks_of(domain) if domain else [])
    found = load_space(space)
    definition = StudyDefinition(space=space, space_text=found.text, tasks=tuple(dict.fromkeys(chosen)), **rest)
    if definition.horizon < found.longest_truncation:
        raise StudyError(f"horizon must be at least the longest truncation of the space {space}, "
                         f"{found.longest_truncation}, not {definition.horizon}.")
    return definition


def tasks_of(domain: str) -> list[str]:
    """The names of all tasks of a domain."""
    found = [name for name, families in TASKS.items() if families()[0].domain == domain]
    if not found:
        raise StudyError(f"there are no tasks of domain `{domain}`. Domains: {', '.join(DOMAINS)}; "
                         f"tasks: {', '.join(sorted(TASKS))}.")
    return found


