"""The pages under `docs/`: their code runs, their commands exist, the tutorial goes through, the site builds."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from pages import DOCS, run_page, write_best
from typer.main import get_command

from optsearch.cli import app

# Pages that need what is installed for few; each has a test file of its own.
ELSEWHERE = {"how-to/lightning.md", "how-to/transformers.md", "how-to/notebook.md"}
PAGES = sorted(str(path.relative_to(DOCS)) for folder in (".", "how-to", "explanation", "reference")
               for path in (DOCS / folder).glob("*.md") if path.name not in ("commands.md", "python.md"))
WITH_PYTHON = [page for page in PAGES if page not in {*ELSEWHERE, "tutorial.md"}
               and "```python\n" in (DOCS / page).read_text()]
FILE = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The tutorial's budget, and one that only shows that its commands go through.
SMALLER = {"--horizon 100 --budget 24000": "--horizon 20 --budget 640", "--trials 6 --workers 2": "--trials 1",
           "report spirals": "report spirals --no-evaluate",
           "evaluate best.safetensors": "evaluate best.safetensors --seeds 2"}


def shell_lines(page: str) -> list[list[str]]:
    """The command lines of a page that are ours, as words without `optsearch`."""
    text = "\n".join(SHELL.findall((DOCS / page).read_text())).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("optsearch ")]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the rest of them."""
    command, rest = get_command(app), list(words)
    while hasattr(command, "commands") and (rest or not command.invoke_without_command):
        assert rest, f"`{' '.join(words)}` names a group of commands, not one"
        assert rest[0] in command.commands, f"there is no command `{rest[0]}` in `{' '.join(words)}`"
        command = command.commands[rest.pop(0)]
    return command, rest


def write_files(page: str, folder: Path) -> None:
    """Those blocks of a page that begin with the name of a file."""
    for content, name in FILE.findall((DOCS / page).read_text()):
        (folder / name).write_text(content)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, whose Python files can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_tasks", None)


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_code_of_a_page_runs(page: str, place: Path) -> None:
    from optsearch.optimizers import HEADS

    write_files(page, place)
    before = dict(HEADS)
    try:
        run_page(page, place)
    finally:
        HEADS.clear()
        HEADS.update(before)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist(page: str) -> None:
    for words in shell_lines(page):
        command, rest = command_of(words)
        command.make_context(words[0], rest)
    for found in re.findall(r"(?<!`)`optsearch ([^`]+)`", (DOCS / page).read_text()):
        words = [word for word in shlex.split(found) if word not in ("...", "COMMAND", "--debug")]
        if words:
            command, rest = command_of(words)
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in rest if word.startswith("-")} <= known, found


def walk(place: Path, changes: dict[str, str]) -> dict[str, str]:
    """All commands of the tutorial in their order, but for the dashboard; what each printed."""
    write_files("tutorial.md", place)
    printed = {}
    for words in shell_lines("tutorial.md"):
        line = " ".join(words)
        for old, new in changes.items():
            line = line.replace(old, new)
        if line != "dashboard":
            result = call(*shlex.split(line), OPTUNA_STORAGE="")
            assert result.returncode == 0, f"{line}: {result.stderr}"
            printed[line.split()[0] if words[0] != "study" else " ".join(words[:2])] = result.stdout
    return printed


def test_the_tutorial_goes_through(place: Path) -> None:
    printed = walk(place, SMALLER)
    assert "1 complete" in printed["study run"]
    assert (place / "best.safetensors").exists()
    assert (place / "reports" / "spirals" / "index.html").exists()
    assert "relative loss" in printed["evaluate"]


@pytest.mark.slow
def test_the_tutorial_finds_what_it_says(place: Path) -> None:
    printed = walk(place, {})
    complete, pruned, failed = map(int, re.findall(r"(\d+) (?:complete|pruned|failed)", printed["study run"])[-3:])
    assert (complete + pruned, failed) == (6, 0)
    run = subprocess.run([sys.executable, "train.py"], cwd=place, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in run.stdout.splitlines()] == ["AdamW,", "AdamW,", "AdamW,", "learned"]


def test_the_comparison_of_the_tutorial_compares(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_best(place)
    write_files("tutorial.md", place)
    run_page("tutorial.md", place)
    losses = {name.strip(): float(loss) for name, loss in
              re.findall(r"^(.{13}) ([\d.]+) ±", capsys.readouterr().out, re.MULTILINE)}
    assert len(losses) == 4
    assert losses["AdamW, 0.01"] < losses["AdamW, 0.001"]


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
                    reason="the site is built with the extra docs: pip install -e '.[docs]'")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    built = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "doctrees",
                            DOCS, tmp_path / "site"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text()
    assert all(f"optsearch {name}" in commands for name in ("study create", "bench search", "report", "adapt"))
    python = (tmp_path / "site" / "reference" / "python.html").read_text()
    assert all(f'id="optsearch.{name}"' in python for name in ("load", "OnlineOptimizer", "tasks.from_module"))
