"""Finals of small studies, held by the command line on a real database, also when interrupted or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from command_line import call

from optsearch.evaluation import BASELINE, hand_made
from optsearch.evaluation.measurements import tuned
from optsearch.evaluation.runs import run
from optsearch.export import Artifact
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search import final_training, trial
from optsearch.search.definition import StudyDefinition, define
from optsearch.search.duplicates import FINGERPRINT
from optsearch.search.final_training import Crew, FinalJob, News, meta_seed, setup
from optsearch.search.finalists import Asked, hold
from optsearch.search.objective import ARTIFACT_IDS, job_of
from optsearch.search.racing import Rules
from optsearch.search.study import FINALS, Store
from optsearch.seeds import generator
from optsearch.tasks import families

SPACE = """
description = "small"
[features]
groups = ["lean", "compact"]
[rule]
kind = "mlp"
[rule.mlp]
hidden_size = { low = 4, high = 16 }
[mixing]
kind = "residual"
[base]
kind = "adamw"
[meta_training]
num_tasks = 2
meta_lr = { low = 1e-3, high = 1e-2, log = true }
"""
URL = "sqlite:///studies/optsearch.db"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    Path("small.toml").write_text(SPACE)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the trainings that finish from now on."""
    keys: list[str] = []
    train: Callable[..., Generator[News, None, None]] = Crew.train

    def counted(self: Crew, jobs: Any) -> Generator[News, None, None]:
        for news in train(self, jobs):
            if news.result:
                keys.append(news.key)
            yield news

    monkeypatch.setattr(Crew, "train", counted)
    return keys


def made(name: str, values: list[float], *, seed: int = 0, **rest: Any) -> optuna.Study:
    """A study whose trials were never run: they have designs, and values as they are told."""
    small = {"space": "small.toml", "tasks": ["quadratics"], "horizon": 20, "budget": 80, "num_points": 1}
    definition = define(**small | rest)
    study = Store.at(URL).create(name, definition)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for value in values:
        asked = drawn.ask()
        job = job_of(name, definition, asked)
        asked.set_user_attr(FINGERPRINT, f"{job.design} {job.settings}")
        study.add_trial(drawn.tell(asked, value))
    return study


def value_by_hand(study: optuna.Study, number: int, round_number: int, folder: Path) -> float:
    """One meta-training and its measurement, from the parts that a trial and a report are made of."""
    definition, (family,) = StudyDefinition.of(study), families("quadratics")
    job = job_of(study.study_name, definition, study.get_trials()[number])
    job = replace(job, seed=meta_seed(round_number), opponents=[[1.0] * 6], folder=str(folder))

    class Heard:
        def point(self, message: dict[str, Any]) -> bool:
            return True

    (weights, *_) = trial.train(job.to_config(), Heard())["files"]  # type: ignore[arg-type]
    artifact, asked = Artifact.load(Path(weights)), setup(family, 20, round_number)
    baseline = hand_made(BASELINE)
    ours = run(artifact.design, {name: leaf[None] for name, leaf in artifact.weights.items()}, asked)
    theirs = baseline.run([tuned(baseline, family, 20).learning_rate], asked)
    last = len(ours.measured) // 10
    return float((ours.measured[-last:].mean(0) / theirs.measured[-last:].mean(0)).log().mean())


