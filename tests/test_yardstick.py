"""The yardstick held against the truth: optimizers of which one knows how good they are."""

import json
from dataclasses import replace
from math import cos, log, pi
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from optsearch import evaluation
from optsearch.cli import app
from optsearch.errors import UsageError
from optsearch.evaluation import measurements
from optsearch.export import Artifact
from optsearch.optimizers import AdamW, LearnedOptimizer, NoRule, Progress, Residual
from optsearch.report import yardstick
from optsearch.report.headline import evaluate_file, in_words
from optsearch.report.measuring import Asked, tasks_for
from optsearch.search.processes import ENVIRONMENT
from optsearch.search.records import Records
from optsearch.tasks import families

TASK, HORIZON, WARMUP = "digits_mlp/64", 100, 0.05
FAMILY = families(TASK)[0]
COSINE = Progress(initial_lr=1.0, num_knots=HORIZON + 1)
DESIGN = LearnedOptimizer(rule=NoRule(), mixing=Residual(), base=AdamW(), schedule=COSINE)


def factor(step: int) -> float:
    progress = step / HORIZON
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    return (1 + cos(pi * (progress - WARMUP) / (1 - WARMUP))) / 2


def adamw(learning_rate: float) -> Artifact:
    """AdamW under warm-up and cosine as an exported optimizer: the learned schedule says just that at every step."""
    logs = torch.tensor([log(max(factor(step), 1e-12)) for step in range(HORIZON + 1)], dtype=torch.float64)
    weights = {"schedule.level": torch.tensor([log(learning_rate) / COSINE.gain]),
               "schedule.knots": (logs / COSINE.gain).float()}
    assert weights.keys() == DESIGN.init_weights(torch.Generator()).keys()
    return Artifact(DESIGN, weights, {"horizon": HORIZON, "tasks": ["digits_mlp"]})


@pytest.fixture(scope="module")
def tuned_rate() -> float:
    return measurements.tuned(evaluation.hand_made("adamw_cosine"), FAMILY, HORIZON).learning_rate


def standing(artifact: Artifact, folder: Path, **asked: object) -> evaluation.Standing:
    path = folder / "known.safetensors"
    artifact.save(path)
    return evaluate_file(Asked(path=path, tasks=(TASK,), url=f"sqlite:///{folder}/a.db", **asked), quiet=True).learned


def test_adamw_at_the_tuned_rate_ties_with_itself(tuned_rate: float, tmp_path: Path) -> None:
    found = standing(adamw(tuned_rate), tmp_path)
    for interval in (found.relative_loss, found.speedup, found.train_speedup):
        assert interval.low <= 1.0 <= interval.high
        assert interval.value == pytest.approx(1.0, abs=0.005)
    assert found.num_failed == 0


def test_adamw_at_a_tenth_of_the_tuned_rate_is_slower(tuned_rate: float, tmp_path: Path) -> None:
    found = standing(adamw(tuned_rate / 10), tmp_path)
    assert found.speedup.high < 1
    assert found.train_speedup.high < 1
    assert found.relative_loss.low > 1


def test_tuning_brings_a_tenth_of_the_rate_back_to_a_tie(tuned_rate: float, tmp_path: Path) -> None:
    path = tmp_path / "slow.safetensors"
    adamw(tuned_rate / 10).save(path)
    asked = Asked(path=path, tasks=(TASK,), tunes_learning_rate=True, num_seeds=4)
    result, = evaluate_file(asked, quiet=True).results
    assert result.measurements["learned_tuned"].tuned.learning_rate == pytest.approx(10.0)
    torch.testing.assert_close(result.relative_losses("learned_tuned"), torch.ones(4), rtol=0.01, atol=0)


def test_what_is_not_a_number_counts_as_the_cap_and_as_failed(tmp_path: Path) -> None:
    broken = adamw(0.01)
    broken = replace(broken, weights={name: leaf * torch.nan for name, leaf in broken.weights.items()})
    found = standing(broken, tmp_path)
    assert (found.num_failed, found.num_trainings) == (16, 16)
    assert (found.speedup.value, found.train_speedup.value) == (0.0, 0.0)
    baseline = measurements.measured(evaluation.hand_made("adamw_cosine"), evaluation.report_setup(FAMILY, HORIZON))
    middle = (FAMILY.loss_cap / baseline.finals).sort().values[4:12].mean()
    assert found.relative_loss.value == pytest.approx(float(middle), rel=1e-3)


