"""Embeddings along runs, what probes read from them and how diverse they are, against independent calculations."""

import json
from math import exp, log, nan
from pathlib import Path

import numpy
import pytest
import torch
from command_line import call
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from optsearch.errors import DesignError
from optsearch.evaluation import probes
from optsearch.evaluation.diversity import (
    diversity,
    effective_rank,
    participation_ratio,
    projection,
    share_explained,
    spectrum_of,
)
from optsearch.evaluation.embeddings import PURPOSE, Embeddings, collect, loss_trends, phases
from optsearch.export import Artifact, EmbeddingLog, OptimizerModule
from optsearch.meta_training import inner
from optsearch.optimizers import LearnedOptimizer, named_design
from optsearch.seeds import generator
from optsearch.tasks import families_of
from optsearch.trees import Tree

HORIZON = 20


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "numbers"), dtype=torch.float64)


def moved(name: str) -> tuple[LearnedOptimizer, Tree]:
    """A design with weights that are not those it begins with."""
    design = named_design(name)
    return design, {key: leaf + 0.1 * torch.randn(leaf.shape, generator=generator(0, key))
                    for key, leaf in design.init_weights(generator(0, "weights")).items()}


def made(values: Tensor, losses: Tensor | None = None) -> Embeddings:
    """Embeddings `[n, steps, tensors, size]` that nobody's controller made."""
    names = tuple(f"{index}.weight" for index in range(values.shape[2]))
    return Embeddings("family", names, ("linear",) * len(names), values, torch.zeros_like(values),
                      values[:, :, 0, 0] if losses is None else losses)


@pytest.mark.parametrize("name", ["opt2vec", "adamw_lstm"])
def test_embeddings_are_those_of_the_exported_optimizer(name: str) -> None:
    design, weights = moved(name)
    (family,) = families_of(["tabular_mlp/wine"])
    found = collect(design, weights, family, HORIZON, 3)
    assert found.made.shape[:3] == (3, HORIZON, len(found.names))
    for seed in range(3):
        stream = generator(seed, PURPOSE, family.name)
        task = family.sample(stream)
        params: Tree = {key: nn.Parameter(leaf) for key, leaf in family.init(stream, task).items()}
        rows = inner.draw(family, "inner", (HORIZON,), stream)
        module = OptimizerModule(Artifact(design, weights, {}))
        optimizer = module(params.items(), num_steps=HORIZON)
        kept, losses = EmbeddingLog(optimizer), []
        for step in range(HORIZON):
            loss = family.loss(params, {key: leaf[rows[step]] for key, leaf in family.data.inner.items()} | task)
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            optimizer.step(loss=loss.detach())
        assert list(found.names) == kept.names
        assert torch.allclose(found.made[seed], kept.embeddings, atol=2e-4)
        assert found.losses[seed].tolist() == pytest.approx(losses, rel=1e-3)


def test_what_is_seen_are_the_inputs_of_the_last_steps() -> None:
    """Opt2Vec's first layer turns them into its embeddings, so that what is made can be made again from them."""
    design, weights = moved("opt2vec")
    (family,) = families_of(["tabular_mlp/wine"])
    found = collect(design, weights, family, HORIZON, 2)
    # Numbers are ordered by input, and within each by step; a history has all inputs of a step together.
    history = found.seen.unflatten(-1, (-1, 5)).mT.flatten(-2)
    hidden = nn.functional.linear(history, weights["controller.hidden0.weight"], weights["controller.hidden0.bias"])
    remade = nn.functional.linear(hidden.relu(), weights["controller.output.weight"], weights["controller.output.bias"])
    assert torch.allclose(remade.tanh(), found.made, atol=1e-5)


def test_designs_without_a_controller_are_refused() -> None:
    design, weights = moved("adamw_mlp")
    (family,) = families_of(["tabular_mlp/wine"])
    with pytest.raises(DesignError, match="no controller"):
        collect(design, weights, family, HORIZON, 2)


def test_phases_are_thirds() -> None:
    assert phases(9).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert phases(100).bincount().tolist() == [34, 33, 33]


