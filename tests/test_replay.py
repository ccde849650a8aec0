"""The replay of a table: its designs have their own curves, the others curves like theirs, always the same."""

from dataclasses import replace
from unittest.mock import patch

import numpy
import pytest

from optsearch.bench import replay
from optsearch.bench.replay import LEAST_DESIGNS, Problem, problems
from optsearch.errors import FileError
from tests.toy_table import BUDGETS, FAMILIES, end_of, toy_table


@pytest.fixture(scope="module", autouse=True)
def few_random_designs():
    with patch.object(replay, "NUM_RANDOM", 500):
        yield


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems(toy_table(120))[0]


def test_every_family_is_a_problem_and_designs_of_the_table_have_their_own_curves(problem):
    assert [each.family for each in problems(problem.table)] == list(FAMILIES)
    for curve in problem.table.of("one"):
        found = problem.curve(problem.table.designs[curve.design])
        assert (found.values, found.failed_shares) == (curve.values, curve.failed_shares)
        assert found.budgets == BUDGETS[:len(curve.values)]
        assert found.is_final


def test_what_a_tabulated_design_is_worth_is_the_mean_of_its_meta_trainings(problem):
    once, twice = problem.expected([problem.table.designs[1], problem.table.designs[4]])
    assert once == pytest.approx(problem.table.of("one")[1].values)
    assert twice == pytest.approx(numpy.array(problem.table.of("one")[4].values) + 0.05)


def test_other_designs_answer_alike_in_every_process_and_whatever_was_asked_before(problem):
    points = problem.tree.sample(seed=9, count=5)
    first = [problem.curve(point) for point in points]
    fresh = Problem(problem.table, "one")
    assert [fresh.curve(point) for point in reversed(points)][::-1] == first
    assert len({curve.values for curve in first}) == 5


def test_other_designs_are_as_good_as_their_parameters_say(problem):
    points = problem.tree.sample(seed=9, count=200)
    ends = numpy.array([end_of(point, "one") for point in points])
    found = problem.expected(points)
    # Collapsed designs of the table are left with a value of long before their end.
    assert numpy.corrcoef(found[:, -1], ends)[0, 1] > 0.7
    assert problem.quality.rank_correlation > 0.5
    assert 0.3 < problem.quality.r2 < 1
    assert problem.quality.repeat_correlation == pytest.approx(1.0)


def test_random_designs_end_as_widely_as_those_of_the_table_and_there_are_better_ones(problem):
    ends = numpy.array([curve.values[-1] for curve in problem.table.of("one")])
    found = problem.expected(problem.tree.sample(seed=9, count=1000))[:, -1]
    levels = (0.1, 0.5, 0.9)
    assert numpy.quantile(found, levels) == pytest.approx(numpy.quantile(ends, levels), abs=0.15)
    assert found.min() < ends.min() + 0.05
    assert found[:100].min() > found.min()
    assert found.max() <= max(max(curve.values) for curve in problem.table.curves)


def test_chance_is_that_between_two_meta_trainings(problem):
    """The toy table's are 0.1 apart, so that one is half of it from what is expected, above or below."""
    points = problem.tree.sample(seed=9, count=40)
    expected = problem.expected(points)
    apart = [curve.values[0] - row[0] for curve, row in zip(map(problem.curve, points), expected, strict=True)]
    assert numpy.abs(apart) == pytest.approx(0.05, abs=1e-6)
    assert len({round(each, 3) for each in apart}) == 2


def test_some_designs_end_early_as_often_as_in_the_table(problem):
    lengths = [len(problem.curve(point).values) for point in problem.tree.sample(seed=3, count=200)]
    assert set(lengths) == {3, 5}
    assert 0.05 < lengths.count(3) / 200 < 0.25


def test_steps_per_second_are_those_of_the_table(problem):
    curves = [curve for curve in problem.table.curves if curve.family == "one"]
    spent = sum(BUDGETS[len(curve.values) - 1] for curve in curves)
    assert problem.steps_per_second == pytest.approx(spent / (2.0 * len(curves)))


def test_a_table_of_too_few_designs_is_one_line(problem):
    table = replace(problem.table, curves=problem.table.curves[:2 * LEAST_DESIGNS - 6])
    with pytest.raises(FileError, match="expected at least 10"):
        problems(table)
