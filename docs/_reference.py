"""The pages of the reference that are written anew with each build: from the command line, from `__all__`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

import optsearch
from optsearch.cli import app

PYTHON = {
    "optsearch": optsearch.__all__,
    "optsearch.export": ["OptimizerModule", "LearnedTorchOptimizer", "EmbeddingLog", "Artifact"],
    "optsearch.tasks": ["from_module", "TaskFamily", "Data", "split_rows"],
    "optsearch.tasks.modules": ["module_family"],
    "optsearch.optimizers": ["LearnedOptimizer", "named_design"],
    "optsearch.evaluation": ["LearningCurveTracker", "CurveAnalysis"],
    "optsearch.search": ["ConditionalGPSampler", "PredictorPruner", "PerformancePredictor"],
}
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w)?)")
# Whose methods are of use to a caller; of others the class is enough.
WITH_METHODS = {"OptimizerModule", "OnlineOptimizer", "Study", "TaskFamily", "EmbeddingLog", "LearningCurveTracker"}


def write(folder: Path) -> None:
    """Write `commands.md` and `python.md`."""
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text("\n".join(commands()), encoding="utf-8")
    (folder / "python.md").write_text("\n".join(python()), encoding="utf-8")


def commands() -> Iterator[str]:
    """Every command with its arguments and options, as the command line has them."""
    yield ("# Commands\n\nEach takes `--help`; `optsearch --debug COMMAND` shows tracebacks. Exit status 2 is a "
           "misuse, 1 a failure.\n")
    yield from _group(get_command(app), "optsearch")


def _group(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        here = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _group(command, here)
        else:
            yield from _command(command, here)


def _command(command: Any, path: str) -> Iterator[str]:
    context = typer.Context(command, info_name=path)
    text, _, example = (command.help or "").partition("Example:")
    usage = " ".join([path, *map(str.upper, command.collect_usage_pieces(context))]).translate({123: None, 125: None})
    yield f"## {path}\n\n{text.strip()}\n\n```text\n{usage}\n```\n"
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        yield "| | |\n| --- | --- |"
        yield from rows
    if example:
        yield f"\nExample: `{' '.join(example.split())}`\n"


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts]) if is_option else (
        f"`{parameter.metavar or parameter.name.upper()}`")
    default = parameter.default
    is_plain = isinstance(default, (int, float, str, Path)) and not isinstance(default, bool)
    shown = f" By default `{default}`." if is_plain and is_option else ""
    about = (parameter.help or "").replace("|", "\\|")
    return f"| {names} | {about}{shown} |"


def python() -> Iterator[str]:
    """What a program may import, from the docstrings."""
    yield "# Python\n\nWhat a program may import. Everything else is inside the house and may change.\n"
    for module, names in PYTHON.items():
        yield f"## {module}\n\n```{{eval-rst}}\n.. currentmodule:: {module}\n"
        for name in names:
            if name != "__version__":
                yield from _entry(module, name)
        yield "```\n"


def _entry(module: str, name: str) -> Iterator[str]:
    found = getattr(__import__(module, fromlist=[name]), name)
    is_class = isinstance(found, type)
    yield f".. auto{'class' if is_class else 'function'}:: {name}"
    if name in WITH_METHODS:
        yield "   :members:"
    yield ""


def marked_up(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are for people: Sphinx would take what is indented for quotations, and backticks for references."""
    found: list[str] = []
    for line in lines:
        is_indented = line.startswith("    ")
        if is_indented and found and not found[-1].strip() and not _in_block(found):
            found += ["::", ""]
        found.append(line if is_indented else CODE.sub(_literal, line))
    lines[:] = found


def _literal(found: "re.Match[str]") -> str:
    return f"``{found[1]}``" + ("\\ " if found[2] else "")


def _in_block(lines: list[str]) -> bool:
    last = next((line for line in reversed(lines) if line.strip()), "")
    return last.startswith("    ") or last == "::" or last.rstrip().endswith("::")
