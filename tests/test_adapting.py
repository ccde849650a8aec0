"""A learned optimizer that goes on learning, by the command line and in studies."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call

from optsearch.errors import DesignError, FileError
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import MLP, Features, LearnedOptimizer
from optsearch.search.adapting import Adapting, adapt
from optsearch.search.processes import Run
from optsearch.search.study import Store
from optsearch.search.trial import Job
from optsearch.tasks import families

SETTINGS = {"horizon": 40, "num_tasks": 2, "meta_lr": 3e-3}
SPACE = """
description = "small"
[features]
groups = ["lean", "compact"]
[rule]
kind = "mlp"
[rule.mlp]
hidden_size = { low = 4, high = 12 }
[mixing]
kind = "residual"
[base]
kind = "adamw"
[meta_training]
num_tasks = 2
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    design = LearnedOptimizer(features=Features(groups=("compact",)), rule=MLP(hidden_size=4))
    stream = torch.Generator().manual_seed(0)
    weights = {name: leaf + 0.1 * torch.randn(leaf.shape, generator=stream)
               for name, leaf in design.init_weights(stream).items()}
    provenance = {"study": "old", "trial": 3, "tasks": ["digits_mlp"], "meta_training": SETTINGS,
                  "families": {"tasks": ["spectra/uniform"], "validation": []}}
    Artifact(design, weights, provenance).save(Path("old.safetensors"))
    return tmp_path


def weights_of(path: str) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in Artifact.load(Path(path)).weights.values()])


def test_a_meta_training_begins_with_the_weights_it_is_given() -> None:
    design = LearnedOptimizer(rule=MLP(hidden_size=4))
    initial = {name: torch.randn(leaf.shape) for name, leaf in design.init_weights(torch.Generator()).items()}
    settings = MetaTraining(horizon=20, num_tasks=1, meta_lr=1e-9)
    plan = Plan(design, families("quadratics"), settings, 40, 1, 0, initial=initial)
    (point,) = meta_train(plan)
    for name, leaf in point.weights.items():
        torch.testing.assert_close(leaf, initial[name], atol=1e-7, rtol=0)
    with pytest.raises(DesignError, match="not of this design"):
        next(iter(meta_train(replace(plan, optimizer=LearnedOptimizer(rule=MLP(hidden_size=5))))))


