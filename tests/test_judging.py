"""What benchmarks share: one judge, and results that outlive a stop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optsearch.bench.judging import Judge, Results
from optsearch.errors import FileError
from optsearch.evaluation import compete, learned, report_setup
from optsearch.optimizers import MLP, LearnedOptimizer
from optsearch.tasks import families_of


def test_the_judge_agrees_with_the_yardstick() -> None:
    design = LearnedOptimizer(rule=MLP(hidden_size=4))
    weights = design.init_weights(torch.Generator().manual_seed(0))
    found = Judge(horizon=20, num_seeds=4).log_losses(design, weights, ["quadratics"])
    (family,) = families_of(["quadratics"])
    contender = learned(design, weights)
    result = compete([contender], report_setup(family, 20, num_seeds=4))
    expected = result.relative_losses(contender.name).log().mean()
    assert found == {"quadratics": pytest.approx(float(expected), abs=2e-4)}


def test_results_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    results, calls = Results(tmp_path / "squares.json"), list[dict[str, Any]]()

    def square(row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] == 3 and len(calls) < 4:
            calls.append(row)
            raise KeyboardInterrupt
        calls.append(row)
        return {"square": row["number"] ** 2}

    asked = [{"number": number} for number in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        results.hold(asked, square, 1, quiet=True)
    assert len(json.loads(results.path.read_text())["runs"]) == 2
    with pytest.raises(KeyboardInterrupt):
        results.hold(asked, square, 1, quiet=True)
    found = results.hold([*asked[::-1], {"number": 5}], square, 1, quiet=True)
    assert [row["square"] for row in found] == [9, 4, 1, 25]
    assert [call["number"] for call in calls] == [1, 2, 3, 3, 3, 5]
    assert results.hold(asked, square, 1, quiet=True) == found[2::-1]


def test_a_foreign_file_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]")
    with pytest.raises(FileError, match="no results of a benchmark"):
        Results(path).read()
