"""Freeze-thaw: what is decided, and that no decision, kill or crowd of workers spoils what a study knows."""

import itertools
import json
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from command_line import call
from optuna.trial import TrialState
from toy_entry import PROCESSES
from units_entry import PHASES, value_after

from optsearch.errors import StudyError
from optsearch.search import workers
from optsearch.search.configs import configs_of, ended_chains, num_spent, paused_chains
from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.freeze_thaw import FreezeThaw, Rules, new_designs, worth
from optsearch.search.forecasting.halving import Halving
from optsearch.search.forecasting.standing import Standing, spent
from optsearch.search.ledger import Room, thawed_row
from optsearch.search.records import Records
from optsearch.search.recovery import chain_of, recover, take
from optsearch.search.storage import open_storage
from optsearch.search.study import Store
from optsearch.search.surrogate.tree import TreeSpace
from optsearch.search.thawing import Thawing
from optsearch.search.workers import run_slots

NUM_UNITS = 8
SPACE = """
[features]
groups = ["lean", "compact"]
[rule]
kind = ["mlp"]
[rule.mlp]
hidden_size = { low = 4, high = 8 }
[meta_training]
num_tasks = 2
meta_lr = { low = 1e-3, high = 1e-2, log = true }
"""
X = optuna.distributions.FloatDistribution(0, 1)


def forecast_of(means, deviation, divergence=0.0):
    mean = torch.tensor(means, dtype=torch.float64)
    return SimpleNamespace(mean=mean, deviation=torch.full_like(mean, deviation),
                           divergence=torch.full_like(mean, divergence))


@dataclass(frozen=True)
class Seer:
    """A predictor that knows every end, beside some noise."""

    deviation: float = 0.05
    trust = SimpleNamespace(is_earned=True)

    def forecast(self, curves):
        return forecast_of([value_after(curve.params["x"], NUM_UNITS) for curve in curves], self.deviation)


def seeing(curves):
    return Seer()


def blind(curves):
    raise ArithmeticError("nothing to be seen")


TREE = TreeSpace(lambda suggest: suggest("x", X), {"x": X})


def policy(fit, **rules):
    return FreezeThaw(NUM_UNITS, fit, partial(new_designs, TREE, 0), Rules(**rules))


def curve_after(x, unit, is_final=False):
    units = range(1, unit + 1)
    return LearningCurve({"x": x}, tuple(units), tuple(value_after(x, unit) for unit in units),
                         is_final=is_final or unit == NUM_UNITS)


def test_worth_is_expected_improvement_per_step():
    means, steps, best = [-0.3, 0.2, 1.0, 1.5], torch.tensor([1.0, 2.0, 8.0, 4.0]).double(), 0.1
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    normal = torch.exp(-grid.square() / 2) / (2 * torch.pi) ** 0.5
    expected = [torch.trapezoid((best - mean - 0.2 * grid).clamp(min=0) * normal, grid) for mean in means]
    found = worth(forecast_of(means, 0.2, 0.25), best, steps)
    torch.testing.assert_close(found, 0.75 * torch.stack(expected) / steps, rtol=1e-6, atol=1e-9)
    far = worth(forecast_of([float(z) for z in range(1, 30)], 1.0), 0.0, torch.ones(29).double())
    assert (far > 0).all()
    assert (far.diff() < 0).all()


def test_a_third_of_those_at_a_rung_go_on():
    xs = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2]
    curves = [curve_after(x, 1) for x in xs]
    halving = Halving(NUM_UNITS, patience=100)
    assert [halving.is_ahead(curves, index) for index in range(1, 6)] == [x <= 0.2 for x in xs[1:]]
    assert halving.promoted(curves, [2, 3, 5]) == 5
    assert halving.promoted(curves, [2, 4]) is None
    # The rung of 8 / 3 units counts as reached after 2.3.
    assert halving.goes_on([*curves, curve_after(0.95, 2)], 6)
    third = [*curves, curve_after(0.95, 3), *(curve_after(x, 3) for x in (0.1, 0.2, 0.4))]
    assert not halving.goes_on(third, 6)
    assert halving.goes_on([*third, curve_after(0.05, 3)], 10)


def test_some_go_to_the_highest_rung_whatever_their_values():
    halving = Halving(NUM_UNITS, patience=4)
    curves = [curve_after(x, 1) for x in (0.9, 0.1, 0.2, 0.3, 0.95, 0.4, 0.5, 0.6, 0.7)]
    assert [index for index in range(9) if halving.is_ahead(curves, index)] == [0, 1, 2, 3, 4, 8]
    assert halving.goes_on([curve_after(0.9, 2), *curves[1:]], 0)
    # What has been looked at there is compared as all others are.
    late = [curve_after(0.9, 3), *(curve_after(x, 3) for x in (0.1, 0.2, 0.3))]
    assert not halving.goes_on(late, 0)
    assert halving.goes_on([curve_after(0.05, 3), *late[1:]], 0)


