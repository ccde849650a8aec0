"""The benchmark of searchers: what is spent is counted, figures are what they are said to be, no run is made twice."""

import json
import math
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace

import numpy
import optuna
import pytest
from matplotlib.image import imread
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from optsearch.bench import replay, search
from optsearch.bench.regret import Regret, Scale, average_ranks, mean_of, regret_of, times_until, trial_equivalents
from optsearch.bench.search_page import count_in_words, search_tables, write_search
from optsearch.bench.searchers import METHODS, asking, run_trial
from optsearch.bench.spending import Spending
from optsearch.errors import FileError, UsageError
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import TreeSpace
from tests.command_line import call
from tests.toy_table import FAMILIES, toy_table

AUDIT = {"mean": {"tau": {"0.1": 0.5, "0.25": 0.6, "0.5": 0.7}, "last_value_tau": {"0.1": 0.4, "0.25": 0.5, "0.5": 0.6},
                  "coverage_90": {"0.1": 0.8, "0.25": 0.9, "0.5": 1.0}, "false_prune": {"0.01": 0.3, "0.1": 0.02},
                  "compute_saved": {"0.01": 0.7, "0.1": 0.4}}}
PREDICTOR = {"tau": {"10": 0.5, "25": 0.6, "50": 0.7}, "last_value_tau": {"10": 0.4, "25": 0.5, "50": 0.6},
             "coverage_90": 0.9, "false_prune": 0.3, "compute_saved": 0.7}


@dataclass
class Worsening:
    """A problem whose first design is the best, each later one worse by 1; every value is the design's end."""

    budgets: tuple[int, ...] = (1, 3, 9)
    ends_at: int = 9
    asked: list[float] = field(default_factory=list)
    family = "worsening"

    @property
    def table(self):
        return SimpleNamespace(budgets=self.budgets)

    @property
    def budget(self):
        return self.budgets[-1]

    @property
    def encoding(self):
        return Encoding(TreeSpace.of(lambda suggest: suggest("x", FloatDistribution(0.0, 1.0))))

    @property
    def tree(self):
        return self.encoding.tree

    def curve(self, params):
        if params["x"] not in self.asked:
            self.asked.append(params["x"])
        budgets = tuple(step for step in self.budgets if step <= self.ends_at)
        value = float(self.asked.index(params["x"]))
        return LearningCurve(params, budgets, (value,) * len(budgets), (0.0,) * len(budgets), is_final=True)

    def expected(self, points):
        return numpy.array([[10.0 + self.asked.index(point["x"])] * len(self.budgets) for point in points])


def searched(pruner, limit, problem=None):
    spending = Spending(problem or Worsening(), limit)
    asking(lambda _, seed: (RandomSampler(seed=seed), pruner))(spending, 0)
    return spending


def test_whole_trials_cost_a_whole_budget_and_early_ends_what_they_took():
    whole = searched(NopPruner(), 4)
    assert (whole.steps, len(whole.resting)) == (36, 4)
    early = searched(NopPruner(), 4, Worsening(ends_at=3))
    assert (early.steps, len(early.resting)) == (36, 12)
    # The best is the first, and is worth 10 without chance.
    assert [(point.steps, point.value) for point in whole.trace] == [(9, 10.0)]


def test_trials_of_hyperband_cost_what_their_brackets_let_them_train():
    """Brackets prune at 1, at 3 and never; the first of each is its best, and goes on to the end."""
    spending, pruner = Spending(Worsening(), 15), HyperbandPruner(1, 9, 3)
    study = optuna.create_study(sampler=RandomSampler(seed=0), pruner=pruner)
    while not spending.is_over:
        run_trial(study, spending)
    costs, seen = {0: 1, 1: 3, 2: 9}, set()
    for trial in study.get_trials():
        bracket = pruner._get_bracket_id(study, trial)
        assert trial.last_step == (9 if bracket not in seen else costs[bracket])
        seen.add(bracket)
    assert seen == set(costs)
    assert spending.steps == sum(trial.last_step for trial in study.get_trials())
    assert 15 * 9 <= spending.steps < 16 * 9
    assert TrialState.PRUNED in {trial.state for trial in study.get_trials()}


def test_designs_count_once_they_were_trained_to_their_end():
    problem = Worsening()
    first, second = ({"x": 0.1}, {"x": 0.2})
    spending = Spending(problem, 10)
    problem.curve(first)
    spending.rest(1, problem.curve(second).until(1))
    spending.train(0, 5)
    spending.rest(0, problem.curve(first))
    spending.rest(0, LearningCurve(first, (1, 3, 9), (0.0, 0.0, 5.0), (), True))
    spending.rest(1, LearningCurve(second, (1, 3, 9), (0.0, 0.0, 4.0), (), True))
    assert [(point.steps, point.value) for point in spending.trace] == [(5, 10.0), (5, 11.0)]


