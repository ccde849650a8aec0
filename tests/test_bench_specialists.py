"""The comparison of what is meant for a domain with doing without it, in small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import call

from optsearch.bench import specialists
from optsearch.bench.judging import Judge
from optsearch.evaluation import hand_made, report_setup
from optsearch.evaluation.contenders import BASELINE
from optsearch.evaluation.measurements import measured
from optsearch.evaluation.runs import run
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.tasks import families


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"rare rows": ("sparse_gradients/100",), "kinds": ("quadratics",)}
    monkeypatch.setattr(specialists, "HORIZON", 20)
    monkeypatch.setattr(specialists, "BUDGET", 160)
    monkeypatch.setattr(specialists, "SPECIALTIES", {name: replace(specialty, tasks=tasks[name])
                                                     for name, specialty in specialists.SPECIALTIES.items()})
    judge = Judge(20, 2)
    monkeypatch.setattr(specialists, "_judge", lambda horizon: judge)


@pytest.mark.usefixtures("small")
def test_both_sides_are_the_same_meta_training_but_for_one_thing(tmp_path: Path) -> None:
    rows = specialists.compare(1, tmp_path, 1, quiet=True)
    assert [(row["specialty"], row["has_it"]) for row in rows] == [
        (name, has_it) for name in ("rare rows", "kinds") for has_it in (False, True)]
    one, other = (specialists.SPECIALTIES["kinds"].optimizer(has_it=has_it) for has_it in (False, True))
    assert set(other.tensors.groups) - set(one.tensors.groups) == {"kind", "rank"}
    assert rows[0]["values"] != rows[1]["values"]
    # A row again, by hand.
    (family,), optimizer = families("quadratics"), named_design("adamw_lstm")
    *_, last = meta_train(Plan(optimizer, [family], MetaTraining(horizon=20), 160, 1, rows[2]["seed"]))
    setup = report_setup(family, 20, num_seeds=2)
    ours = run(optimizer, {name: leaf[None] for name, leaf in last.weights.items()}, setup).measured[-2:].mean(0)
    expected = float((ours / measured(hand_made(BASELINE), setup).finals).log().mean())
    assert rows[2]["values"][family.name] == pytest.approx(expected, abs=2e-5)


def test_gains_are_differences_of_the_same_seed_and_family() -> None:
    values = {False: {"a": [0.5, 0.1, 0.3], "b": [0.0, 0.2, 0.1]}, True: {"a": [0.4, 0.0, 0.2], "b": [-0.1, 0.1, 0.0]}}
    rows = [{"specialty": "kinds", "task": "code_bag/8x16", "has_it": has_it, "seed": seed,
             "values": {family: each[seed] for family, each in found.items()}}
            for has_it, found in values.items() for seed in (2, 0, 1)]
    # What a stopped comparison has of a seed's one side alone is left out.
    rows.append(rows[0] | {"seed": 3})
    found = specialists.Gain.of(rows)
    assert [found.change.value, found.change.low, found.change.high] == pytest.approx([-0.1] * 3)
    # The middle four of six.
    assert found.without.value == pytest.approx(torch.tensor([0.1, 0.3, 0.2, 0.1]).mean())
    assert found.having.value == pytest.approx(found.without.value - 0.1)
    (table,) = specialists.tables(rows)
    assert table.rows[0][1] == "3"
    assert table.rows[0][-1] == "-0.100 (-0.100 to -0.100)"


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    kept = [wanted | {"values": {"family": wanted["seed"] / 10 - wanted["has_it"]}}
            for wanted in specialists.asked(2)]
    (tmp_path / "specialists.json").write_text(json.dumps({"runs": kept}))
    ran = call("bench", "specialists", "--seeds", "2", "--output", str(tmp_path), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["runs"] == kept
    page = (tmp_path / "specialists.md").read_text()
    assert page.count("-1.000 (-1.000 to -1.000)") == sum(len(each.tasks) for each in
                                                          specialists.SPECIALTIES.values())
