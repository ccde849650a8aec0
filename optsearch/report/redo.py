"""The commands that make a study again, from its definition."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import fields
from math import ceil, inf
from typing import Any

from optsearch.report.material import WEIGHTS, Material
from optsearch.search.definition import StudyDefinition
from optsearch.search.places import Places

# What the page or the space's file says; what `study create` has no option for.
UNSAID = ("space_text", "files", "weights")
ONLY_IN_FILES = ("num_points", "num_startup_trials")
# TOML has no word for none.
NO_LIMIT = "1e300"
LISTS = {"validation": "validation", "held_out": "held-out", "previous": "from"}


def commands(material: Material) -> list[str]:
    """From the first to this page; with a file for `study create` where options can't say all."""
    name, definition = shlex.quote(material.name), material.snapshot.definition
    lines = [f"optsearch study run {name} --trials {_num_trials(material)}"]
    if material.snapshot.finals is not None:
        lines.append(f"optsearch study finalists {name}")
    lines.append(f"optsearch export {name} -o {WEIGHTS}")
    if material.artifact is not None:
        lines.append(f"optsearch evaluate {WEIGHTS} --suite study --output reports/{name}")
    places = Places.of(material.snapshot.url)
    return [*create(material.name, definition, places), *lines, f"optsearch report {name}"]


def create(name: str, definition: StudyDefinition, places: Places) -> list[str]:
    """`optsearch study create`, after the file that it reads where options can't say all."""
    # Equal weights of 1 are for tasks alike, which on the command line would be none: for families alike.
    is_plain = not any(_differs(definition, each) for each in ONLY_IN_FILES)
    if is_plain and (not definition.weights or set(definition.weights) != {1.0}):
        return [shlex.join(["optsearch", "study", "create", name, *_options(definition, places)])]
    file = f"{name}.toml"
    return [f"cat > {shlex.quote(file)} <<'END'", *_toml(definition, places), "END",
            f"optsearch study create {shlex.quote(name)} --preset {shlex.quote(file)}"]


def _options(definition: StudyDefinition, places: Places) -> Iterator[str]:
    yield from ("--space", definition.space)
    for index, task in enumerate(definition.tasks):
        yield from ("--task", f"{task}={definition.weights[index]!r}" if definition.weights else task)
    for key, value in _rest(definition, places).items():
        option = LISTS.get(key, {"initial": "init"}.get(key, key)).replace("_", "-")
        if key in LISTS:
            for each in value:
                yield from (f"--{option}", each)
        elif value is True:
            yield f"--{option}"
        else:
            yield from (f"--{option}", str(inf if value is None else value))


def _toml(definition: StudyDefinition, places: Places) -> Iterator[str]:
    yield f"space = {json.dumps(definition.space)}"
    if definition.weights:
        pairs = zip(definition.tasks, definition.weights, strict=True)
        yield "tasks = { " + ", ".join(f"{json.dumps(task)} = {weight!r}" for task, weight in pairs) + " }"
    else:
        yield f"tasks = {json.dumps(list(definition.tasks))}"
    for key, value in _rest(definition, places).items():
        yield f"{key} = {json.dumps(value)}" if value is not None else f"{key} = {NO_LIMIT}  # no limit"


def _rest(definition: StudyDefinition, places: Places) -> dict[str, Any]:
    """What differs from how studies are made without being told."""
    found = {each.name: getattr(definition, each.name) for each in fields(StudyDefinition)
             if each.name not in (*UNSAID, "space", "tasks") and _differs(definition, each.name)}
    if definition.initial:
        found["initial"] = str(places.initial(definition.initial))
    return found


def _differs(definition: StudyDefinition, name: str) -> bool:
    default = next(each.default for each in fields(StudyDefinition) if each.name == name)
    return bool(getattr(definition, name) != default)


def _num_trials(material: Material) -> int:
    """With freeze-thaw, as many whole trials as took what was spent."""
    definition, counts = material.snapshot.definition, material.counts
    if definition.scheduler == "freeze-thaw":
        return max(1, ceil(material.snapshot.num_spent / definition.budget))
    return max(1, counts["complete"] + counts["pruned"])
