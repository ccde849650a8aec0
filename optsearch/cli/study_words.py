"""Studies in words, for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optsearch.search.definition import StudyDefinition


def roles_in_words(definition: "StudyDefinition") -> str:
    """The tasks of every role, with their weights."""
    learned_on = [name if not definition.weights else f"{name} ({definition.weights[index]:.3g})"
                  for index, name in enumerate(definition.tasks)]
    words = {"tasks": learned_on, "validation": definition.validation, "held out": definition.held_out}
    return "; ".join(f"{role} {', '.join(names)}" for role, names in words.items() if names)


def in_words(counts: dict[str, Any]) -> str:
    """A line about a study, from its `summary`."""
    num_skipped = counts["duplicate"] + counts["over_limit"]
    best = "no value yet" if counts["best_value"] is None else f"best value {counts['best_value']:.4f}"
    best += f" of a front of {len(counts['front'])}" if counts.get("front") else ""
    return (f"{counts['name']}: {counts['complete']} complete, {counts['pruned']} pruned, {_paused(counts)}"
            f"{counts['fail']} failed, {num_skipped} skipped, {counts['running']} running, "
            f"{counts['waiting']} waiting; {best}")


def _paused(counts: dict[str, Any]) -> str:
    return f"{counts['paused']} paused, " if counts["paused"] else ""


def value_in_words(values: Sequence[float] | None) -> str:
    """The first objective's."""
    return f"{values[0]:.4f}" if values else ""
