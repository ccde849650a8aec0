"""What an optimizer does: known optimizers give what is known of them, and the command tells it of any design."""

import json
from dataclasses import replace
from math import pi, sqrt
from pathlib import Path

import pytest
import torch
from command_line import call
from torch import Tensor

from optsearch.evaluation.behaviour import NUM_LAGS, PURPOSE, Behaviour, response, watch, watch_baseline
from optsearch.evaluation.hand_made import Scheduled
from optsearch.evaluation.responses import NOISES, SCALES, respond
from optsearch.export import Artifact
from optsearch.export.adapters import Adapters
from optsearch.export.recogniser import NUM_FEATURES, Recogniser
from optsearch.meta_training import inner
from optsearch.optimizers import named_design
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.bases import SGDM, Base, Lion
from optsearch.report import explaining
from optsearch.seeds import generator
from optsearch.tasks import families
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Tree

HORIZON, RATE = 60, 0.01
CHARTS = {"step_size", "relative_step_size", "learning_rate", "layers", "momentum", "scale", "noise", "alignment"}


def family(name: str = "tabular_mlp/wine") -> TaskFamily:
    return families(name)[0]


def watched(base: Base, horizon: int = HORIZON, rate: float = RATE) -> Behaviour:
    return watch(Scheduled(base, "constant"), {"lr": torch.full((1, 1), rate)}, family(), horizon)


def saved(path: Path, name: str, size: float = 0.05) -> Path:
    """An artifact of a design whose weights are not those it begins with."""
    design = named_design(name)
    weights = {key: leaf + size * torch.randn(leaf.shape, generator=generator(0, key))
               for key, leaf in design.init_weights(generator(0, "weights")).items()}
    Artifact(design, weights, {"tasks": ["tabular_mlp/wine"], "horizon": 8}).save(path)
    return path


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.95])
def test_momentum_of_sgd_is_found_to_a_thousandth(momentum: float) -> None:
    found = watched(SGDM(momentum)).response
    assert found.momentum == pytest.approx(momentum, abs=1e-3)
    assert found.weights == pytest.approx([momentum**lag if lag else 1.0 for lag in range(NUM_LAGS)], abs=1e-3)
    assert found.explained == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("beta", [0.8, 0.9])
def test_momentum_of_adam_is_its_beta_within_five_hundredths(beta: float) -> None:
    """Not exact: its second moment moves, too."""
    assert watched(AdamW(beta1=beta, weight_decay=0.0), 200, 1e-3).response.momentum == pytest.approx(beta, abs=0.05)


def test_steps_that_have_nothing_to_do_with_gradients_are_not_explained() -> None:
    gradients, moves = (torch.randn(200, 50, generator=generator(seed, "numbers")) for seed in range(2))
    assert response(gradients, moves).explained < 0.2
    # A sum of one's own over the lags, given back as it was put in, whatever the scale of each parameter.
    weights = torch.tensor([1.0, -0.5, 0.25, *[0.0] * (NUM_LAGS - 3)])
    moves[NUM_LAGS:] = -(gradients.unfold(0, NUM_LAGS, 1)[1:].flip(-1) @ weights)
    found = response(gradients[NUM_LAGS:], moves[NUM_LAGS:] * torch.logspace(-3, 3, 50))
    assert found.weights == pytest.approx(weights.tolist(), abs=1e-3)
    assert found.momentum == pytest.approx((-0.5 - 0.125) / (1 + 0.25 + 0.0625), abs=1e-3)


def test_nothing_is_told_of_steps_that_are_all_zero() -> None:
    found = watched(SGDM(), rate=0.0)
    assert found.step_size.eq(0).all()
    assert found.response.weights == [0.0] * NUM_LAGS
    assert found.response.momentum != found.response.momentum