@pytest.mark.parametrize(("count", "reports"), [(3, 3), (12, 12), (13, 12), (24, 12), (25, 12), (40, 10)])
def test_there_are_few_reports_spread_over_all_budgets_to_the_last(count, reports):
    found = Spending(Worsening(tuple(range(1, count + 1))), 1).reports
    assert (len(found), found[-1]) == (reports, count)
    assert found[0] <= max(4, count // 6)


def test_a_searcher_sees_values_at_reports_alone():
    budgets = tuple(range(1, 26))
    spending = Spending(Worsening(budgets), 1)
    values = tuple(map(float, budgets))
    curve = LearningCurve({"x": 0.1}, budgets, values, values, is_final=True)
    seen = spending.seen(curve, spending.reports[4])
    assert (seen.budgets, seen.is_final) == (spending.reports[:5], False)
    assert seen.values == seen.failed_shares == tuple(map(float, spending.reports[:5]))
    assert spending.seen(curve, 25).is_final


def test_regret_over_time_by_hand():
    row = {"trace": [[50, 0.0, 4.0], [100, 2.0, 1.0], [300, 4.0, 2.0]], "budget": 100, "steps_per_second": 25.0}
    scale = Scale(best=0.0, worst=4.0)
    timed, bare = regret_of(row, scale), regret_of(row, scale, counts_seconds=False)
    assert timed == Regret((0.5, 1.5, 4.0), (1.0, 0.25, 0.5))
    assert bare.times == (0.5, 1.0, 3.0)
    assert bare.at([0.1, 0.9, 1.0, 2.9, 50]).tolist() == [1.0, 1.0, 0.25, 0.25, 0.5]
    # At or below 0.3 it was, but did not stay.
    assert (bare.time_to(0.5), bare.time_to(0.3)) == (1.0, math.inf)
    assert scale.regret(7.0) == 1.0


def test_families_are_pooled_at_every_time_that_one_changes():
    found = mean_of([Regret((1.0, 3.0), (0.5, 0.1)), Regret((2.0,), (0.2,))])
    assert found.times == (1.0, 2.0, 3.0)
    assert found.values == pytest.approx((0.75, 0.35, 0.15))


def test_trial_equivalents_by_hand():
    """The median seed of random search ends at 0.2; seeds that don't come there count as the limit."""
    random = [Regret((1.0, time), (0.9, end)) for time, end in ((10.0, 0.3), (20.0, 0.2), (30.0, 0.1))]
    other = [Regret((time,), (0.15,)) for time in (2.0, 4.0)] + [Regret((1.0,), (0.5,))]
    found = trial_equivalents({"random": random, "other": other}, "random", {"random": 100.0, "other": 50.0})
    assert (found["random"].median, found["random"].num_censored) == (30.0, 1)
    assert (found["other"].median, found["other"].low, found["other"].num_censored) == (4.0, 3.0, 1)
    assert found["other"].high == 27.0
    words = {name: count_in_words(vars(count)) for name, count in found.items()}
    assert words["other"] == "4.0 (3.0..>= 27.0), 1 of 3 not"


def test_ranks_are_shared_and_averaged_over_seeds():
    """At 1 nothing has been found by b; at 5 the first seeds tie and the second's b is ahead."""
    regrets = {"a": [Regret((1.0,), (0.5,)), Regret((1.0,), (0.5,))],
               "b": [Regret((2.0,), (0.5,)), Regret((2.0,), (0.1,))]}
    found = average_ranks(regrets, [1.0, 5.0])
    assert found["a"].tolist() == [1.0, 1.75]
    assert found["b"].tolist() == [2.0, 1.25]
    assert times_until(100.0)[[0, -1]].tolist() == pytest.approx([1.0, 100.0])


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The path of a toy table, and the audit of the predictor already made."""
    audit = ModuleType("optsearch.bench.prediction")
    audit.audit_table = lambda table: AUDIT
    monkeypatch.setitem(sys.modules, audit.__name__, audit)
    monkeypatch.setattr(replay, "NUM_RANDOM", 100)
    toy_table(40).save(tmp_path / "table.json.gz")
    return tmp_path / "table.json.gz"


def test_runs_are_made_once_and_are_the_same_every_time(table, tmp_path):
    comparison = search.Comparison(table, ("random", "tpe_hyperband"), num_seeds=2, num_trials=2, num_random=50)
    path = tmp_path / "out" / "search.json"
    rows = search.compare(comparison, path, 1, quiet=True)
    assert [(row["method"], row["family"], row["seed"]) for row in rows] == [
        (method, family, seed) for seed in (0, 1) for method in comparison.methods for family in FAMILIES]
    assert all(2 * 160 <= row["steps"] < 3 * 160 for row in rows)
    again = search.compare(comparison, None, 1, quiet=True)
    without_time = [[(steps, value) for steps, _, value in row["trace"]] for row in rows]
    assert [[(steps, value) for steps, _, value in row["trace"]] for row in again] == without_time
    kept = json.loads(path.read_text())["runs"]
    path.write_text(json.dumps({"runs": kept[1:]}))
    written = [(row["method"], row["seed"], row["family"]) for row in kept[1:]]
    search.compare(comparison, path, 1, quiet=True)
    # Only what was missing is new, at the end.
    assert [(row["method"], row["seed"], row["family"]) for row in json.loads(path.read_text())["runs"]] == [
        *written, ("random", 0, "one")]


def test_other_tables_and_lengths_are_other_runs_and_foreign_files_are_left_alone(table, tmp_path):
    comparison = search.Comparison(table, ("random",), num_seeds=1, num_trials=2, num_random=50)
    path = tmp_path / "search.json"
    search.compare(comparison, path, 1, quiet=True)
    search.compare(search.Comparison(table, ("random",), 1, 3, 50), path, 1, quiet=True)
    assert len(search.read(path)) == 4
    toy_table(41).save(table)
    search.compare(comparison, path, 1, quiet=True)
    assert len(search.read(path)) == 6
    path.write_text("mine")
    with pytest.raises(FileError, match="holds no runs"):
        search.compare(comparison, path, 1, quiet=True)
    assert path.read_text() == "mine"


def test_the_command_prints_one_json_object_and_writes_a_page(table, tmp_path):
    words = ("bench", "search", "--table", str(table), "--method", "tpe", "--quick")
    result = call(*words, "--workers", "1", "--output", str(tmp_path / "out"), "--json")
    assert not result.returncode, result.stderr
    content = json.loads(result.stdout)
    assert {"trial_equivalents", "predictor", "table", "families", "regret", "rank"} <= set(content)
    assert set(content["trial_equivalents"]) == {"random", "tpe"}
    assert {"median", "low", "high"} <= set(content["trial_equivalents"]["tpe"])
    assert content["predictor"] == PREDICTOR
    assert content["table"] == {"path": str(table), "curves": 100, "designs": 40, "budget": 160}
    page, picture = (tmp_path / "out" / f"search.{kind}" for kind in ("md", "png"))
    assert "Optuna's TPE" in page.read_text()
    assert imread(picture).shape[0] > 200
    assert all(0 <= low <= high <= 1 for low, _, high in zip(*content["regret"]["tpe"], strict=True))


def test_pages_say_what_is_not_known(tmp_path, table):
    comparison = search.Comparison(table, ("random",), num_seeds=1, num_trials=2, num_random=20)
    content = search.summary(comparison, search.compare(comparison, None, 1, quiet=True))
    content["families"]["one"]["repeat_correlation"] = None
    methods, predictor, problems = search_tables(content)
    assert [line[0] for line in methods.rows] == ["random"]
    assert predictor.rows[0] == ("10 %", "0.50", "0.40")
    assert problems.rows[0][3] == "-"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="--output"):
        write_search(content, tmp_path / "file")


def test_costly_methods_end_earlier_and_count_as_never_there(tmp_path, table, monkeypatch):
    monkeypatch.setitem(METHODS, "tpe", replace(METHODS["tpe"], is_costly=True))
    comparison = search.Comparison(table, ("random", "tpe"), num_seeds=2, num_trials=8, num_costly=3, num_random=20)
    rows = search.compare(comparison, None, 1, quiet=True)
    assert {(row["method"], row["num_trials"]) for row in rows} == {("random", 8), ("tpe", 3)}
    assert max(row["steps"] for row in rows if row["method"] == "tpe") < 4 * 160
    content = search.summary(comparison, rows)
    assert all((value is None) == (time > 3) for time, value in zip(content["budgets"], content["regret"]["tpe"][1],
                                                                   strict=True))
    assert None not in content["regret"]["random"][1]
    assert content["rank"]["random"].count(None) == content["rank"]["tpe"].count(None) > 0
    write_search(content, tmp_path)
    (tpe,) = [line for line in search_tables(content)[0].rows if line[0] == "tpe"]
    assert tpe[7] == "-"
    assert tpe[9] == "3"


def test_what_does_not_exist_is_one_line(table, tmp_path):
    assert call("bench", "search", "--table", str(table), "--method", "magic").stderr == (
        f"optsearch: there is no method 'magic'. Methods: {', '.join(METHODS)}.\n")
    missing = call("bench", "search", "--table", str(tmp_path / "none.gz"), "--quick")
    assert missing.returncode == 1
    assert "optsearch bench table" in missing.stderr
    with pytest.raises(UsageError, match="must include random"):
        search.Comparison(table, ("tpe",))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_searches_and_spends_what_was_asked_for(table, method):
    comparison = search.Comparison(table, ("random", method), num_seeds=1, num_trials=14, num_random=50)
    for row in search.compare(comparison, None, 1, quiet=True):
        # Freeze-thaw begins nothing that it couldn't end.
        assert 13 * 160 <= row["steps"] < 15 * 160
        assert row["trace"]
