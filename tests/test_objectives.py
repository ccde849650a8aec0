"""Limits on what designs may cost, and studies of quality and costs, run by workers."""

import json
from dataclasses import dataclass, replace
from functools import partial

import optuna
import pytest
from command_line import call
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from toy_objective import Toy, finished, steps

from optsearch.errors import StudyError, TrialError
from optsearch.search import workers
from optsearch.search.costs import FLOPS, STATE_BYTES, Cost, CostBook, Limits, OverLimit
from optsearch.search.definition import StudyDefinition, define
from optsearch.search.forecasting.front_pruner import FrontPruner
from optsearch.search.forecasting.history import curves_of
from optsearch.search.objective import LearnedOptimizerObjective
from optsearch.search.objectives import front_of, quality_of
from optsearch.search.records import Records
from optsearch.search.recovery import chain_of, claim
from optsearch.search.spaces import load_space
from optsearch.search.storage import open_storage
from optsearch.search.study import Store, best_trial, summary
from optsearch.search.workers import run_slots

DEFINITION = define(space="all", tasks=["quadratics"], sampler="random", horizon=1000)


def run(toy, num_trials):
    return list(run_slots(toy, ["cpu", "cpu"], num_trials=num_trials))


def test_a_cost_is_held_against_each_limit():
    cost = Cost(300.0, 60.0)
    assert Limits(200.0, 80.0).excess(cost) == {FLOPS: 0.5, STATE_BYTES: -0.25}
    assert Limits(None, 60.0).excess(cost) == {STATE_BYTES: 0.0}
    assert Limits(None, 60.0).allow(cost)
    assert not Limits(200.0, 80.0).allow(cost)
    assert Limits().allow(cost)


def test_costs_are_those_of_the_design_and_counted_once(monkeypatch):
    space = load_space("all")
    study = optuna.create_study(sampler=RandomSampler(seed=3))
    trial = study.ask()
    design, _ = space.suggest(trial._suggest)
    book = CostBook(space)
    found = book.cost(trial.params)
    costs = design.costs()
    assert (found.flops, found.state_bytes) == (costs.flops_per_parameter, costs.state_bytes_per_parameter)
    monkeypatch.setattr(Cost, "of", pytest.fail)
    # How it is trained is no part of the design.
    assert book.cost(trial.params | {"meta_training.meta_lr": 0.5}) == found


def test_older_studies_have_no_limits_and_absurd_ones_are_refused(tmp_path):
    study = optuna.create_study()
    DEFINITION.write(study)
    old = {name: value for name, value in study.user_attrs["optsearch"].items() if not name.startswith("max_")}
    study.set_user_attr("optsearch", old)
    assert StudyDefinition.of(study).limits == Limits(None, None)
    with pytest.raises(StudyError, match=r"max_flops must be a positive number.*-1"):
        replace(DEFINITION, max_flops=-1.0)
    with pytest.raises(StudyError, match="front goes with the scheduler full"):
        replace(DEFINITION, pareto=True, scheduler="freeze-thaw")


@pytest.mark.parametrize(("limit", "is_over"), [(1.0, True), (1e9, False)])
def test_every_trial_has_its_constraints_and_one_over_a_limit_no_job(tmp_path, limit, is_over):
    store, definition = Store.at(f"sqlite:///{tmp_path}/s.db"), replace(DEFINITION, max_state_bytes=limit)
    study = store.create("s", definition)
    objective = LearnedOptimizerObjective("s", store.url, definition, [[1.0]], store.records)
    trial = claim(objective.study(), 1)
    if is_over:
        with pytest.raises(OverLimit, match=r"bytes per parameter, but the study allows 6000 FLOPs and 1 bytes"):
            objective.job(trial)
    else:
        assert objective.job(trial)["design"] == objective.job(trial)["design"]
    kept = study.trials[0]
    cost = Cost.kept(kept)
    assert kept.constraints == {FLOPS: cost.flops / 6000 - 1, STATE_BYTES: cost.state_bytes / limit - 1}
    assert (kept.constraints[STATE_BYTES] > 0) == is_over


@dataclass
class Half(Toy):
    """Designs that may cost no more than `limit`."""

    limit: float = 0.5
    num_steps: int = 2
    step_seconds: float = 0.0

    def job(self, trial):
        job = super().job(trial)
        Limits(self.limit).check(trial, Cost(job["x"], 1.0))
        return job | {"value": job["x"]}


def test_what_is_over_a_limit_is_never_trained_nor_counted(tmp_path):
    half = Half(tmp_path)
    events = run(half, 4)
    study = half.study()
    assert len(finished(study)) == 4
    assert all(trial.params["x"] <= 0.5 for trial in finished(study))
    skipped = [trial for trial in study.trials if trial.state is TrialState.FAIL]
    assert skipped
    assert all(trial.params["x"] > 0.5 and not trial.intermediate_values for trial in skipped)
    assert {event.trial for event in events if event.kind == "skipped"} == {trial.number for trial in skipped}
    counts = summary(study)
    assert (counts["over_limit"], counts["fail"], counts["duplicate"]) == (len(skipped), 0, 0)


