"""The audit of forecasts on a table: what it says of curves whose ends are known to follow from their middle."""

import pytest
import torch
from scipy.stats import kendalltau

from optsearch.bench import prediction
from optsearch.bench.prediction import Unseen, audit_table, pruned_at
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.predictor import Forecast
from tests.toy_table import FAMILIES, toy_table

BUDGETS = (10, 20, 40, 80, 160)


@pytest.mark.slow
def test_straight_curves_are_ranked_almost_perfectly():
    table = toy_table(num_designs=40)
    found = audit_table(table)
    assert set(found["families"]) == set(FAMILIES)
    for part in ("0.25", "0.5"):
        assert found["mean"]["tau"][part] > 0.8
        for family in FAMILIES:
            seen = [curve.values[:BUDGETS.index(160 * float(part)) + 1][-1] for curve in table.of(family)]
            tau = kendalltau(seen, [curve.values[-1] for curve in table.of(family)]).statistic
            assert found["families"][family]["last_value_tau"][part] == pytest.approx(tau)
    # The second meta-training of every design is worse by the same.
    assert found["mean"]["ceiling"] == pytest.approx(1.0)
    assert 0 <= found["mean"]["compute_saved"]["0.01"] < 1


def unseen(chances):
    """Curves whose chance to be below the bar is `chances[budget][curve]`."""
    ends = torch.zeros(len(chances[0]), dtype=torch.float64)
    forecasts = [Forecast(-torch.special.ndtri(torch.tensor(row, dtype=torch.float64)), ends + 1, ends)
                 for row in chances]
    curves = [LearningCurve({"x": index}, BUDGETS[:3], (0.0,) * 3, (0.0,) * 3, True) for index in range(len(ends))]
    return Unseen(curves, BUDGETS[:3], forecasts, ends)


def test_a_curve_is_pruned_at_the_first_budget_at_which_its_chance_is_too_small():
    seen = unseen([[0.04, 0.5, 0.5], [0.04, 0.04, 0.5], [0.0, 0.0, 0.0]])
    assert pruned_at(seen, start=0.1, threshold=0.05) == [10, 20, None]
    assert pruned_at(seen, start=0.4, threshold=0.05) == [20, 20, None]
    assert pruned_at(seen, start=0.1, threshold=0.01) == [None, None, None]


def test_what_is_saved_and_what_is_lost_by_hand(monkeypatch):
    seen = unseen([[0.01, 0.5, 0.5], [0.01, 0.01, 0.5], [0.0, 0.0, 0.0]])
    found = prediction._pruning(seen, 0.1)
    assert found["compute_saved"] == pytest.approx(1 - (10 + 20 + 40) / 120)
    # All end alike: the first of them is the top, and it was pruned.
    assert found["false_prune"] == 1.0
