"""The comparison of ways to learn one domain after another, in small."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from optsearch.bench import continual
from optsearch.bench.continual import Comparison, best, forgetting, tables, value, verdict

TINY = Comparison(tasks=("quadratics", "spectra/uniform"), horizon=20, budget=800, num_seeds=2)


def row(method: str, seed: int, values: list[dict[str, float]]) -> dict[str, Any]:
    return {"method": method, "seed": seed, "tasks": ["first", "second"], "values": values, "flops_per_parameter": 9}


def made_up() -> list[dict[str, Any]]:
    """Naive forgets 1.0 on average, others 0.2, and progressive learns nothing."""
    ends = {"naive": (1.0, -0.5), "ewc": (0.2, -0.4), "replay": (0.2, -0.6), "progressive": (0.2, 0.9)}
    return [row(method, seed, [{"first": 0.1 * seed, "second": 2.0},
                               {"first": lost + 0.1 * seed + 0.1 * (1 - 2 * seed), "second": learned}])
            for method, (lost, learned) in ends.items() for seed in (0, 1)]


def test_forgetting_is_what_the_first_task_lost_since_it_was_learned() -> None:
    rows = made_up()
    assert forgetting(rows, "naive").value == pytest.approx(1.0)
    assert (forgetting(rows, "naive").low, forgetting(rows, "naive").high) == pytest.approx((0.9, 1.1))
    assert value(rows, "replay", 1, -1).value == pytest.approx(-0.6)
    assert best(rows) == "replay"
    assert "ewc, replay, progressive" in verdict(rows)
    lost = tables(rows)[0]
    assert lost.rows[1][:4] == ("ewc", "+0.200 (+0.100 to +0.300)", "1.22 x", "+20%")


def test_methods_part_after_the_first_task_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    rows = continual.compare(TINY, tmp_path, 1, quiet=True)
    assert len(rows) == 2 * len(continual.METHODS)
    for seed in range(2):
        mine = [row for row in rows if row["seed"] == seed]
        assert all(row["values"][0] == mine[0]["values"][0] for row in mine)
        assert len({row["values"][1]["quadratics"] for row in mine}) == len(mine)
    assert rows[-1]["method"] == "progressive"
    assert rows[-1]["flops_per_parameter"] > rows[0]["flops_per_parameter"]
    path = tmp_path / "continual.json"
    path.write_text(json.dumps({"runs": json.loads(path.read_text())["runs"][:-1]}))
    assert continual.compare(TINY, tmp_path, 1, quiet=True) == rows
    written = continual.write(rows, tmp_path)
    page = written[0].read_text()
    assert page.count("| progressive |") == 3
    assert "quadratics, then spectra/uniform" in page


def test_the_command_takes_the_number_of_seeds() -> None:
    ran = call("bench", "continual", "--seeds", "1")
    assert ran.returncode == 2
    assert "--seeds" in ran.stderr