def test_adapt_lowers_the_loss_and_says_where_it_comes_from(home: Path) -> None:
    ran = call("adapt", "old.safetensors", "--task", "quadratics", "--budget", "8k", "-o", "mine.safetensors", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["after"] < found["before"]
    assert found["inner_steps"] == 8000
    source = Artifact.load(Path("mine.safetensors")).provenance
    assert source["initial"] == {"study": "old", "trial": 3, "tasks": ["digits_mlp"],
                                 "families": {"tasks": ["spectra/uniform"], "validation": []},
                                 "inherited": "all weights taken over"}
    shown = call("designs", "show", "mine.safetensors")
    assert "adapted to quadratics from trial 3 of old" in shown.stdout
    assert source["tasks"] == ["quadratics"]
    assert source["meta_training"]["horizon"] == SETTINGS["horizon"]
    assert not list(Path("studies").rglob("checkpoints"))
    # What was adapted can be adapted again, if not always for the better.
    again = call("adapt", "mine.safetensors", "--task", "quadratics", "--budget", "800", "--horizon", "20")
    assert again.returncode == 0, again.stderr
    after, before = (float(value) for value in again.stdout.split("values ")[1].split(")")[0].split(" and "))
    assert ("no better than before" in again.stdout) == (after >= before)
    assert Artifact.load(Path("mine.safetensors")).provenance["initial"]["initial"] == source["initial"]


def test_an_interrupted_adaptation_goes_on_to_the_same_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Adapting(path=Path("old.safetensors"), tasks=("quadratics",), budget=1600, changes={})
    store = Store.at("sqlite:///adapting.db")
    whole = adapt(store, asked, Path("whole.safetensors"), quiet=True)

    class Interrupted(Exception):
        pass

    seen: list[int] = []

    def three(run: Run) -> Iterator[dict[str, Any]]:
        for message in messages(run):
            seen.append(message["point"])
            yield message
            if len(seen) == 3:
                raise Interrupted

    messages = Run.__iter__
    with monkeypatch.context() as patch:
        patch.setattr(Run, "__iter__", three)
        with suppress(Interrupted):
            adapt(store, asked, Path("resumed.safetensors"), quiet=True)
    assert seen == [1, 2, 3]
    # Neither does it begin anew where the file can't be written.
    Path("taken").mkdir()
    with pytest.raises(FileError, match="taken"):
        adapt(store, asked, Path("taken"), quiet=True)
    assert list(store.places.root.rglob("checkpoints/*.safetensors"))
    resumed = adapt(store, asked, Path("resumed.safetensors"), quiet=True)
    assert resumed.after == whole.after
    for name, leaf in whole.artifact.weights.items():
        assert torch.equal(leaf, resumed.artifact.weights[name])


@pytest.mark.parametrize(("words", "said"), [
    (["old.safetensors"], "Name a task"),
    (["old.safetensors", "--task", "quadratics", "--budget", "many"], "Expected something like 50k"),
    (["old.safetensors", "--task", "nothing"], "nothing"),
    (["old.safetensors", "--task", "quadratics", "--few-shot", "proto"], "reptile"),
    (["old.safetensors", "--task", "quadratics", "--horizon", "5"], "horizon"),
    (["old.safetensors", "--task", "quadratics", "--device", "tpu"], "no device"),
])
def test_what_cannot_be_adapted_is_said_in_one_line(home: Path, words: list[str], said: str) -> None:
    ran = call("adapt", *words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not Path("mine.safetensors").exists()


def test_a_start_for_later_adaptations_says_how_it_was_learned(home: Path) -> None:
    ran = call("adapt", "old.safetensors", "--task", "quadratics", "--budget", "1600", "--few-shot", "reptile",
               "-o", "start.safetensors")
    assert ran.returncode == 0, ran.stderr
    source = Artifact.load(Path("start.safetensors")).provenance
    assert source["few_shot"] == {"method": "reptile", "num_steps": 5, "learning_rate": 0.01}
    ran = call("adapt", "start.safetensors", "--task", "quadratics", "--budget", "800", "-o", "mine.safetensors")
    assert ran.returncode == 0, ran.stderr
    assert "few_shot" not in Artifact.load(Path("mine.safetensors")).provenance


@pytest.mark.parametrize("text", ["50000", "50_000", "50k", "0.05M"])
def test_budgets_may_be_short(text: str) -> None:
    from optsearch.cli.adapt import count

    assert count(text) == 50_000


def test_trials_of_a_study_begin_with_the_artifact_as_far_as_it_fits(home: Path) -> None:
    Path("small.toml").write_text(SPACE)
    made = call("study", "create", "new", "--space", "small.toml", "--task", "quadratics", "--horizon", "40",
                "--budget", "800", "--sampler", "random", "--pruner", "none", "--init", "old.safetensors")
    assert made.returncode == 0, made.stderr
    # The study has its own copy.
    Path("old.safetensors").unlink()
    ran = call("study", "run", "new", "--trials", "2", "--quiet")
    assert ran.returncode == 0, ran.stderr
    store = Store.at()
    first, second = store.load("new").get_trials()
    # The artifact's own design comes first, and all of it fits.
    assert first.params == {"features.groups": "compact", "rule.mlp.hidden_size": 4}
    assert second.params != first.params
    for trial in (first, second):
        found = Artifact.load(store.places.artifacts / trial.user_attrs["artifacts"]["weights.safetensors"])
        source = found.provenance["initial"]
        assert source["trial"] == 3
        assert "of the weights taken over" in source["inherited"] or source["inherited"] == "all weights taken over"


def test_a_study_is_not_made_from_a_file_that_is_no_artifact(home: Path) -> None:
    Path("small.toml").write_text(SPACE)
    made = call("study", "create", "new", "--space", "small.toml", "--task", "quadratics", "--init", "small.toml")
    assert made.returncode == 1
    assert "safetensors" in made.stderr
    assert not Path("studies/optsearch.db").exists() or not sqlite3.connect("studies/optsearch.db").execute(
        "select * from studies").fetchall()


def test_a_job_is_another_one_exactly_when_it_begins_with_other_weights(home: Path) -> None:
    plain = Adapting(path=Path("old.safetensors"), tasks=("quadratics",), budget=800, changes={}).job(
        Artifact.load(Path("old.safetensors")))
    one, moved, other = (replace(plain, initial=name) for name in ("a/1.safetensors", "b/1.safetensors",
                                                                  "a/2.safetensors"))
    assert one.fingerprint == moved.fingerprint
    assert len({job.fingerprint for job in (plain, one, other)}) == 3
    assert Job.from_config(plain.to_config()) == plain
