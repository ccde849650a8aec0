"""The comparison of one optimizer for several domains with one for each, in small."""

import json
from pathlib import Path

import pytest
import torch

from optsearch.adaptation import recognising
from optsearch.bench import multi_task
from optsearch.bench.judging import Judge
from optsearch.evaluation.metrics import bootstrap


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_task, "LEARNED", {"tabular": "tabular_linear", "synthetic": "quadratics"})
    monkeypatch.setattr(multi_task, "MEASURED", {"tabular": "tabular_linear", "synthetic": "noisy_gradients"})
    monkeypatch.setattr(multi_task, "HORIZON", 20)
    monkeypatch.setattr(multi_task, "NUM_POINTS", 1)
    monkeypatch.setattr(multi_task, "tasks_of", {"tabular": ("tabular_linear", "tabular_mlp"),
                                                 "synthetic": ("quadratics", "noisy_gradients")}.__getitem__)
    judge = Judge(20, num_seeds=2)
    monkeypatch.setattr(multi_task, "_judge", lambda horizon: judge)
    monkeypatch.setattr(recognising, "NUM_NETWORKS", 6)
    monkeypatch.setattr(recognising, "NUM_TRAININGS", 2)


@pytest.mark.usefixtures("small")
def test_every_way_has_the_same_budget_a_domain_and_is_measured(tmp_path: Path) -> None:
    comparison = multi_task.Comparison(budget=320, num_seeds=1, num_runs=3)
    rows = multi_task.hold(comparison, tmp_path / "multi_task.json", 1, quiet=True)
    trained = [row for row in rows if row["way"] != "recogniser"]
    assert [(row["way"], row["budget"], row["domains"]) for row in trained] == [
        ("adapters", 640, ["tabular", "synthetic"]), ("shared", 640, ["tabular", "synthetic"]),
        ("specialist", 320, ["tabular"]), ("specialist", 320, ["synthetic"])]
    assert {len(row["values"]["synthetic"]) for row in trained if "synthetic" in row["domains"]} == {3}
    assert json.loads((tmp_path / "multi_task.json").read_text())["runs"] == rows
    # A specialist and adapters begin alike and see another number of tasks.
    assert trained[0]["values"] != trained[1]["values"]
    assert [row["examples"] for row in rows if row["way"] == "recogniser"] == [multi_task.ALL, multi_task.SOME]
    guesses = rows[0]["guesses"]
    assert sum(guesses["quadratics"].values()) == 3
    page = multi_task.write(rows, tmp_path)[0].read_text()
    assert "synthetic, new" in page
    assert "all, learned on" in page


def results(adapters: float, shared: float, specialist: float, seed: int) -> list[multi_task.Row]:
    values = {ADAPTERS: adapters, SHARED: shared, SPECIALIST: specialist}
    return [{"way": way, "domains": list(multi_task.LEARNED), "seed": seed, "budget": 1, "values": {
        domain: dict.fromkeys(FAMILIES, value) for domain in multi_task.LEARNED}} for way, value in values.items()]


ADAPTERS, SHARED, SPECIALIST = multi_task.WAYS
FAMILIES = ("quadratics", "tabular_linear/wine", "tabular_linear/diabetes", "tabular_linear/breast_cancer",
            "noisy_gradients/normal", "noisy_gradients/student")


@pytest.mark.usefixtures("small")
def test_tables_hold_ways_of_one_seed_against_each_other() -> None:
    guessed = {"way": "recogniser", "examples": multi_task.SOME, "guesses": {
        "tabular_linear/wine": {"tabular": 8}, "tabular_mlp/wine": {"tabular": 6, "synthetic": 2},
        "noisy_gradients/normal": {"synthetic": 3}} | {name: {} for name in (
            "tabular_linear/diabetes", "tabular_linear/breast_cancer", "tabular_mlp/diabetes",
            "tabular_mlp/breast_cancer", "quadratics", "noisy_gradients/student")}}
    rows = results(-0.3, 0.1, -0.2, 0) + results(0.1, 0.2, 0.4, 1)
    values, differences, known, domains = multi_task.tables([*rows, guessed, guessed | {"examples": multi_task.ALL}])
    found = {row[0]: row[1:] for row in differences.rows}
    expected = bootstrap([torch.tensor([-0.4, -0.1])] * 3, 0)
    assert found["tabular, learned on"][0] == (f"{expected.value:+.3f} ({expected.low:+.3f} to {expected.high:+.3f})")
    assert found["synthetic, learned on"][1].startswith("-0.200")
    assert len(values.rows) == len(differences.rows) == 6
    shares = {row[0]: row[1:] for row in domains.rows}
    assert shares["tabular, all others"] == ("75.0% (6 of 8)", "6", "2")
    assert shares["all, all others"][0] == "81.8% (9 of 11)"
    assert {row[0]: row[1] for row in known.rows}["tabular, meta-training"] == "87.5% (14 of 16)"
    assert shares["synthetic, validation and held out"][0] == "100.0% (3 of 3)"
    assert multi_task._hard([guessed | {"examples": multi_task.ALL}]) == "tabular_mlp/wine (75%)"
