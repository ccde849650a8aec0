"""Whole studies, run as a user runs them: in processes of their own, on a real database, also when killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import pytest
import torch

import optsearch
from optsearch.export import Artifact
from optsearch.search.records import Records
from optsearch.search.study import Store

SPACE = """
description = "small"
[features]
groups = ["lean", "compact"]
[rule]
kind = ["mlp", "lstm"]
[rule.mlp]
hidden_size = { low = 4, high = 8 }
[rule.lstm]
hidden_size = 4
[mixing]
kind = ["residual", "gated", "none"]
[base]
kind = ["adamw", "sgdm"]
[meta_training]
num_tasks = 2
meta_lr = { low = 1e-3, high = 1e-2, log = true }
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    Path("small.toml").write_text(SPACE)
    return tmp_path


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "optsearch", *words], capture_output=True, text=True, check=False)


def made(name: str, *, budget: int, storage: str) -> None:
    result = command_line.call("study", "create", name, "--space", "small.toml", "--task", "quadratics", "--horizon",
                               "40", "--budget", str(budget), "--storage", storage)
    assert result.returncode == 0, result.stderr


def test_a_study_from_create_to_a_torch_loop(home: Path) -> None:
    made("tiny", budget=1600, storage="sqlite:///studies/optsearch.db")
    ran = call("study", "run", "tiny", "--trials", "4", "--workers", "2", "--json")
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert counts["complete"] + counts["pruned"] == 4
    assert counts["running"] == counts["waiting"] == counts["fail"] == 0
    store = Store.at()
    study = store.load("tiny")
    for trial in study.get_trials():
        inner = {"inner_curves.csv", "inner_curves.png"} if trial.user_attrs["outcome"] == "COMPLETED" else set()
        assert set(trial.user_attrs["artifacts"]) == {"weights.safetensors", "curve.csv"} | inner
        for identifier in trial.user_attrs["artifacts"].values():
            assert (store.places.artifacts / identifier).stat().st_size > 0
        steps = list(Records(store.url).curve(study._study_id, trial.number))
        assert steps == sorted(steps)
        assert len(steps) == len(trial.intermediate_values)
    assert not list(store.places.study_folder(study._study_id).rglob("*.safetensors"))

    assert call("export", "tiny", "-o", "best.safetensors").returncode == 0
    module = optsearch.load("best.safetensors")
    assert module.provenance["study"] == "tiny"
    assert module.provenance["num_trials"] == 4
    assert 1600 <= module.provenance["study_inner_steps"] <= 4 * 1600
    model = torch.nn.Linear(3, 1)
    optimizer = module(model.parameters(), num_steps=30)
    first = last = 0.0
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    for step in range(30):
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first

    evaluated = call("evaluate", "best.safetensors", "--task", "quadratics", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    content = json.loads(evaluated.stdout)
    for quantity in ("relative_loss", "speedup", "train_speedup"):
        assert content[quantity]["low"] <= content[quantity]["value"] <= content[quantity]["high"]
    assert content["num_trials"] == 4
    assert content["artifact"] == "best.safetensors"

    assert call("study", "delete", "tiny", "--yes").returncode == 0
    assert store.names() == []
    assert not list(store.places.artifacts.iterdir())


def _weights(store: Store) -> Artifact:
    (trial,) = [trial for trial in store.load("one").get_trials() if trial.state.is_finished()
                and trial.state.name != "FAIL"]
    return Artifact.load(store.places.artifacts / trial.user_attrs["artifacts"]["weights.safetensors"])


def _children(pid: int) -> list[int]:
    """The processes that train, below a running command."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.parametrize("victim", ["the whole worker",
                                    pytest.param("the process that trains", marks=pytest.mark.slow)])
def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_weights(home: Path, victim: str) -> None:
    """It dies without a word; the same command finishes the trial as if nothing had been."""
    unbroken, killed = Store.at("sqlite:///unbroken.db"), Store.at("sqlite:///killed.db")
    for store in (unbroken, killed):
        made("one", budget=8000, storage=store.url)
    assert call("study", "run", "one", "--trials", "1", "--storage", unbroken.url).returncode == 0

    process = subprocess.Popen([sys.executable, "-m", "optsearch", "study", "run", "one", "--trials", "1",
                                "--storage", killed.url, "--quiet"], start_new_session=True)
    records, study_id = Records(killed.url), killed.load("one")._study_id
    deadline = time.monotonic() + 90
    while len(records.curve(study_id, 0)) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if victim == "the whole worker":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else:
        (child,) = _children(process.pid)
        os.kill(child, signal.SIGKILL)
    before = records.curve(study_id, 0)
    assert len(before) < 8
    if victim != "the whole worker":
        assert process.wait(timeout=90) == 0

    result = call("study", "run", "one", "--trials", "1", "--storage", killed.url, "--json")
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert (counts["complete"], counts["fail"], counts["running"], counts["waiting"]) == (1, 1, 0, 0)
    after = records.curve(study_id, 0)
    assert {step: after[step] for step in before} == before
    expected = Records(unbroken.url).curve(unbroken.load("one")._study_id, 0)
    assert list(after) == list(expected)
    same = ("inner_steps", "meta_loss", "value")
    assert [[row[key] for key in same] for row in after.values()] == [
        [row[key] for key in same] for row in expected.values()]
    finished = next(trial for trial in killed.load("one").get_trials() if trial.state.name == "COMPLETE")
    assert len(finished.intermediate_values) == 8
    ours, theirs = _weights(killed), _weights(unbroken)
    assert ours.design == theirs.design
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_ctrl_c_leaves_trials_to_be_resumed(home: Path) -> None:
    made("tiny", budget=8000, storage="sqlite:///studies/optsearch.db")
    store = Store.at()
    with subprocess.Popen([sys.executable, "-m", "optsearch", "study", "run", "tiny", "-q"],
                          stderr=subprocess.PIPE, text=True) as process:
        try:
            while not Records(store.url).curves(1):
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert error == "optsearch: interrupted; run the same command again to go on.\n"
    assert [trial.state.name for trial in store.load("tiny").get_trials()] == ["FAIL", "WAITING"]


def test_a_stopped_study_starts_no_more_trials(home: Path) -> None:
    made("tiny", budget=1600, storage="sqlite:///studies/optsearch.db")
    process = subprocess.Popen([sys.executable, "-m", "optsearch", "study", "run", "tiny", "--trials", "500", "-q"])
    store = Store.at()
    try:
        while not store.load("tiny").get_trials(deepcopy=False):
            assert process.poll() is None
            time.sleep(0.1)
        assert call("study", "stop", "tiny").returncode == 0
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert len(store.load("tiny").get_trials()) < 500


def test_a_space_that_has_changed_is_refused(home: Path) -> None:
    made("tiny", budget=1600, storage="sqlite:///studies/optsearch.db")
    Path("small.toml").write_text(SPACE + "sigma = 0.02\n")
    result = call("study", "run", "tiny", "--trials", "1")
    assert result.returncode == 2
    assert "small.toml has changed" in result.stderr
    assert result.stderr.count("\n") == 1
