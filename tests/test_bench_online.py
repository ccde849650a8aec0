"""The comparison of online adaptation with the frozen optimizer, in small."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call

from optsearch.bench import online
from optsearch.export import Artifact
from optsearch.optimizers import named_design
from optsearch.seeds import generator


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(online, "HORIZON", 12)
    monkeypatch.setattr(online, "FAMILIES", ("tabular_mlp/wine",))
    design = named_design(online.DESIGN)
    path = tmp_path / "base.safetensors"
    Artifact(design, design.init_weights(torch.Generator()), {}).save(path)
    return path


def test_every_method_meets_the_same_problem_from_the_same_start(artifact: Path) -> None:
    rows = online.measure(artifact, 2, 1, quiet=True)
    assert len(rows) == len(online.CHANGES) * 2 * len(online.METHODS)
    assert rows == online.measure(artifact, 2, 1, quiet=True)
    by_seed = {(row["change"], row["seed"], row["method"]): row for row in rows}
    # In twelve steps the bandit chooses once, and mostly what it always does.
    for change in online.CHANGES:
        frozen, adapted = (by_seed[change, 0, method]["mean_loss"] for method in ("frozen", "online, nothing tried"))
        assert frozen != adapted
        assert adapted == pytest.approx(frozen, rel=0.5)


def test_changes_do_what_they_say() -> None:
    batch = {"inputs": torch.ones(4, 10), "targets": torch.tensor([0, 1, 2, 2]), "num_classes": torch.tensor(3)}
    labels = online.CHANGES["labels"].batch
    assert labels(batch, 0, generator(0))["targets"].tolist() == [0, 1, 2, 2]
    assert labels(batch, 2, generator(0))["targets"].tolist() == [2, 0, 1, 1]
    inputs = online.CHANGES["inputs"].batch
    assert torch.equal(inputs(batch, 0, generator(0))["inputs"], batch["inputs"])
    turned = inputs(batch, 1, generator(0, 1))["inputs"]
    assert torch.equal(turned.abs(), batch["inputs"])
    assert 0 < (turned < 0).float().mean() < 1
    assert torch.equal(turned, turned[:1].expand(4, -1))
    assert [online.CHANGES["scale"].scale(quarter) for quarter in range(4)] == [1.0, 10.0, 1.0, 0.1]


def test_the_command_writes_a_page(artifact: Path, tmp_path: Path) -> None:
    ran = call("bench", "online", str(artifact), "--seeds", "2", "--workers", "1", "--output", str(tmp_path), "--json")
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["runs"]) == len(online.CHANGES) * 2 * len(online.METHODS)
    page = (tmp_path / "online.md").read_text()
    assert "classes are renamed" in page
    assert page.count("(") > 16
