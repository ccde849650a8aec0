"""Few-shot adaptation against learning from scratch, in small."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from optsearch.adaptation import AdaptedEstimator
from optsearch.bench import few_shot, few_shot_page
from optsearch.bench.few_shot import METHODS, Comparison, compare, start_plan
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.tasks import DOMAINS, families_of, tasks_of
from optsearch.trees import Tree

Row = dict[str, Any]
SMALL = partial(Comparison, learned_on=("quadratics",), families=("tabular_linear/wine",), horizon=20,
                longer_start_budgets=(1_200, 1_800))


def made_up(values: dict[str, dict[str, tuple[float, ...]]]) -> list[Row]:
    """Rows of what each method comes to, a value a seed on each family; untouched starts are all at 1."""
    rows = [{"method": method, "family": family, "seed": seed, "value": value, "inner_steps": 50}
            for method, by_family in values.items() for family, found in by_family.items()
            for seed, value in enumerate(found)]
    return rows + [row | {"value": 1.0, "inner_steps": 0} for row in rows if row["method"] not in few_shot.FROM_SCRATCH]


@pytest.fixture
def rows() -> list[Row]:
    far: dict[str, tuple[float, ...]] = {"a": (0.9, 0.9, 0.9), "b": (0.9, 0.9, 0.9)}
    return made_up({"scratch": {"a": (0.0, 0.1, 0.2), "b": (0.5, 0.5, 0.5)},
                    "scratch, as adapted": {"a": (-0.1, 0.1, 0.2), "b": (0.3, 0.4, 0.2)},
                    "plain": {"a": (0.3, 0.0, 0.0), "b": (0.6, 0.7, 0.8)},
                    "reptile": {"a": (0.2, 0.2, 0.2), "b": (0.1, 0.2, 0.3)},
                    "first_order_maml": far, "maml": far, "anil": far,
                    **dict.fromkeys(few_shot.LONGER, far)})


def test_reaching_is_a_mean_over_seeds_at_least_as_low(rows: list[Row]) -> None:
    assert few_shot_page.reaching(rows, "plain", "scratch") == ["a"]
    assert few_shot_page.reaching(rows, "reptile", "scratch") == ["b"]
    assert few_shot_page.reaching(rows, "reptile", "scratch, as adapted") == ["b"]
    assert few_shot_page.reaching(rows, "maml", "scratch") == []
    assert few_shot_page.interval([row for row in rows if row["method"] == "scratch"]).value == pytest.approx(0.3)


def test_the_winner_has_the_lowest_mean_over_families(rows: list[Row]) -> None:
    assert few_shot_page.winner(rows, METHODS) == "reptile"
    assert few_shot_page.winner(rows, ("plain", "maml")) == "plain"


def test_every_start_costs_the_same() -> None:
    comparison = SMALL(start_budget=60_000, budget=100_000, num_seeds=3)
    for method in METHODS:
        plan = start_plan(comparison, method, 0)
        spent = plan.num_meta_steps * plan.steps_per_meta_step
        assert 0.9 * comparison.start_budget <= spent <= comparison.start_budget
        assert isinstance(plan.estimator, AdaptedEstimator) == (method != "plain")
    rows = comparison.asked()
    assert len(rows) == 3 * 2 * (3 + len(METHODS))
    assert {(row["method"], row["inner_steps"]) for row in rows} == {
        *((way, 30_000) for way in few_shot.FROM_SCRATCH),
        *((method, steps) for method in (*METHODS, *few_shot.LONGER) for steps in (0, 5_000))}
    assert [start_plan(comparison, method, 0).budget for method in few_shot.LONGER] == [1_200, 1_800]


def test_starts_never_see_the_domain_of_a_target() -> None:
    seen, aimed_at = ({domain for domain in DOMAINS for name in names if name.partition("/")[0] in tasks_of(domain)}
                      for names in (few_shot.LEARNED_ON, few_shot.FAMILIES))
    assert seen == {"tabular", "scientific"}
    assert aimed_at == {"vision", "nlp", "speech"}


def test_rows_are_what_meta_training_from_the_starts_comes_to(tmp_path: Path) -> None:
    comparison = SMALL(start_budget=600, budget=3_200, num_seeds=1)
    rows = compare(comparison, tmp_path, 1, quiet=True)
    values = {(row["method"], row["family"], row["inner_steps"]): row["value"] for row in rows}
    assert len(values) == len(rows) == 2 * (3 + len(METHODS))
    path, judge = tmp_path / "few_shot_starts" / "adamw_mlp-20-plain-600-0.safetensors", few_shot.judge(20)
    artifact, (family,) = Artifact.load(path), comparison.families

    def learned(budget: int, settings: MetaTraining, initial: Tree | None) -> float:
        *_, point = meta_train(Plan(artifact.design, families_of([family]), settings, budget, 1, 0, initial=initial))
        return judge.log_losses(artifact.design, point.weights, [family])[family]

    assert values["plain", family, 0] == judge.log_losses(artifact.design, artifact.weights, [family])[family]
    adapting = MetaTraining(horizon=20, sigma=0.03, meta_lr=6e-3, max_meta_gradient=5.0)
    assert values["plain", family, 160] == learned(160, adapting, artifact.weights)
    assert values["scratch", family, 960] == learned(960, MetaTraining(horizon=20), None)
    assert values["scratch, as adapted", family, 960] == learned(960, adapting, None)
    assert len({values[method, family, 0] for method in METHODS}) == len(METHODS)
    # Nothing is done twice.
    path.write_bytes(b"")
    assert compare(comparison, tmp_path, 1, quiet=True) == rows


def test_the_command_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_shot, "Comparison", SMALL)
    for module in (few_shot, few_shot_page):
        monkeypatch.setattr(module, "METHODS", ("plain", "reptile"))
    ran = call("bench", "few-shot", "--seeds", "2", "--budget", "1000", "--start-budget", "1000", "--workers", "1",
               "--output", str(tmp_path), "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["runs"]
    assert rows == json.loads((tmp_path / "few_shot.json").read_text())["runs"]
    page = (tmp_path / "few_shot.md").read_text()
    assert "| from scratch, 300 |" in page
    assert "| plain start, 50 |" in page
    assert "| reptile start, 50 |" in page
