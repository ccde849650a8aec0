"""The command line: help that can be pasted, lists, and errors of one line."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from matplotlib.image import imread
from typer.main import get_command

import optsearch
from optsearch.cli import app
from optsearch.cli.options import slots_of
from optsearch.errors import UsageError
from optsearch.export import Artifact
from optsearch.optimizers import DESIGNS, named_design
from optsearch.search.spaces import parse_space
from optsearch.tasks import DOMAINS, TASKS, suites


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    return tmp_path


def refused(*words: str, status: int = 2, **environment: str) -> str:
    """The one line on standard error of a command that must fail."""
    result = call(*words, **environment)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(r"optsearch: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


def leaves() -> list[tuple[str, Any]]:
    """Every command that does something, by its whole name."""
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {"": command})
        found += [(f"{name} {sub}".strip(), each) for sub, each in inner.items()]
    return found


@pytest.mark.parametrize(("name", "command"), leaves())
def test_every_command_has_help_with_an_example_that_begins_with_it(name: str, command: Any) -> None:
    assert f"Example: optsearch {name}" in command.help


def test_the_readme_names_commands_and_options_that_exist() -> None:
    readme = (Path(optsearch.__file__).parent.parent / "README.md").read_text()
    shown = re.findall(r"^ {4}optsearch ([^#\n]+)", readme, re.MULTILINE)
    assert len(shown) >= 6
    known = dict(leaves())
    for line in shown:
        name = next(name for name in known if line.startswith(name))
        options = {option for param in known[name].params for option in param.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z-]+", line)) <= options


def test_the_readme_shows_a_space_that_can_be_searched() -> None:
    readme = (Path(optsearch.__file__).parent.parent / "README.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert len(list(parse_space("README.md", text).rows())) == 5


def test_the_lists_name_everything_that_is_registered() -> None:
    assert set(json.loads(call("tasks", "--json").stdout)) == set(TASKS)
    assert set(json.loads(call("designs", "--json").stdout)) == set(DESIGNS)
    assert {"all", "quickstart", "mlp", "lstm"} <= set(json.loads(call("spaces", "--json").stdout))
    lines = call("designs").stdout.splitlines()
    assert len(lines) == len(DESIGNS)
    assert any(line.startswith("small_fc") and "2409 weights" in line for line in lines)


def test_a_design_is_shown_with_its_parts_its_costs_and_a_picture(home: Path) -> None:
    result = call("designs", "show", "celo2", "--png", "pictures/celo2.png")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^rule.layer0 +mlp +hidden_size 8", result.stdout, re.MULTILINE)
    assert "347 weights" in result.stdout
    height, width, _ = imread("pictures/celo2.png").shape
    assert 900 <= width <= 1700
    assert 200 <= height <= width


def test_a_file_is_shown_as_the_design_that_it_holds(home: Path) -> None:
    design = named_design("opt2vec")
    Artifact(design, design.init_weights(torch.Generator()), {"study": "digits", "trial": 7}).save(
        Path("best.safetensors"))
    content = json.loads(call("designs", "show", "best.safetensors", "--json").stdout)
    assert content["design"] == design.to_config()
    assert content["fingerprint"] == design.fingerprint
    assert content["nodes"]["base"]["kind"] == "adamw"
    assert ["base", "step"] in content["edges"]
    assert content["costs"]["num_weights"] == 1057
    assert "trial 7 of digits" in call("designs", "show", "best.safetensors").stdout


def test_studies_are_made_listed_and_shown() -> None:
    made = call("study", "create", "digits", "--domain", "vision")
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    assert call("study", "list").stdout.startswith("digits: 0 complete")
    shown = json.loads(call("study", "show", "digits", "--json").stdout)
    roles = suites.roles("vision")
    assert shown["tasks"] == [*roles.meta_training, *roles.validation]
    assert shown["validation"] == []
    assert shown["held_out"] == list(roles.held_out)
    assert f"held out {', '.join(roles.held_out)}" in call("study", "show", "digits").stdout
    assert Path("studies/optsearch.db").exists()


def test_domains_and_tasks_have_weights_and_tasks_one_role() -> None:
    call("study", "create", "mixed", "--domain", "vision=0.4", "--domain", "nlp=0.6", "--task", "quadratics=2",
         "--sampling", "loss_balanced", "--validation", "spectra")
    shown = json.loads(call("study", "show", "mixed", "--json").stdout)
    weights = dict(zip(shown["tasks"], shown["weights"], strict=True))
    vision, nlp = suites.roles("vision"), suites.roles("nlp")
    assert sum(weights[name] for name in vision.meta_training + vision.validation) == pytest.approx(0.4)
    assert sum(weights[name] for name in nlp.meta_training + nlp.validation) == pytest.approx(0.6)
    assert (weights["quadratics"], shown["sampling"]) == (2.0, "loss_balanced")
    assert shown["validation"] == ["spectra"]
    assert "quadratics (2)" in call("study", "show", "mixed").stdout
    assert "digits_mlp/32 is both for meta-training and held out" in refused(
        "study", "create", "x", "--domain", "vision", "--held-out", "digits_mlp/32")
    assert "no number after `=`" in refused("study", "create", "x", "--domain", "vision=much")
    assert "positive weight" in refused("study", "create", "x", "--task", "quadratics=0")
    assert "no sampling 'greedy'" in refused("study", "create", "x", "--task", "quadratics", "--sampling", "greedy")


def test_tasks_are_listed_with_their_sizes() -> None:
    listed = json.loads(call("tasks", "--json").stdout)
    assert len(listed) >= 20
    assert {about["domain"] for about in listed.values()} == set(DOMAINS)
    assert listed["digits_mlp"]["families"]["digits_mlp/32"] == {
        "num_parameters": 2410, "batch_size": 32, "num_rows": 1797}
    lines = call("tasks").stdout.splitlines()
    assert len(lines) == len(listed)
    assert call("tasks", "synthetic").stdout.count("parameters") >= 10
    assert "no task `nothing`" in refused("tasks", "nothing")


def test_the_storage_option_goes_before_the_environment() -> None:
    call("study", "create", "one", "--task", "quadratics", OPTUNA_STORAGE="sqlite:///from_environment.db")
    call("study", "create", "two", "--task", "quadratics", "--storage", "sqlite:///from_option.db",
         OPTUNA_STORAGE="sqlite:///from_environment.db")
    assert "one" in call("study", "list", OPTUNA_STORAGE="sqlite:///from_environment.db").stdout
    assert "two" in call("study", "list", "--storage", "sqlite:///from_option.db").stdout
    assert not Path("studies").exists()


def test_what_does_not_exist_is_named_with_what_does() -> None:
    assert "all" in refused("study", "create", "x", "--space", "nothing", "--task", "quadratics")
    assert "digits_mlp" in refused("study", "create", "x", "--task", "nothing")
    assert "vision" in refused("study", "create", "x", "--domain", "nothing")
    assert "needs a task" in refused("study", "create", "x")
    call("study", "create", "x", "--task", "quadratics")
    assert "It has: cpu" in refused("study", "run", "x", "--device", "tpu")
    assert "--device is empty" in refused("study", "run", "x", "--device", ",")
    assert "Studies: x" in refused("study", "run", "y")
    assert "exists already" in refused("study", "create", "x", "--task", "quadratics")
    assert "no complete trial" in refused("export", "x")
    assert "opt2vec" in refused("designs", "show", "nothing")
    assert not list(Path().glob("*.safetensors"))


def test_a_broken_space_names_file_row_and_what_exists() -> None:
    Path("bad.toml").write_text('[rule]\nkind = ["mlp"]\n[rule.mlp]\nhiden_size = 4\n')
    line = refused("study", "create", "x", "--space", "bad.toml", "--task", "quadratics")
    assert "bad.toml: rule.mlp.hiden_size" in line
    assert "hidden_size" in line


def test_files_that_are_no_artifacts_are_refused() -> None:
    Path("weights.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    assert "pickle" in refused("evaluate", "weights.safetensors", "--task", "quadratics", status=1)
    assert "could not be read" in refused("evaluate", "none.safetensors", "--task", "quadratics", status=1)
    assert "pickle" in refused("designs", "show", "weights.safetensors", status=1)


@pytest.mark.parametrize(("url", "status", "words"), [
    ("nonsense", 2, "no database URL"),
    ("sqlite:///text.db", 1, "not an SQLite database"),
    ("sqlite:////proc/nowhere/x.db", 1, "could not be made"),
])
def test_databases_that_can_not_be_used_are_one_line(url: str, status: int, words: str) -> None:
    Path("text.db").write_text("this is no database, but it is long enough to be taken for a header of one\n" * 20)
    assert words in refused("study", "list", "--storage", url, status=status)


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "optsearch", "--debug", "study", "run", "x"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    assert result.returncode == 1


def test_evaluate_prints_one_object(home: Path) -> None:
    design = named_design("adamw_mlp")
    weights = design.init_weights(torch.Generator().manual_seed(0))
    Artifact(design, weights, {"horizon": 20, "num_trials": 3, "num_pruned": 1}).save(Path("best.safetensors"))
    result = call("evaluate", "best.safetensors", "--task", "quadratics", "--json", "--picture", "curves.png")
    content = json.loads(result.stdout)
    assert {"relative_loss", "speedup", "train_speedup", "num_trials", "num_pruned", "seconds",
            "artifact"} <= set(content)
    assert content["num_pruned"] == 1
    assert Path("curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not Path("studies").exists()
    again = call("evaluate", "best.safetensors", "--task", "quadratics")
    assert again.stdout.count("relative loss") == 1
    assert "There is no database" in again.stderr


def test_workers_are_handed_the_devices_in_turn() -> None:
    assert slots_of("cpu", 2) == ["cpu", "cpu"]
    assert slots_of("cuda:0,cuda:1", 1) == ["cuda:0", "cuda:1"]
    assert slots_of("cuda:0,cuda:1", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    with pytest.raises(UsageError):
        slots_of("", 1)


def test_version() -> None:
    assert call("--version").stdout.strip() == optsearch.__version__