def test_the_page_has_everyone_and_the_second_time_costs_nothing(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.safetensors"
    adamw(0.01).save(path)
    asked = Asked(path=path, tasks=("quadratics", "digits_mlp/64"), opponents=("sgdm_cosine", "adamw_default"),
                  horizon=20, horizon_ratios=(0.5, 1.0, 2.0), num_seeds=3, url=f"sqlite:///{tmp_path}/a.db")
    Records(asked.url).measurement("which makes the file")
    first = evaluate_file(asked, quiet=True)
    assert [(result.family, result.horizon) for result in first.results] == [
        (family, horizon) for family in ("digits_mlp/64", "quadratics") for horizon in (10, 20, 40)]
    assert set(first.results[1].measurements) == {"learned", "adamw_cosine", "sgdm_cosine", "adamw_default"}
    assert set(first.results[0].measurements) == {"learned", "adamw_cosine"}
    monkeypatch.setattr(evaluation.Contender, "run", lambda *_: pytest.fail("measured again"))
    again = evaluate_file(asked, quiet=True)
    assert yardstick.standings(again).keys() == yardstick.standings(first).keys()
    for name, found in yardstick.standings(first).items():
        assert found | {"seconds_ratio": 0} == yardstick.standings(again)[name] | {"seconds_ratio": 0}
    page, = (each for each in yardstick.write(first, tmp_path / "page", "optsearch evaluate") if each.suffix == ".md")
    text = page.read_text()
    assert all(title in text for title in ("SGD with momentum, cosine", "AdamW, default", "Other horizons",
                                           "Family by family", "profile.png"))
    ends = {(result.family, result.horizon): result.baseline.finals for result in first.results}
    itself = torch.cat([ends[family, 40] / ends[family, 20] for family in ("digits_mlp/64", "quadratics")])
    assert f" of 6 | {float(itself.sort().values[1:5].mean()):.3f} |" in text
    assert json.loads((tmp_path / "page" / "evaluation.json").read_text())["standings"]["learned"]["num_trainings"] == 6
    assert (tmp_path / "page" / "profile.png").stat().st_size > 10_000


def test_beside_another_one_the_figures_are_over_that_one(tuned_rate: float, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("good", "same", "slow")}
    for name, path in paths.items():
        adamw(tuned_rate / (10 if name == "slow" else 1)).save(path)
    asked = Asked(path=paths["good"], tasks=(TASK, "digits_mlp/128"), beside=(paths["same"], paths["slow"]),
                  num_seeds=4)
    headline = evaluate_file(asked, quiet=True)
    same, slow = (evaluation.duel(headline.main, "learned", name) for name in ("same", "slow"))
    assert (same.relative_loss.value, same.speedup.value, same.train_speedup.value, same.worst) == (1, 1, 1, 1)
    assert (same.num_better, slow.num_better, slow.num_families) == (0, 2, 2)
    ends = [result.measurements for result in headline.main]
    ratios = torch.cat([each["learned"].finals / each["slow"].finals for each in ends]).sort().values
    assert slow.relative_loss.value == pytest.approx(float(ratios[2:-2].mean()))
    of_families = [(each["learned"].finals / each["slow"].finals).sort().values[1:3].mean() for each in ends]
    assert slow.worst == pytest.approx(float(max(of_families)), abs=1e-4)
    assert slow.train_speedup.low > 1
    table, = (each for each in yardstick.tables(headline) if each.title.startswith("The learned optimizer over"))
    assert [row[0] for row in table.rows] == ["AdamW, cosine", "same", "slow"]


def test_two_contenders_of_one_name_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "learned.safetensors"
    with pytest.raises(UsageError, match=r"two contenders would be called `learned`. Rename a file"):
        Asked(path=tmp_path / "best.safetensors", tasks=(TASK,), beside=(other,))


def test_families_seen_in_meta_training_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    known = {"families": {"tasks": ["digits_mlp/64"], "validation": [], "held_out": []}, "held_out": [],
             "inner_steps": 1000, "weights": [], "num_trials": 3, "num_pruned": 1}
    artifact = adamw(0.01)
    replace(artifact, provenance=artifact.provenance | known).save(path)
    asked = Asked(path=path, tasks=("digits_mlp/64", "quadratics"), horizon=20, num_seeds=2)
    headline = evaluate_file(asked, quiet=True)
    assert headline.seen == {"digits_mlp/64"}
    assert any("1 of 2 families were seen in meta-training" in line for line in in_words(headline))
    adapted = replace(artifact, provenance={"initial": {"initial": known}, "families": {"tasks": ["quadratics"]}})
    assert replace(headline, artifact=adapted).seen == {"digits_mlp/64", "quadratics"}
    written = yardstick.write(headline, tmp_path, "optsearch evaluate")
    text = written[1].read_text()
    assert "| digits_mlp/64 (seen) |" in text
    assert "Meta-trained for 1,000 inner steps on digits_mlp (1)" in text
    assert "the best of 3 trials" in text


def test_short_horizons_are_measured_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    adamw(0.01).save(path)
    asked = Asked(path=path, tasks=("quadratics",), horizon=4, horizon_ratios=(0.5, 1.0), num_seeds=2)
    headline = evaluate_file(asked, quiet=True)
    assert [result.horizon for result in headline.results] == [2, 4]
    assert [result.horizon for result in headline.main] == [4]


def test_without_tasks_those_are_taken_that_its_study_held_out(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    for known, expected in (({"held_out": ["spectra"], "tasks": ["quadratics"]}, ("spectra",)),
                            ({"held_out": [], "tasks": ["quadratics"]}, ("quadratics",))):
        replace(adamw(0.01), provenance=known).save(path)
        assert tasks_for(path) == expected
    replace(adamw(0.01), provenance={}).save(path)
    with pytest.raises(UsageError, match=r"does not say what it was meta-trained on. Give --task or --suite"):
        tasks_for(path)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--opponent", "magic"], "there is no opponent `magic`. Opponents: adamw_cosine"),
    (["--suite", "art"], "there is no suite `art`"), (["--task", "art"], "there is no task `art`"),
])
def test_names_that_do_not_exist_are_refused(tmp_path: Path, arguments: list[str], message: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "best.safetensors"
    adamw(0.01).save(path)
    result = CliRunner().invoke(app, ["evaluate", str(path), *arguments])
    assert message in str(result.exception)