def test_finals_from_the_command_line_to_an_export(home: Path, trained: list[str]) -> None:
    study = made("tiny", [0.3, 0.1, 0.2, 0.4])
    asked = ("study", "finalists", "tiny", "--top", "2", "--max-seeds", "3")
    result = call(*asked, "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert set(found) == {"winner", "statement", "is_decided", "is_within_margin", "num_seeds", "confidence",
                          "max_rounds", "margin", "candidates"}
    # The best two by their values, in the order that the new seeds have put them in.
    assert {row["trial"]: row["seen_value"] for row in found["candidates"]} == {1: 0.1, 2: 0.2}
    first = found["candidates"][0]
    assert found["winner"] == {"study": "tiny", "trial": first["trial"]}
    assert found["num_seeds"] == 3
    assert len(set(trained)) == len(trained) == 6
    for row in found["candidates"]:
        assert row["mean"]["low"] < row["mean"]["value"] < row["mean"]["high"]
        assert row["families"]["quadratics"] == pytest.approx(row["mean"]["value"], abs=1e-5)
        assert row["outcomes"] == ["COMPLETED"] * 3
        assert row["values"][1] == pytest.approx(value_by_hand(study, row["trial"], 1, home / str(row["trial"])),
                                                 abs=1e-3)
    gap = [theirs - ours for ours, theirs in zip(first["values"], found["candidates"][1]["values"], strict=True)]
    assert found["candidates"][1]["behind"]["value"] == pytest.approx(sum(gap) / 3, abs=1e-5)

    # Once more: everything is known, and said in words.
    again = call(*asked)
    assert again.returncode == 0
    assert found["statement"] in again.stdout
    assert len(trained) == 6

    exported = call("export", "tiny")
    assert exported.returncode == 0, exported.stderr
    provenance = Artifact.load(Path("best.safetensors")).provenance
    assert provenance["trial"] == first["trial"]
    assert provenance["value"] == sorted(first["values"])[1]
    assert provenance["finals"]["statement"] == found["statement"]
    # The trials here were told their values and have trained nothing; six meta-trainings are what finding it has cost.
    assert provenance["study_inner_steps"] == 6 * StudyDefinition.of(study).budget
    assert provenance["seed"] == meta_seed(first["values"].index(provenance["value"]))

    # A better trial that came later did not take part; and a trial that is named is exported as it was.
    study.add_trial(optuna.create_trial(value=0.05))
    assert "trial 4 has no weights" in call("export", "tiny").stderr
    assert "trial 1 has no weights" in call("export", "tiny", "--trial", "1").stderr


def test_what_was_trained_before_an_interruption_is_not_trained_again(home: Path, trained: list[str],
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    made("tiny", [0.1, 0.2])
    store, asked = Store.at(URL), ("study", "finalists", "tiny", "--max-seeds", "3", "--quiet")
    train = Crew.train

    def interrupted(self: Crew, jobs: Any) -> Generator[News, None, None]:
        for news in train(self, jobs):
            if len(trained) == 4 and not news.result:
                raise KeyboardInterrupt
            yield news

    monkeypatch.setattr(Crew, "train", interrupted)
    stopped = call(*asked)
    assert (stopped.returncode, len(trained)) == (130, 4)
    assert FINALS not in store.load("tiny").user_attrs
    monkeypatch.setattr(Crew, "train", train)
    assert call(*asked).returncode == 0
    assert store.load("tiny").user_attrs[FINALS]["num_seeds"] == 3
    assert len(set(trained)) == len(trained) == 6
    assert not list((store.places.root / "running").rglob("*.safetensors"))


@pytest.fixture
def true_values(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], float]:
    """Of trials of studies, to be filled in: trainings come to these values and a little noise at once."""
    truth: dict[tuple[str, int], float] = {}

    def told(self: Crew, jobs: dict[str, FinalJob]) -> Generator[News, None, None]:
        for key, each in jobs.items():
            job = each.job
            where = job.provenance["study"], job.provenance["trial"]
            noise = torch.randn(2, generator=generator(job.seed, *where)).double() * 0.02
            file = Path(job.folder) / "weights.safetensors"
            file.parent.mkdir(parents=True)
            design = LearnedOptimizer.from_config(job.design)
            Artifact(design, design.init_weights(generator(job.seed)), job.provenance).save(file)
            value = truth[where]
            yield News(key, 1.0, {"losses": [(value + noise).tolist()], "selection_value": value + 0.1,
                                  "outcome": "COMPLETED", "files": [str(file)]})

    monkeypatch.setattr(Crew, "train", told)
    return truth