def test_a_design_is_interrupted_only_for_something_much_better():
    known = [curve_after(x, NUM_UNITS) for x in (0.5, 0.6, 0.7)]
    standing = Standing([*known, curve_after(0.30, 4), curve_after(0.25, 4)], frozenset({3}), 1)
    stubborn = policy(seeing, hysteresis=1.3)
    fickle = policy(seeing, hysteresis=1.1)
    room = Standing(standing.curves, standing.running, 8)
    assert stubborn.goes_on(room, 3)
    assert not fickle.goes_on(room, 3)
    assert fickle.next(room.paused(3)) == 4
    assert fickle.goes_on(Standing(standing.curves, frozenset({4}), 8), 4)


def test_only_curves_that_have_changed_are_forecast_anew():
    asked = []

    class Counting(Seer):
        def forecast(self, curves):
            asked.extend(len(curve.values) for curve in curves)
            return super().forecast(curves)

    decisions = policy(lambda curves: Counting())
    known = [curve_after(x, NUM_UNITS) for x in (0.5, 0.6, 0.7)]
    paused = [curve_after(x, 2) for x in (0.01, 0.8, 0.9)]
    for _ in range(2):
        assert decisions.next(Standing([*known, *paused], frozenset(), 100)) == 3
    assert sorted(asked) == [*[0] * 64, 2, 2, 2]
    assert decisions.next(Standing([*known, curve_after(0.01, 3), *paused[1:]], frozenset(), 100)) == 3
    assert asked[-1] == 3
    assert len(asked) == 68


@pytest.mark.parametrize("fit", [seeing, blind])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_search_never_begins_what_it_can_not_end_and_ends_its_best(fit, num_workers):
    decisions, chance, limit = policy(fit), random.Random(num_workers), 20 * NUM_UNITS
    curves, running, used = [], set(), 0
    while True:
        standing = Standing(tuple(curves), frozenset(running), limit - used)
        assert standing.free(NUM_UNITS) >= 0
        if len(running) < num_workers and not decisions.is_over(standing):
            index = decisions.next(standing)
            if index is None:
                index = len(curves)
                curves.append(LearningCurve({"x": chance.random()}))
            assert index not in running
            running.add(index)
            continue
        if not running:
            break
        index = chance.choice(sorted(running))
        curves[index] = curve_after(curves[index].params["x"], spent(curves[index]) + 1)
        used += 1
        if curves[index].is_final or not decisions.goes_on(Standing(tuple(curves), frozenset(running), limit - used),
                                                           index):
            running.remove(index)
    assert limit - NUM_UNITS < used <= limit
    ends = [curve.params["x"] for curve in curves if curve.is_final]
    assert len(curves) > 25
    assert min(ends) == min(curve.params["x"] for curve in curves if spent(curve) >= NUM_UNITS / 2)
    if fit is seeing:
        assert min(ends) == min(curve.params["x"] for curve in curves)


class Spread(optuna.samplers.RandomSampler):
    """Good and bad points in turn, none twice."""

    def sample_independent(self, study, trial, param_name, param_distribution):
        return (0.5 + 0.618034 * trial.number) % 1


@dataclass
class Units:
    """An objective whose every unit of training leaves a trace."""

    directory: Path
    unit_seconds: float = 0.0
    kills: tuple = ()
    entry: str = "units_entry:train"

    def study(self):
        storage = open_storage(f"sqlite:///{self.directory}/a.db", heartbeat_seconds=1, grace_seconds=3)
        return optuna.create_study(study_name="units", storage=storage, load_if_exists=True, sampler=Spread())

    def job(self, trial):
        config = chain_of(trial)
        order = [config.chain for config in configs_of(trial.study)].index(config)
        return {"x": trial.suggest_float("x", 0, 1), "config": config, "order": order, "num_units": NUM_UNITS,
                "unit_seconds": self.unit_seconds, "kills": self.kills, "log": str(self.directory / "log"),
                "checkpoint": str(self.directory / f"{config}.json")}

    def fingerprint(self, job):
        return str(job["config"])

    def point(self, trial, message):
        return message["step"], message["value"]

    def finish(self, trial, result, outcome):
        trial.set_user_attr("artifacts", {"weights": f"of trial {trial.number}"})
        return result["value"]


def run(units, num_trials, num_slots=2, fit=blind):
    return list(run_slots(units, ["cpu"] * num_slots, num_trials=num_trials, schedule=Thawing(policy(fit))))


