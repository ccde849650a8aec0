"""Opt2Vec from several meta-seeds, in small: what is measured, what is kept, and the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call

from optsearch.bench import opt2vec, opt2vec_page
from optsearch.bench.judging import Judge
from optsearch.bench.opt2vec import ACROSS, BY_HAND, DESIGN, FRESH, KNOWN, OTHER, Stability
from optsearch.evaluation import compete, hand_made, report_setup
from optsearch.export import Artifact
from optsearch.optimizers import named_design
from optsearch.tasks import families_of

SMALL = Stability(("quadratics",), ("tabular_linear/wine", "rosenbrock/2"), 20, 1000, 2, 3, 4)


def test_every_meta_seed_is_learned_once_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = opt2vec.measure(SMALL, tmp_path, 1, quiet=True)
    assert [row["optimizer"] for row in rows] == [BY_HAND, FRESH, DESIGN, DESIGN]
    kept = [opt2vec.weights_path(SMALL, tmp_path, seed) for seed in range(2)]
    (family,) = families_of(["tabular_linear/wine"])
    weights = [Artifact.load(path).weights for path in kept]
    judged = Judge(20, 3).log_losses(named_design(DESIGN), weights[1], [family.name])
    assert rows[3]["values"][family.name] == judged[family.name]
    assert rows[2]["values"] != rows[3]["values"] != rows[1]["values"]
    result = compete([hand_made(BY_HAND)], report_setup(family, 20, num_seeds=3))
    expected = result.relative_losses(BY_HAND).log().mean()
    assert rows[0]["values"][family.name] == pytest.approx(float(expected), abs=2e-4)
    for row in rows[1:]:
        assert set(row["probes"]["phase"]) == {KNOWN, OTHER, ACROSS}
        assert set(row["diversity"]) == {KNOWN, OTHER}
    # Deleted weights are not learned again where their results are known.
    kept[1].unlink()
    assert opt2vec.measure(SMALL, tmp_path, 1, quiet=True) == rows
    assert not kept[1].exists()
    monkeypatch.setattr(opt2vec, "Stability", lambda **asked: replace(SMALL, **asked))
    ran = call("bench", "opt2vec", "--seeds", "2", "--budget", "1000", "--output", str(tmp_path), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["runs"] == rows
    page = (tmp_path / "opt2vec.md").read_text()
    assert "| rosenbrock/2 | never seen |" in page
    assert "Families never seen: interquartile mean" in page
    assert (tmp_path / "opt2vec.png").exists()


def test_the_page_counts_what_holds() -> None:
    families = {KNOWN: ["one"], OTHER: ["two", "three"]}
    probe = {"accuracy": 0.5, "chance": 0.25, "shuffled": 0.25, "inputs": 0.375}
    spread = {"size": 4, "directions": 1.2, "directions_between_tensors": 1.0, "directions_along_time": 1.1,
              "effective_rank": 1.3, "varying": 0.5, "tensor_share": 0.1, "step_share": 0.2, "is_collapsed": True}

    def row(optimizer: str, seed: int, values: list[float]) -> opt2vec.Row:
        return {"optimizer": optimizer, "seed": seed, "families": families,
                "values": dict(zip(("one", "two", "three"), values, strict=True)),
                "probes": {label: dict.fromkeys((KNOWN, OTHER, ACROSS), probe) for label in ("phase", "loss trend")},
                "diversity": {KNOWN: spread, OTHER: spread | {"is_collapsed": seed == 1}}}
    rows = [row(BY_HAND, 0, [0.3, 0.3, -0.2]), row(FRESH, 0, [0.1, 0.1, 0.1]), row(DESIGN, 0, [-0.2, 0.2, -0.3]),
            row(DESIGN, 1, [-0.1, 0.4, -0.1])]
    losses, probes, diversity = opt2vec_page.tables(rows)
    # exp of means over meta-seeds, and of the worst: 0.3, 0.4; -0.2, -0.1; their mean 0.05, 0.15.
    assert [line[2] for line in losses.rows] == ["0.861", "1.350", "0.819", "0.861", "1.051"]
    assert [line[4] for line in losses.rows] == ["0.905", "1.492", "0.905", "0.905", "1.162"]
    assert probes.rows[0][2:6] == ("50.0% ± 0.0%", "50.0%", "25.0%", "25.0%")
    assert len(diversity.rows) == 6
