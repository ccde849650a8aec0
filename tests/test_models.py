"""Learned optimizers that come with the package, their cards, and cards of one's own."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call

from optsearch import evaluation, load, models
from optsearch.errors import FileError
from optsearch.export import Artifact
from optsearch.optimizers import named_design
from optsearch.report import yardstick
from optsearch.report.headline import evaluate_file
from optsearch.report.measuring import Asked


def artifact_of(name: str) -> Artifact:
    design = named_design(name)
    return Artifact(design, design.init_weights(torch.Generator().manual_seed(0)),
                    {"tasks": ["digits_mlp"], "inner_steps": 96_000, "seconds": 1800.0, "horizon": 20,
                     "study_inner_steps": 500_000})


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in which one comes along."""
    folder = tmp_path / "models"
    folder.mkdir()
    artifact_of("adamw_mlp").save(folder / "steady.safetensors")
    (folder / "steady.md").write_text("# steady\n\nA small one. More about it.\n")
    monkeypatch.setattr(models, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("name", models.names())
def test_each_one_trains_and_its_card_says_so(name: str) -> None:
    param = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = load(name)([param], num_steps=50)
    for _ in range(50):
        loss = param.square().sum()
        param.grad = 2 * param.detach()
        optimizer.step(loss=loss.detach())
    # Some are made for small data, and have learned to go slowly.
    assert param.square().sum() < 9
    card = models.card(name)
    assert f'optsearch.load("{name}")' in card
    assert all(heading in card for heading in ("## How good it is", "## What it costs", "## When not to use it"))


def test_a_name_is_loaded_but_a_file_of_that_name_comes_first(shipped: Path) -> None:
    assert load("steady").design == named_design("adamw_mlp")
    artifact_of("celo2").save(Path("steady"))
    assert load("steady").design == named_design("celo2")


def test_unknown_names_are_told_what_there_is(shipped: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file best, and no .* There are: steady; your own end with"):
        load("best")
    result = call("models", "show", "best")
    assert result.returncode != 0
    assert "There are: steady" in result.stderr


def test_they_are_listed_and_shown(shipped: Path) -> None:
    assert "steady  A small one\n" in call("models").stdout
    assert json.loads(call("models", "--json").stdout) == {"steady": "A small one"}
    assert call("models", "show", "steady").stdout == "# steady\n\nA small one. More about it.\n"


def test_a_card_says_what_was_measured(tmp_path: Path) -> None:
    path, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    artifact_of("adamw_mlp").save(path)
    artifact_of("small_fc").save(other)
    asked = Asked(path=path, tasks=("digits_mlp/64",), beside=(other,), horizon=20, horizon_ratios=(0.5, 1.0),
                  num_seeds=4)
    headline = evaluate_file(asked, quiet=True)
    yardstick.write(headline, tmp_path / "report", "optsearch evaluate")
    result = call("models", "card", str(path), str(tmp_path / "report" / "evaluation.json"))
    assert result.returncode == 0, result.stderr
    text = path.with_suffix(".md").read_text()
    duel = evaluation.duel(headline.main, "learned", "other")
    assert f"| other | {duel.relative_loss} | {duel.speedup} | {duel.train_speedup} |" in text
    assert "Meta-trained for 96,000 inner steps in 30 minutes of one core, of runs of up to 20 steps, on" in text
    learned = headline.learned
    assert f"| 20 | {learned.relative_loss.value:.3f} | {learned.speedup.value:.3f} |" in text
    short, long = (result.baseline.finals for result in headline.results)
    assert f" of 4 | {float((short / long).sort().values[1:3].mean()):.3f} |" in text
    assert " of 4 | 1.000 |" in text
    assert "On 1 families, 20 steps each" in text
    assert "The search for this one took 500,000 inner steps on its small models: at a train speedup of" in text
    assert ("not to be earned back" in text) == (learned.train_speedup.value <= 1)
    assert ("more than 5 % above" in text) == (learned.relative_loss.value > 1.05)
    assert "or on models of more than 2,410 parameters." in text


def test_a_card_says_what_was_measured_on_far_larger_models(tmp_path: Path) -> None:
    path, headlines = tmp_path / "mine.safetensors", []
    artifact_of("adamw_mlp").save(path)
    for name, task in (("main", "tabular_mlp/wine"), ("large", "digits_mlp/64")):
        headlines.append(evaluate_file(Asked(path=path, tasks=(task,), horizon=20, num_seeds=2), quiet=True))
        yardstick.write(headlines[-1], tmp_path / name, "optsearch evaluate")
    result = call("models", "card", str(path), str(tmp_path / "main" / "evaluation.json"),
                  "--large", str(tmp_path / "large" / "evaluation.json"))
    assert result.returncode == 0, result.stderr
    text, (_, large) = path.with_suffix(".md").read_text(), headlines
    assert "## Far larger models" in text
    assert f"| digits_mlp/64 | 2,410 | {large.to_config()['families']['digits_mlp/64']['relative_loss']:.3f} |" in text
    assert "or on models of more than 2,410 parameters." in text


def test_a_card_says_what_was_measured_on_runs_of_other_lengths(tmp_path: Path) -> None:
    path, headlines = tmp_path / "mine.safetensors", []
    artifact_of("adamw_mlp").save(path)
    for horizon, tasks, num_seeds in ((20, ("quadratics", "tabular_mlp/wine"), 3), (40, ("tabular_mlp/wine",), 2)):
        asked = Asked(path=path, tasks=tasks, horizon=horizon, num_seeds=num_seeds)
        headlines.append(evaluate_file(asked, quiet=True))
        yardstick.write(headlines[-1], tmp_path / str(horizon), "optsearch evaluate")
    result = call("models", "card", str(path), str(tmp_path / "20" / "evaluation.json"),
                  "--length", str(tmp_path / "40" / "evaluation.json"))
    assert result.returncode == 0, result.stderr
    _, longer = path.with_suffix(".md").read_text().split("## Runs of 40 steps")
    found = evaluation.duel(headlines[1].main, "learned", evaluation.BASELINE).relative_loss.to_config()
    assert f"| AdamW, cosine | {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}) |" in longer
    rows = [line for line in longer.splitlines() if line.startswith(("| 20", "| 40"))]
    assert [row[:4] for row in rows] == ["| 20", "| 40"]
    # Of the family and the seeds that were measured at both.
    short, long = (next(result.measurements[evaluation.BASELINE].finals for result in headline.main
                        if result.family == "tabular_mlp/wine") for headline in headlines)
    assert rows[1].endswith(f"| {float((long / short[:2]).mean()):.3f} |")
    assert "Nothing here was measured on runs of more than 40 steps" in longer


def test_a_card_needs_an_evaluation(tmp_path: Path) -> None:
    artifact_of("celo2").save(tmp_path / "mine.safetensors")
    (tmp_path / "a.json").write_text("{}")
    result = call("models", "card", str(tmp_path / "mine.safetensors"), str(tmp_path / "a.json"))
    assert result.returncode != 0
    assert "is no evaluation.json" in result.stderr