def test_loss_trends_are_slopes_beyond_two_standard_errors() -> None:
    steps = torch.arange(60.0)
    curves = torch.stack([(-0.02 * steps).exp(), (0.02 * steps).exp(), torch.ones(60),
                          (0.02 * normal(60) - 0.01 * steps).exp()])
    found = loss_trends(curves)
    window = 6
    assert (found[:, :window - 1] == -1).all()
    assert found[:3, window - 1:].unique(dim=1).flatten().tolist() == [0, 2, 1]
    for end in range(window, 61):
        line, errors = numpy.polyfit(range(window), curves[3, end - window:end].log(), 1, cov=True)
        expected = 1 + (line[0] > 2 * errors[0, 0] ** 0.5) - (line[0] < -2 * errors[0, 0] ** 0.5)
        assert int(found[3, end - 1]) == expected
    assert set(found[3, window - 1:].tolist()) > {0}


def test_a_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    inputs = normal(300, 4) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    labels = (inputs[:, 0] + inputs[:, 1] ** 2 + 0.5 * normal(300, seed=1) > 1).long() + (inputs[:, 2] > 0.6).long()
    weights = probes.fit(probes.Samples(inputs, labels), 3)
    peer = LogisticRegression(C=1 / (probes.RIDGE * 300), class_weight="balanced", tol=1e-10, max_iter=2000)
    peer.fit(inputs.numpy(), labels.numpy())
    chances = (inputs @ weights[:, :-1].mT + weights[:, -1]).softmax(1)
    assert numpy.allclose(chances, peer.predict_proba(inputs.numpy()), atol=1e-4)


def test_a_probe_finds_what_was_planted_on_other_runs_and_nothing_in_noise() -> None:
    noise = normal(8, 60, 3, 6)
    planted = noise.clone()
    # The phase lies in a plane of the embeddings, in no single number of them.
    corners = torch.tensor([[3.0, 0.0], [-1.5, 2.6], [-1.5, -2.6]]).double()
    planted += (corners[phases(60)] @ normal(2, 6, seed=1))[:, None]
    losses = torch.ones(8, 60)
    for values, (low, high) in ((planted, (0.95, 1.0)), (noise, (0.27, 0.40))):
        found = made(values, losses)
        told = probes.probe("phase", [found.of(slice(4))], [found.of(slice(4, 8))])
        assert low < told.accuracy <= high
        assert told.chance == pytest.approx(1 / 3)
        assert 0.27 < told.shuffled < 0.40
        # All zeros say nothing: every sample is called the same.
        assert told.inputs == pytest.approx(1 / 3)
    # Only one trend occurs, so guessing is always right.
    assert probes.probe("loss trend", [made(noise, losses)], [made(noise, losses)]).chance == 1


def test_balanced_accuracy_counts_classes_alike_and_what_is_not_finite_is_left_out() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert probes.balanced_accuracy(torch.zeros(100), labels) == 0.5
    assert probes.balanced_accuracy(torch.tensor([0] * 45 + [1] * 55), labels) == 0.75
    values = normal(2, 6, 2, 3)
    values[0, 1, 0, 2] = nan
    assert len(probes.samples([made(values)], "phase", "made").labels) == 2 * 6 * 2 - 1


def test_participation_ratio_and_effective_rank_have_closed_forms() -> None:
    for equal in (1, 3, 7):
        spectrum = torch.tensor([2.0] * equal + [0.0] * 2)
        assert participation_ratio(spectrum) == pytest.approx(equal)
        assert effective_rank(spectrum) == pytest.approx(equal)
    two = torch.tensor([1.0, 0.268])
    assert participation_ratio(two) == pytest.approx(1.5, abs=1e-3)
    shares = [1 / 1.268, 0.268 / 1.268]
    assert effective_rank(two) == pytest.approx(exp(-sum(share * log(share) for share in shares)))
    assert participation_ratio(torch.zeros(3)) == effective_rank(torch.zeros(3)) == 0
    rows = normal(50, 4)
    assert torch.allclose(spectrum_of(rows), torch.linalg.eigvalsh(rows.T.cov(correction=0)).flip(0))


