"""The named tasks; each name stands for families that differ in shapes, such as the batch size."""

from collections.abc import Callable, Sequence

from optsearch.errors import TaskError
from optsearch.tasks.digits import digits_cnn, digits_mlp
from optsearch.tasks.family import TaskFamily
from optsearch.tasks.quadratics import quadratics
from optsearch.tasks.tabular import tabular_mlp

TASKS: dict[str, Callable[[], tuple[TaskFamily, ...]]] = {
    "digits_cnn": digits_cnn,
    "digits_mlp": digits_mlp,
    "quadratics": quadratics,
    "tabular_mlp": tabular_mlp,
}


def families(name: str) -> tuple[TaskFamily, ...]:
    """The families of one named task; `TaskError` names the tasks that exist."""
    if name not in TASKS:
        raise TaskError(f"there is no task `{name}`. Tasks: {', '.join(sorted(TASKS))}.")
    return TASKS[name]()


def families_of(names: Sequence[str]) -> tuple[TaskFamily, ...]:
    """The families of several named tasks, in order."""
    return tuple(family for name in names for family in families(name))