def check(units, num_trials):
    """What must be true of every study of freeze-thaw that has come to its end."""
    study, log = units.study(), [line.split() for line in (units.directory / "log").read_text().splitlines()]
    stored = Counter()
    for word, config, unit in log:
        assert not stored[config, unit], f"unit {unit} of config {config} {word} again"
        stored[config, unit] += word == "stored"
    configs = configs_of(study)
    for config in configs:
        curves = [trial.intermediate_values for trial in config.trials]
        assert all(set(before.items()) <= set(after.items()) for before, after in itertools.pairwise(curves))
        assert set(config.last.intermediate_values) == set(range(1, config.num_spent + 1))
        assert {trial.user_attrs["config_id"] for trial in config.trials} == {config.chain}
        # A kill may come before anything was suggested.
        assert len({tuple(trial.params.items()) for trial in config.trials if trial.params}) == 1
        assert sum(trial.state is TrialState.COMPLETE for trial in config.trials) <= 1
        is_complete = config.state is TrialState.COMPLETE
        assert is_complete == (config.num_spent == NUM_UNITS)
        assert not is_complete or config.last.value == value_after(config.last.params["x"], NUM_UNITS)
    assert sum(stored.values()) == sum(config.num_spent for config in configs) == num_spent(study)
    assert (num_trials - 1) * NUM_UNITS < num_spent(study) <= num_trials * NUM_UNITS
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    assert ended_chains(study) == {config.chain for config in configs if config.state is TrialState.COMPLETE}
    assert paused_chains(study) | ended_chains(study) == {config.chain for config in configs}
    return study


@pytest.mark.parametrize("fit", [seeing, blind])
def test_configs_are_paused_and_continued_and_no_finished_trial_changes(tmp_path, fit):
    units = Units(tmp_path)
    finished = {}
    events = []
    for event in run_slots(units, ["cpu", "cpu"], num_trials=6, schedule=Thawing(policy(fit))):
        events.append(event)
        if event.kind in ("finished", "paused"):
            finished[event.trial] = units.study().trials[event.trial]
    study = check(units, 6)
    assert all(study.trials[number] == trial for number, trial in finished.items())
    assert {trial.number for trial in study.trials} == set(finished)
    kinds = Counter(event.kind for event in events)
    # Who sees every end pauses only what is hopeless.
    assert kinds["thawed"] > 0 or fit is seeing
    assert kinds["paused"] == sum("paused" in trial.user_attrs for trial in study.trials)
    assert kinds["started"] == len(configs_of(study)) > 6
    assert kinds["reported"] == num_spent(study)
    for trial in study.trials:
        assert trial.user_attrs["artifacts"] == {"weights": f"of trial {trial.number}"}
        if "continues" in trial.user_attrs:
            assert study.trials[trial.user_attrs["continues"]].user_attrs["paused"]
    assert run(units, 6) == []
    more = run(units, 7, fit=fit)
    assert "reported" in {event.kind for event in more}
    check(units, 7)


def test_killed_training_loses_no_unit_and_repeats_none(tmp_path):
    # All begin with a unit and some are trained to their end; which ones depends on when those that were killed go on.
    places = (("any", 2), ("any", 4), ("any", 8), (0, 1), (2, 1), (3, 1))
    kills = [f"{config} {unit} {phase}" for (config, unit), phase in zip(places, 2 * PHASES, strict=True)]
    units = Units(tmp_path, kills=tuple(kills))
    events = run(units, 6)
    check(units, 6)
    assert {path.name for path in tmp_path.glob("killed *")} == {f"killed {name}" for name in kills}
    assert sum(event.kind == "retried" for event in events) == len(kills)


def run_and_die(directory, moment, countdown):
    """A worker that is killed at a moment, the `countdown`th time that it comes."""
    def fatal(function):
        calls = itertools.count(1)

        def call(*args, **options):
            if moment.startswith("before") and next(calls) == countdown:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **options)
            if moment.startswith("after") and next(calls) == countdown:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    owner, name = {"claim": (Thawing, "claim"), "decision": (Thawing, "goes_on"), "tell": (optuna.Study, "tell"),
                   "report": (optuna.Trial, "report"), "finish": (Units, "finish")}[moment.split()[1]]
    setattr(owner, name, fatal(getattr(owner, name)))
    run(Units(directory), 5)


def play(target, *args):
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode


MOMENTS = ["after claim", "before report", "after report", "before decision", "after decision", "before finish",
           "before tell"]


@pytest.mark.parametrize("moment", [*(pytest.param(each, marks=pytest.mark.slow) for each in MOMENTS), "after tell"])
def test_killed_workers_lose_no_unit_and_repeat_none(tmp_path, moment):
    assert play(run_and_die, tmp_path, moment, 3) == -signal.SIGKILL
    assert play(run_and_die, tmp_path, moment, 2) == -signal.SIGKILL
    before = {trial.number: trial for trial in Units(tmp_path).study().trials if trial.state.is_finished()}
    assert before
    run(Units(tmp_path), 5)
    study = check(Units(tmp_path), 5)
    assert all(study.trials[number] == trial for number, trial in before.items())