def test_explained_shares_are_those_of_the_group_means() -> None:
    rows, groups = normal(40, 3), torch.arange(40) % 4 * 10
    means = torch.stack([rows[groups == group].mean(0) for group in groups])
    expected = (means - rows.mean(0)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert share_explained(rows, groups) == pytest.approx(float(expected))


def test_diversity_tells_tensors_from_steps_and_sees_a_collapse() -> None:
    of_tensors, of_steps = torch.zeros(4, 30, 5, 6).double(), torch.zeros(4, 30, 5, 6).double()
    of_tensors += normal(5, 6)
    of_steps += normal(30, 1, 6)
    found = diversity([made(of_tensors)])
    assert (found.tensor_share, found.directions_along_time) == (pytest.approx(1), 0)
    assert found.step_share == pytest.approx(0, abs=1e-12)
    found = diversity([made(of_steps)])
    assert (found.step_share, found.directions_between_tensors) == (pytest.approx(1), 0)
    assert not found.is_collapsed
    one = normal(4, 30, 5, 1) * normal(6)
    assert diversity([made(one)]).directions == pytest.approx(1)
    assert diversity([made(one)]).is_collapsed
    still = 1 + 1e-3 * normal(4, 30, 5, 6)
    assert diversity([made(still)]).directions > 5
    assert diversity([made(still)]).is_collapsed
    # Families with other tensors, and a run that went astray, which counts for nothing.
    astray = torch.cat([of_tensors, torch.full((1, 30, 5, 6), nan, dtype=torch.float64)])
    both = diversity([made(astray), made(3 + of_steps[:, :, :2])])
    assert both == diversity([made(of_tensors), made(3 + of_steps[:, :, :2])])
    assert both.family_share > 0.5


def test_a_projection_keeps_the_two_widest_directions() -> None:
    rows = normal(200, 5) * torch.tensor([0.1, 3.0, 0.2, 1.0, 0.1])
    found = projection(rows)
    spectrum = spectrum_of(rows)
    assert torch.allclose(found.shares, spectrum[:2] / spectrum.sum())
    assert torch.allclose(found.points.T.cov(correction=0), torch.diag(spectrum[:2]), atol=1e-9)
    assert abs(float(torch.corrcoef(torch.stack([found.points[:, 0], rows[:, 1]]))[0, 1])) > 0.99
    single = projection(rows[:, :1])
    assert torch.allclose(single.points[:, 0].abs(), (rows[:, 0] - rows[:, 0].mean()).abs())
    assert single.points[:, 1].abs().max() == 0


def test_the_command_probes_and_draws(tmp_path: Path) -> None:
    design, weights = moved("opt2vec")
    path, picture = tmp_path / "own.safetensors", tmp_path / "pictures" / "own.png"
    Artifact(design, weights, {"horizon": HORIZON, "tasks": ["tabular_mlp/wine"]}).save(path)
    ran = call("embeddings", str(path), "--runs", "4", "-o", str(picture))
    assert ran.returncode == 0, ran.stderr
    assert "not told how far a run is" in ran.stdout
    assert "4 runs of 20 steps on each of tabular_mlp/wine" in ran.stdout
    assert "by chance 33.3%" in ran.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    ran = call("embeddings", str(path), "--task", "quadratics", "--runs", "4", "-o", str(picture), "--json")
    content = json.loads(ran.stdout)
    assert content["tasks"] == ["quadratics"]
    assert content["inputs"] == ["log_loss", "gradient", "settings"]
    assert set(content["probes"]) == {"phase", "loss trend"}
    assert 1 <= content["diversity"]["directions"] <= 16


def test_the_command_says_in_a_line_what_it_cannot_do(tmp_path: Path) -> None:
    for name, expected in (("adamw_mlp", "no controller"), ("opt2vec", "Give --task")):
        design, weights = moved(name)
        path = tmp_path / f"{name}.safetensors"
        Artifact(design, weights, {"tasks": ["quadratics"]} if name == "adamw_mlp" else {}).save(path)
        ran = call("embeddings", str(path), "-o", str(tmp_path / "none.png"))
        assert ran.returncode == 2
        assert expected in ran.stderr
        assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "none.png").exists()
