"""The mean of several learned optimizers: its weights, what it says of where they come from, and what has none."""

from pathlib import Path

import pytest
import torch
from command_line import call

from optsearch.errors import DesignError
from optsearch.export import Artifact, average
from optsearch.export.adapters import Adapters
from optsearch.export.recogniser import Recogniser
from optsearch.optimizers import named_design
from optsearch.report.card import _learned_on
from optsearch.seeds import generator


def part(study: str, tasks: list[str], held_out: list[str], inner_steps: int, design: str = "soap_linear") -> Artifact:
    optimizer = named_design(design)
    weights = {name: torch.randn(leaf.shape, generator=generator(0, study, name))
               for name, leaf in optimizer.init_weights(generator(0, "weights")).items()}
    return Artifact(optimizer, weights, {
        "study": study, "trial": 0, "tasks": tasks, "held_out": held_out, "inner_steps": inner_steps, "seconds": 60.0,
        "horizon": inner_steps // 10, "meta_training": {"meta_lr": 2e-4},
        "families": {"tasks": [f"{name}/1" for name in tasks], "validation": []}})


@pytest.fixture
def parts() -> list[Artifact]:
    return [part("wide", ["digits_mlp", "keywords_mlp"], ["digits_cnn", "keywords_gru"], 4000),
            part("narrow", ["keywords_mlp", "keywords_gru"], ["keywords_cnn"], 2000)]


def test_its_weights_are_the_mean_of_theirs(parts: list[Artifact]) -> None:
    found = average([*parts, parts[0]])
    for name, leaf in found.weights.items():
        torch.testing.assert_close(leaf, (2 * parts[0].weights[name] + parts[1].weights[name]) / 3)
    assert found.design == parts[0].design


def test_it_says_what_all_were_learned_on_and_what_none_was(parts: list[Artifact]) -> None:
    found = average(parts).provenance
    assert found["tasks"] == ["digits_mlp", "keywords_mlp", "keywords_gru"]
    assert found["families"]["tasks"] == ["digits_mlp/1", "keywords_mlp/1", "keywords_gru/1"]
    assert found["held_out"] == ["digits_cnn", "keywords_cnn"]
    assert (found["inner_steps"], found["seconds"], found["horizon"]) == (6000, 120.0, 400)
    # By which it goes on learning.
    assert found["meta_training"] == {"meta_lr": 2e-4}


def test_what_a_part_began_with_counts_too(parts: list[Artifact]) -> None:
    parts[1].provenance["initial"] = {"tasks": ["pitch_mlp"], "families": {"tasks": ["pitch_mlp/1"], "validation": []}}
    found = average(parts).provenance
    assert found["tasks"][-1] == "pitch_mlp"
    assert found["families"]["tasks"][-1] == "pitch_mlp/1"


def test_where_no_part_knows_its_horizon_the_mean_knows_none(parts: list[Artifact]) -> None:
    for found in parts:
        del found.provenance["horizon"]
    assert "horizon" not in average(parts).provenance


def test_its_card_tells_of_each(parts: list[Artifact]) -> None:
    text = "\n".join(_learned_on(average(parts)))
    assert "mean of the weights of 2" in text
    assert "4,000 inner steps" in text
    assert "2,000 inner steps" in text


@pytest.mark.parametrize(("others", "message"), [
    ([], "two or more"),
    ([part("other", [], [], 100, "adamw_mlp")], "one design"),
])
def test_what_has_no_mean_is_refused(parts: list[Artifact], others: list[Artifact], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        average([parts[0], *others])


def test_adapters_are_refused(parts: list[Artifact]) -> None:
    adapters = Adapters({"vision": parts[0].weights}, Recogniser(*4 * [torch.zeros(1)]))
    adapted = Artifact(parts[0].design, parts[0].weights, {}, adapters)
    with pytest.raises(DesignError, match="adapters"):
        average([parts[0], adapted])


def test_the_command_writes_what_load_reads(tmp_path: Path, parts: list[Artifact]) -> None:
    places = [tmp_path / f"{found.provenance['study']}.safetensors" for found in parts]
    for place, found in zip(places, parts, strict=True):
        found.save(place)
    result = call("average", *map(str, places), "-o", str(tmp_path / "both.safetensors"))
    assert result.returncode == 0
    assert "the mean of 2, from wide and narrow" in result.stdout
    loaded = Artifact.load(tmp_path / "both.safetensors")
    assert all(torch.equal(loaded.weights[name], leaf) for name, leaf in average(parts).weights.items())
    alone = call("average", str(places[0]))
    assert alone.returncode == DesignError.exit_status
    assert "two or more" in alone.stderr