def run_on(directory, num_trials):
    run(Units(directory, unit_seconds=0.03), num_trials)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_processes_that_share_a_study_and_die_at_random(tmp_path, seed):
    chance = random.Random(seed)
    for _ in range(5):
        processes = [PROCESSES.Process(target=run_on, args=(tmp_path, 12)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(chance.uniform(0.5, 3))
            process.kill()
        for process in processes:
            process.join()
    run(Units(tmp_path), 12)
    check(Units(tmp_path), 12)


def thaw_together(directory, chain, barrier, counts):
    study = Units(directory).study()
    barrier.wait()
    taken = take(study, lambda session: thawed_row(study, session, Room(6, NUM_UNITS), chain))
    counts.put(taken is not None)
    barrier.wait()


def test_of_many_that_continue_a_config_one_does(tmp_path):
    units = Units(tmp_path)
    for event in run_slots(units, ["cpu"], num_trials=4, schedule=Thawing(policy(blind))):
        if event.kind == "paused":
            units.study().set_user_attr(workers.STOP, True)
    chain = min(paused_chains(units.study()))
    barrier, counts = PROCESSES.Barrier(3), PROCESSES.Queue()
    processes = [PROCESSES.Process(target=thaw_together, args=(tmp_path, chain, barrier, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sum(counts.get(timeout=60) for _ in processes) == 1
    for process in processes:
        process.join()
    study = units.study()
    assert [trial.state.name for trial in study.trials if chain_of(trial) == chain] == ["PRUNED", "RUNNING"]
    paused, successor = (trial for trial in study.trials if chain_of(trial) == chain)
    assert (successor.params, successor.intermediate_values) == (paused.params, paused.intermediate_values)
    assert successor.user_attrs["continues"] == paused.number
    assert not {"paused", "artifacts"} & set(successor.user_attrs)
    assert recover(study) == [successor.number + 1]
    assert take(study, lambda session: thawed_row(study, session, Room(6, NUM_UNITS), chain)) is None


def test_a_config_that_always_dies_is_given_up_and_the_rest_goes_on(tmp_path):
    class Doomed(Units):
        def point(self, trial, message):
            if chain_of(trial) == 1:
                raise ArithmeticError("no luck")
            return super().point(trial, message)

    run(Doomed(tmp_path), 4)
    study = Units(tmp_path).study()
    assert 1 in ended_chains(study)
    assert 1 not in paused_chains(study)
    assert "COMPLETE" in {config.state.name for config in configs_of(study)}


@pytest.mark.slow
def test_a_study_by_command_keeps_the_checkpoints_of_what_is_paused_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    Path("small.toml").write_text(SPACE)
    made = call("study", "create", "ice", "--space", "small.toml", "--task", "quadratics", "--horizon", "40",
                "--budget", "1600", "--scheduler", "freeze-thaw", "--sampler", "random")
    assert made.returncode == 0, made.stderr
    ran = call("study", "run", "ice", "--trials", "3", "--workers", "1", "--json")
    assert ran.returncode == 0, ran.stderr
    assert " paused after " in ran.stderr
    store = Store.at()
    study, counts = store.load("ice"), json.loads(ran.stdout)
    paused = paused_chains(study)
    assert counts["paused"] == len(paused) > 0
    assert counts["complete"] == len(ended_chains(study)) > 0
    assert counts["pruned"] == counts["fail"] == counts["running"] == counts["waiting"] == 0
    folder = store.places.study_folder(study._study_id)
    assert {int(path.parts[-3]) for path in folder.glob("*/checkpoints/*")} == paused
    for config in configs_of(study):
        points = Records(store.url).curve(study._study_id, config.chain).values()
        assert [StudyDefinition.of(study).step(point["point"]) for point in points] == list(
            config.last.intermediate_values)
    for trial in study.trials:
        for identifier in trial.user_attrs["artifacts"].values():
            assert (store.places.artifacts / identifier).exists()
    assert call("study", "show", "ice").returncode == 0
    assert call("export", "ice", "-o", "best.safetensors").returncode == 0


def test_a_study_of_before_trains_whole_trials():
    study = optuna.create_study()
    study.set_user_attr("optsearch", {"space": "all", "space_text": "", "tasks": ["quadratics"]})
    assert StudyDefinition.of(study).scheduler == "full"
    with pytest.raises(StudyError, match=r"no scheduler 'thaw'.*full, freeze-thaw"):
        StudyDefinition(space="all", space_text="", tasks=("quadratics",), scheduler="thaw")