def test_a_study_that_allows_nothing_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MAX_OVER_LIMIT_IN_A_ROW", 5)
    with pytest.raises(TrialError, match=r"5 designs in a row were over the limits.*allows 1e-09 FLOPs"):
        run(Half(tmp_path, limit=1e-9), 1)
    assert len(Half(tmp_path).study().trials) <= 10


def test_only_a_feasible_trial_is_the_best():
    study = optuna.create_study()
    study.add_trial(create_trial(value=-2.0, constraints={FLOPS: 0.1}))
    with pytest.raises(StudyError, match="no complete trial within its limits"):
        best_trial(study)
    study.add_trial(create_trial(value=-1.0, constraints={FLOPS: -0.1}))
    assert best_trial(study).number == 1
    assert summary(study)["best_value"] == -1.0


@dataclass
class Front(Toy):
    """Two objectives beside the value, both the size; a trial's curve is its value all along."""

    num_steps: int = 4

    @property
    def records(self):
        return Records(self.url)

    def study(self):
        pruner = FrontPruner(MedianPruner(n_startup_trials=1, n_warmup_steps=0),
                             partial(quality_of, records=self.records, step_of=int))
        return optuna.create_study(
            study_name="toy", storage=open_storage(self.url, heartbeat_seconds=1, grace_seconds=3),
            directions=["minimize"] * 3, load_if_exists=True, sampler=RandomSampler(seed=next(self.seeds)),
            pruner=pruner)

    def job(self, trial):
        job, size = super().job(trial), trial.suggest_int("size", 1, 3)
        Limits().check(trial, Cost(float(size), float(size)))
        return job | {"value": job["x"]}

    def point(self, trial, message):
        self.records.put_point(trial.study._study_id, chain_of(trial), message["step"],
                               message | {"point": message["step"], "failed_share": 0.0})
        return super().point(trial, message)

    def finish(self, trial, result, outcome):
        cost = Cost.kept(trial)
        return super().finish(trial, result, outcome), cost.flops, cost.state_bytes


def test_a_front_is_found_with_pruning_and_after_a_death(tmp_path):
    front = Front(tmp_path, killed=(0,))
    # One slot: the first trial is resumed before anything has ended that might prune it.
    events = list(run_slots(front, ["cpu"], num_trials=14))
    study = front.study()
    ended = finished(study)
    complete = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    pruned = [trial for trial in ended if trial.state is TrialState.PRUNED]
    assert len(ended) == 14
    assert pruned
    # What was pruned is no better than one that cost no more, so all of them together have the same front.
    points = {trial.number: (trial.params["x"], trial.params["size"]) for trial in ended}
    best = {number for number, (x, size) in points.items()
            if not any(other != (x, size) and other[0] <= x and other[1] <= size for other in points.values())}
    assert {trial.number for trial in front_of(study)} == best
    assert summary(study)["front"] == sorted(best, key=lambda number: points[number][0])
    assert summary(study)["best_value"] == min(trial.params["x"] for trial in complete)
    # The one that died went on where it was.
    (retry,) = [trial for trial in ended if trial.user_attrs.get("chain") == 0]
    assert retry.state is TrialState.COMPLETE
    assert [line[:6] for line in (tmp_path / "0.log").read_text().splitlines()] == ["from 0", "from 2"]
    assert [event.kind for event in events].count("retried") == 1
    assert not steps(retry)
    curves = {curve.params["x"]: curve for curve in curves_of(quality_of(study, front.records, int))}
    assert curves[retry.params["x"]].values == (retry.params["x"],) * 4
    assert curves[retry.params["x"]].is_final
    assert all(len(curves[trial.params["x"]].values) < 4 and not curves[trial.params["x"]].is_final
               for trial in pruned)


def test_a_front_is_shown_and_its_best_by_value_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/s.db")
    store = Store.at()
    study = store.create("s", replace(DEFINITION, pareto=True))
    distributions = {"x": FloatDistribution(0, 1)}
    for values in ([-0.5, 800.0, 24.0], [-0.2, 90.0, 16.0], [-0.1, 900.0, 16.0]):
        study.add_trial(create_trial(params={"x": 0.5}, distributions=distributions, values=values))
    study.add_trial(create_trial(state=TrialState.PRUNED, params={"x": 0.1}, distributions=distributions))
    assert study.metric_names == ["log relative loss", "FLOPs per parameter", "bytes per parameter"]
    assert best_trial(study).number == 0
    shown = call("study", "show", "s")
    lines = shown.stdout.splitlines()
    assert "best value -0.5000 of a front of 2" in lines[0]
    place = lines.index("front:")
    assert [line.split() for line in lines[place + 2:place + 4]] == [["0", "-0.5000", "800", "24"],
                                                                   ["1", "-0.2000", "90", "16"]]
    content = json.loads(call("study", "show", "s", "--json").stdout)
    assert content["front"] == [0, 1]
    assert content["trials"][1]["values"] == [-0.2, 90.0, 16.0]
    assert "front of 2" in call("study", "list").stdout
    assert call("study", "show", "s", "--predictor").returncode == 0