def test_a_lucky_trial_loses(home: Path, true_values: dict[tuple[str, int], float]) -> None:
    made("tiny", [-0.5, -0.4, -0.3, -0.2])
    true_values |= {("tiny", 0): 0.0, ("tiny", 1): -0.4, ("tiny", 2): -0.1, ("tiny", 3): -0.3}
    found = json.loads(call("study", "finalists", "tiny", "--json").stdout)
    order = [row["trial"] for row in found["candidates"]]
    assert found["winner"]["trial"] == order[0] == 1
    assert found["is_decided"]
    assert found["statement"].startswith(f"trial 1 is best: ahead of trial {order[1]} by ")
    lucky = next(row for row in found["candidates"] if row["trial"] == 0)
    assert lucky["luck"] == pytest.approx(0.1 + 0.5)
    assert lucky["left_after"] == len(lucky["values"]) < 8
    assert lucky["behind"]["low"] > 0


def test_two_searches_are_compared_by_their_best(home: Path, true_values: dict[tuple[str, int], float]) -> None:
    made("one", [0.1, 0.2], seed=1)
    # The same design as the other's best.
    made("two", [0.15, 0.3], seed=1)
    made("three", [0.5], seed=2)
    true_values |= {("one", 0): 0.0, ("three", 0): -0.005}
    store = Store.at(URL)
    found = hold(store, Asked(("one", "two", "three"), 1, Rules(margin=0.1)), ["cpu"], quiet=True)
    assert [(each.study, each.trial) for each in found.candidates] == [("one", 0), ("three", 0)]
    assert found.statement.startswith("no difference that matters was found between trial 0 of ")
    assert found.race.num_rounds < 8
    kept = store.load("three").user_attrs[FINALS]
    assert kept["trials"] == [0]
    assert (store.places.artifacts / kept["weights"]).exists()
    assert FINALS not in store.load("two").user_attrs


def test_what_cannot_be_held_is_one_line(home: Path) -> None:
    made("tiny", [0.1])
    made("longer", [0.1], budget=160)
    for words, told in (
        (("tiny",), "needs at least 2 different complete trials, but of tiny 1"),
        (("tiny", "longer"), "tiny and longer can't be compared: budget is 80 and 160"),
        (("tiny", "tiny"), "named twice"),
        (("nothing",), "there is no study `nothing`"),
        (("tiny", "--confidence", "95"), "the confidence must be"),
        (("tiny", "--max-seeds", "2"), "at least 3 seeds"),
        (("tiny", "--device", "tpu"), "no device `tpu`"),
    ):
        result = call("study", "finalists", *words)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), words
        assert told in result.stderr


def test_seeds_are_neither_trials_nor_reports(home: Path) -> None:
    """Rounds share no inner seed with each other, and nothing else has the purpose of finals."""
    (family,) = families("quadratics")
    rounds = [setup(family, 20, number) for number in range(4)]
    assert len({seed for each in rounds for seed in each.seeds}) == 4 * final_training.NUM_INNER_SEEDS
    assert {each.purpose for each in rounds}.isdisjoint({"selection", "tuning", "report"})
    assert {each.split for each in rounds} == {"meta"}


@pytest.mark.slow
def test_killed_finals_go_on_to_the_same_end(home: Path) -> None:
    """Real trials, and a worker that dies without a word."""
    for name in ("killed", "unbroken"):
        made(name, [], budget=4000, horizon=40, num_points=8)
    store = Store.at(URL)
    assert call("study", "run", "killed", "--trials", "4", "-q").returncode == 0
    words = ["study", "finalists", "killed", "--max-seeds", "4", "--workers", "2", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "optsearch", *words], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(store.places.artifacts.glob("finals-*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in store.places.artifacts.glob("finals-*")}
    result = call(*words, "--json")
    assert result.returncode == 0, result.stderr
    after = {path.name: path.stat().st_mtime_ns for path in store.places.artifacts.glob("finals-*")}
    # The last may have been on its way into the database.
    assert sum(after[name] == moment for name, moment in kept.items()) >= len(kept) - 1
    found = json.loads(result.stdout)
    assert call("export", "killed").returncode == 0
    artifact = Artifact.load(Path("best.safetensors"))
    assert artifact.provenance["trial"] == found["winner"]["trial"]
    own = store.load("killed").get_trials()[found["winner"]["trial"]].user_attrs[ARTIFACT_IDS]
    before = Artifact.load(store.places.artifacts / own["weights.safetensors"])
    assert before.design == artifact.design
    assert any(not torch.equal(before.weights[name], artifact.weights[name]) for name in before.weights)