def test_sizes_along_a_run_are_those_of_torch_s_sgd() -> None:
    """The same run once more, seed by seed, by torch.optim."""
    found, squares, params_squares = watched(SGDM(0.9)), [], []
    for seed in range(2):
        stream = generator(seed, PURPOSE, found.family)
        task = family().sample(stream)
        params: Tree = {name: torch.nn.Parameter(leaf) for name, leaf in family().init(stream, task).items()}
        rows = inner.draw(family(), "inner", (HORIZON,), stream)
        optimizer = torch.optim.SGD(params.values(), RATE, momentum=0.9)
        for step in range(HORIZON):
            before = [param.detach().clone() for param in params.values()]
            optimizer.zero_grad()
            family().loss(params, {name: leaf[rows[step]] for name, leaf in family().data.inner.items()} | task
                          ).backward()
            optimizer.step()
            squares.append([float((param.detach() - old).square().sum())
                            for param, old in zip(params.values(), before, strict=True)])
            params_squares.append([float(old.square().sum()) for old in before])
    counts = torch.tensor([leaf.numel() for leaf in params.values()])
    steps, sizes = (torch.tensor(each).view(2, HORIZON, -1).mean(0) for each in (squares, params_squares))
    assert torch.allclose(found.step_size[:, 1:], (steps / counts).sqrt(), rtol=1e-2)
    whole = (steps.sum(1) / counts.sum()).sqrt()
    assert torch.allclose(found.step_size[:, 0], whole, rtol=1e-2)
    assert torch.allclose(found.mean_relative_step[1:], (steps.sum(0) / sizes.sum(0)).sqrt(), rtol=1e-2)
    assert torch.allclose(found.relative_step_size[:, 0], whole / (sizes.sum(1) / counts.sum()).sqrt(), rtol=1e-2)


def test_adam_has_its_own_learning_rate_and_points_its_own_way() -> None:
    found = watched(AdamW(weight_decay=0.0), rate=0.003)
    assert torch.allclose(found.learning_rate, torch.full_like(found.learning_rate, 0.003), rtol=1e-4)
    assert found.alignment == pytest.approx(1, abs=1e-5)
    # Params that begin at 0 are no reason to be infinite.
    assert found.mean_relative_step.isfinite().all()
    assert watched(Lion()).alignment < 0.99


def test_the_baseline_follows_its_schedule_at_one_of_the_rates() -> None:
    found, rate = watch_baseline(family(), HORIZON)
    assert rate in [pytest.approx(10 ** (power / 2)) for power in range(-8, 1)]
    assert found.losses.shape == (HORIZON, 2)
    # Weight decay apart, what is measured is the peak times the cosine.
    progress = (torch.arange(HORIZON) / HORIZON - 0.05) / 0.95
    expected = rate * (1 + torch.cos(pi * progress)) / 2
    assert torch.allclose(found.learning_rate[10:50, 0], expected[10:50], rtol=0.05)


def made_up(base: Base) -> tuple[Tensor, Tensor, Tensor]:
    found = respond(Scheduled(base, "constant"), {"lr": torch.full((1,), RATE)})
    return found.slopes, found.by_noise / found.by_noise[:, :1], found.alignment


def test_scale_has_slope_one_for_sgd_and_none_for_adam_and_lion() -> None:
    for base, slope in ((SGDM(), 1.0), (SGDM(0.0), 1.0), (AdamW(weight_decay=0.0), 0.0), (Lion(), 0.0)):
        assert made_up(base)[0].tolist() == pytest.approx([slope] * 3, abs=1e-3)
    assert (SCALES[0], SCALES[-1]) == (1e-3, 1e3)


def test_noise_changes_steps_as_arithmetic_says() -> None:
    _, sizes, cosines = made_up(SGDM(0.0))
    for index, noise in enumerate(NOISES):
        assert sizes[:, index].tolist() == pytest.approx([sqrt(1 + noise**2)] * 3, rel=0.05)
        assert cosines[:, index].tolist() == pytest.approx([1 / sqrt(1 + noise**2)] * 3, rel=0.1)
    # An average leaves (1 - β) / (1 + β) of the noise's variance.
    _, sizes, cosines = made_up(SGDM(0.9))
    for index, noise in enumerate(NOISES):
        assert sizes[:, index].tolist() == pytest.approx([sqrt(1 + noise**2 * 0.1 / 1.9)] * 3, rel=0.1)
        assert cosines[:, index].tolist() == pytest.approx([1 / sqrt(1 + noise**2 * 0.1 / 1.9)] * 3, rel=0.1)


@pytest.mark.parametrize("name", ["celo", "adamw_transformer", "adamw_gnn", "adamw_lstm", "adamw_mlp"])
def test_something_is_told_of_any_design(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "best.safetensors", name)
    found = explaining.explain(path, family(), 30, quiet=True)
    told = " ".join(explaining.in_words(found))
    assert "effective momentum" in told
    assert not {"unknown", "nan"} & set(told.split())
    figures = found.to_config()
    assert 0 < figures["learned"]["explained"] <= 1
    assert all(abs(slope) < 1.1 for slope in figures["responses"]["learned"]["scale_slopes"])
    assert [row[0] for row in explaining.layers(found).rows] == list(figures["adamw"]["layers"])


def test_the_command_tells_and_draws(tmp_path: Path) -> None:
    path, folder = saved(tmp_path / "best.safetensors", "opt2vec"), tmp_path / "told"
    ran = call("explain", str(path), "-o", str(folder), "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert "on tabular_mlp/wine, 2 runs of 30 steps" in ran.stdout
    page = (folder / "explanation.md").read_text()
    assert ran.stdout.splitlines()[1] in page
    assert "| 0.weight |" in page
    for chart in CHARTS:
        assert (folder / f"{chart}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({chart}.png)" in page
    figures = json.loads((folder / "explanation.json").read_text())
    assert len(figures["learned"]["step_size"]) == 30


def test_json_another_task_and_a_run_that_goes_astray(tmp_path: Path) -> None:
    path = saved(tmp_path / "wild.safetensors", "adamw_mlp", size=30.0)
    ran = call("explain", str(path), "--task", "quadratics", "--horizon", "40", "-o", str(tmp_path), "--json")
    assert ran.returncode == 0, ran.stderr
    content = json.loads(ran.stdout)
    assert (content["family"], content["num_steps"], content["num_runs"]) == ("quadratics", 40, 2)
    assert content["responses"]["Adam"]["scale_slopes"] == pytest.approx([0] * 3, abs=1e-3)
    assert "went astray" in content["findings"][0]
    assert len(content["written"]) == 2 + len(CHARTS)


def test_adapters_are_used_in_their_domain(tmp_path: Path) -> None:
    """An adapter that undoes what the shared weights were moved by makes the steps of the design as it begins."""
    path = saved(tmp_path / "plain.safetensors", "adamw_mlp")
    plain = Artifact.load(path)
    begun = plain.design.init_weights(generator(0, "weights"))
    offsets = {"tabular": {name: begun[name] - leaf for name, leaf in plain.weights.items()}}
    recogniser = Recogniser(torch.zeros(NUM_FEATURES), torch.ones(NUM_FEATURES), torch.zeros(1, NUM_FEATURES + 1),
                            torch.zeros(1, 2))
    replace(plain, adapters=Adapters(offsets, recogniser)).save(tmp_path / "adapted.safetensors")
    adapted = explaining.explain(tmp_path / "adapted.safetensors", family(), 30, quiet=True).learned
    expected = watch(plain.design, {name: leaf[None] for name, leaf in begun.items()}, family(), 30)
    assert torch.allclose(adapted.step_size, expected.step_size, rtol=1e-3)


def test_bad_files_and_tasks_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no such thing")
    good = saved(tmp_path / "good.safetensors", "adamw_mlp")
    for words, status in (((str(tmp_path / "none.safetensors"),), 1), ((str(tmp_path / "text.safetensors"),), 1),
                          ((str(good), "--task", "no_such_task"), 2)):
        ran = call("explain", *words, "-o", str(tmp_path / "told"), "--quiet")
        assert (ran.returncode, ran.stderr.count("\n"), ran.stdout) == (status, 1, "")
        assert not (tmp_path / "told").exists()
    (tmp_path / "told").write_text("in the way")
    ran = call("explain", str(good), "-o", str(tmp_path / "told"), "--quiet")
    assert ran.returncode == 1
    assert "Choose another folder" in ran.stderr
