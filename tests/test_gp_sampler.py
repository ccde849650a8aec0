"""The sampler of conditional spaces: Optuna's own tests of samplers, what it makes of trials, and how far it gets."""

import pickle
import time
from statistics import median

import conditional_function
import numpy
import optuna
import pytest
from conditional_function import objective, true_value
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState, create_trial

from optsearch.optimizers import named_design
from optsearch.search import gp_sampler
from optsearch.search.definition import define
from optsearch.search.gp_sampler import ConditionalGPSampler
from optsearch.search.rows import trial_suggest
from optsearch.search.samplers import make_sampler
from optsearch.search.spaces import load_space
from optsearch.search.surrogate import acquisition
from optsearch.search.surrogate.history import history
from optsearch.search.surrogate.tree import TreeSpace

TREE = conditional_function.tree()
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
FLAT = TreeSpace.flat({name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")})


class TestAsOptunaDoes(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, monkeypatch):
        # These tests look at what may be suggested, not at how good it is.
        monkeypatch.setattr(acquisition, "NUM_CANDIDATES", 4)
        monkeypatch.setattr(acquisition, "NUM_STEPS", 2)
        return lambda: ConditionalGPSampler(num_startup_trials=4, seed=0)


def study_of(sampler, values, tree=FLAT, direction="minimize"):
    """A study with random points of the tree, with these values."""
    study = optuna.create_study(sampler=sampler, direction=direction)
    for point, value in zip(tree.sample(seed=0, count=len(values)), values, strict=True):
        study.add_trial(trial_of(point, tree, value=value))
    return study


def trial_of(point, tree=FLAT, **kwargs):
    return create_trial(params=point, distributions={name: tree.distributions[name] for name in point}, **kwargs)


def ask(study, tree=FLAT):
    trial = study.ask()
    tree.walk(trial._suggest)
    return trial


def bowl(tree, count, sign=1):
    return [sign * sum((value - 0.5) ** 2 for value in point.values()) for point in tree.sample(seed=0, count=count)]


@pytest.mark.usefixtures("nothing_at_random")
def test_a_trial_asks_one_point_of_the_tree_and_no_point_twice():
    study = optuna.create_study(sampler=ConditionalGPSampler(TREE, num_startup_trials=5, seed=1))
    study.optimize(objective, n_trials=7)
    for trial in study.trials:
        assert TREE.complete(trial.params, pytest.fail) == trial.params
    assert [trial.user_attrs["sampler"] for trial in study.trials] == ["startup"] * 5 + ["gp"] * 2
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 7


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_it_finds_the_bottom_of_a_bowl(direction, sign):
    study = study_of(ConditionalGPSampler(FLAT, seed=0), bowl(FLAT, 15, sign), direction=direction)
    for _ in range(4):
        trial = ask(study)
        study.tell(trial, sign * sum((value - 0.5) ** 2 for value in trial.params.values()))
    assert abs(study.best_value) < 0.002


def test_the_same_history_and_seed_suggest_the_same_also_when_pickled():
    samplers = (ConditionalGPSampler(FLAT, seed=3), pickle.loads(pickle.dumps(ConditionalGPSampler(FLAT, seed=3))),
                ConditionalGPSampler(FLAT, seed=4))
    found = [ask(study_of(sampler, bowl(FLAT, 12))).params for sampler in samplers]
    assert found[0] == found[1] != found[2]
    sampler = ConditionalGPSampler(FLAT, seed=3)
    ask(study_of(sampler, bowl(FLAT, 12)))
    sampler.reseed_rng()
    assert ask(study_of(pickle.loads(pickle.dumps(sampler)), bowl(FLAT, 12))).params != found[0]


@pytest.mark.usefixtures("nothing_at_random")
def test_what_is_under_way_pushes_the_next_suggestion_away():
    def second(is_seen):
        study = study_of(ConditionalGPSampler(FLAT, seed=0), bowl(FLAT, 15))
        first = study.ask()
        if is_seen:
            # Suggested, and told to others, before anything is asked of it.
            first.relative_params  # noqa: B018
        one = numpy.array(list(ask(study).params.values()))
        return one, numpy.array([first._suggest(name, each) for name, each in FLAT.distributions.items()])

    (pushed, first), (alone, _) = second(True), second(False)
    assert numpy.linalg.norm(pushed - first) > 2 * numpy.linalg.norm(alone - first)


def pruned(point, last, step=1):
    return trial_of(point, state=TrialState.PRUNED, intermediate_values={step: last}, value=last)


def test_pruned_trials_count_as_forecast():
    best = {"x": 0.9, "y": 0.1}

    def suggested(forecast):
        study = study_of(ConditionalGPSampler(FLAT, seed=0, forecasts=lambda study: forecast), bowl(FLAT, 12))
        study.add_trial(pruned(best, 5.0))
        return numpy.array([*ask(study).params.values()]) - [0.9, 0.1]

    assert numpy.linalg.norm(suggested({12: (-3.0, 0.01)})) < 0.2
    assert numpy.linalg.norm(suggested({12: (3.0, 0.01)})) > 0.3
    assert numpy.linalg.norm(suggested({})) > 0.3


def test_without_forecasts_pruned_trials_end_as_others_went_on():
    """Three fell by 1, which counts as three of seven: the other four, made up, fell by nothing."""
    study = optuna.create_study()
    for point, end in zip(FLAT.sample(seed=0, count=3), (1.0, 2.0, 6.0), strict=True):
        study.add_trial(trial_of(point, value=end, intermediate_values={1: end + 2.0, 3: end + 1.0, 5: end}))
    study.add_trial(pruned({"x": 0.2, "y": 0.2}, 4.0, step=4))
    study.add_trial(trial_of({"x": 0.3, "y": 0.3}, state=TrialState.PRUNED))
    study.add_trial(trial_of({"x": 0.4, "y": 0.4}, state=TrialState.FAIL))
    study.add_trial(trial_of({"x": 0.5, "y": 0.5}, value=float("inf")))
    known = history(study, FLAT, current=99)
    assert known.values == (1.0, 2.0, 6.0, pytest.approx(4.0 - 3 / 7), 6.0)
    # The middle half of the ends, 1 2 6, is 2.5 apart, the values at the same step less.
    assert known.deviations == (0.0, 0.0, 0.0, pytest.approx((4 / 7) ** 0.5 * 2.5 / 3), 0.0)
    assert len(known.tried) == 6
    assert not known.pending
    assert history(study, FLAT, current=99, forecasts=lambda study: {3: (7.0, 0.5)}).values[3] == 7.0


def test_what_came_half_the_way_tells_about_that_half():
    """Two stretches, 1 to 3 and 3 to the end, each with its own moves: 3 that fell by 1, and 2 that fell by 4."""
    study = optuna.create_study()
    points = FLAT.sample(seed=0, count=6)
    study.add_trial(pruned(points[0], 10.0))
    study.add_trial(trial_of(points[1], state=TrialState.PRUNED, intermediate_values={1: 9.0, 3: 8.0}))
    for point in points[2:4]:
        study.add_trial(trial_of(point, value=4.0, intermediate_values={1: 9.0, 3: 8.0, 5: 4.0}))
    known = history(study, FLAT, current=99)
    assert known.values == (pytest.approx(10 - 3 / 7 - 4 * 2 / 6), pytest.approx(8 - 4 * 2 / 6), 4.0, 4.0)
    assert known.deviations == (pytest.approx(((4 / 7) * (0.25 / 3) ** 2) ** 0.5), 0.0, 0.0, 0.0)
    assert known.share == pytest.approx((3 + 5) / 2 / 5)


def test_a_model_is_asked_once_for_many_trials_that_are_stopped_early(monkeypatch):
    from optsearch.search.surrogate import process

    asked = []
    fit = process.fit
    monkeypatch.setattr(process, "fit", lambda *args: asked.append(1) or fit(*args))
    study = study_of(ConditionalGPSampler(FLAT, seed=0), [])
    for point, value in zip(FLAT.sample(seed=0, count=12), bowl(FLAT, 12), strict=True):
        study.add_trial(pruned(point, value, step=2))
    study.add_trial(trial_of({"x": 0.1, "y": 0.1}, value=1.0, intermediate_values={2: 1.0, 50: 1.0}))
    suggested = []
    for _ in range(8):
        trial = study.ask()
        FLAT.ask(trial)
        suggested.append(tuple(trial.params.values()))
        trial.report(1.0, 2)
        study.tell(trial, state=TrialState.PRUNED)
    assert len(asked) == 1
    assert [trial.user_attrs["sampler"] for trial in study.trials[13:]] == [*2 * ("gp", "gp", "random"), "gp", "gp"]
    assert len(set(suggested)) == 8
    near, far = ([numpy.subtract(each, 0.5) for each in group] for group in (
        [suggested[index] for index in (0, 1, 3, 4, 6, 7)], suggested[2::3]))
    assert numpy.linalg.norm(near, axis=1).max() < 0.4 < numpy.linalg.norm(far, axis=1).max()


def test_what_was_paused_and_went_on_counts_once():
    study = optuna.create_study()
    for value in (4.0, 3.0):
        study.add_trial(pruned({"x": 0.2, "y": 0.2}, value))
    study.add_trial(pruned({"x": 0.7, "y": 0.7}, 5.0))
    study.add_trial(trial_of({"x": 0.7, "y": 0.7}, value=1.0))
    assert history(study, FLAT, current=99).values == (3.0, 1.0)


def test_a_model_that_fails_leaves_the_trial_to_tpe(monkeypatch):
    from optsearch.search.surrogate import process

    def broken(*args, **kwargs):
        raise RuntimeError("cholesky:\n not positive")

    monkeypatch.setattr(process, "fit", broken)
    study = optuna.create_study(sampler=ConditionalGPSampler(TREE, num_startup_trials=3, seed=0))
    study.optimize(objective, n_trials=5)
    assert study.trials[-1].user_attrs["sampler"] == "fallback: RuntimeError: cholesky: not positive"
    assert study.trials[-1].state is TrialState.COMPLETE


@pytest.mark.usefixtures("nothing_at_random")
def test_where_all_was_tried_tpe_suggests():
    coin = TreeSpace.flat({"side": optuna.distributions.CategoricalDistribution(["heads", "tails"])})
    study = study_of(ConditionalGPSampler(coin, num_startup_trials=2, seed=0), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0], coin)
    ask(study, coin)
    assert "tried" in study.trials[-1].user_attrs["sampler"]


def test_it_is_told_of_trials_of_other_processes(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    study = study_of(ConditionalGPSampler(FLAT, seed=0), [])
    study = optuna.create_study(storage=storage, study_name="s", sampler=ConditionalGPSampler(FLAT, seed=0))
    params = study.ask().relative_params
    assert history(optuna.load_study(storage=storage, study_name="s"), FLAT, current=1).pending == (params,)


def test_the_start_is_spread():
    def nearest(spread):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gp_sampler, "NUM_SPREAD", spread)
            study = optuna.create_study(sampler=ConditionalGPSampler(FLAT, num_startup_trials=20, seed=0))
            points = numpy.array([[*ask(study).params.values()] for _ in range(20)])
        gaps = numpy.linalg.norm(points[:, None] - points, axis=-1) + 9 * numpy.eye(20)
        return gaps.min()

    assert nearest(gp_sampler.NUM_SPREAD) > 1.5 * nearest(1)


def best_after(make, num_trials, seed):
    study = optuna.create_study(sampler=make(seed))
    study.optimize(objective, n_trials=num_trials)
    assert not [trial for trial in study.trials if "fallback" in trial.user_attrs.get("sampler", "")]
    return true_value(study.best_params)


@pytest.mark.slow
def test_it_is_ahead_where_private_parameters_work_together_with_shared_ones():
    found = {name: median(best_after(make, 60, seed) for seed in range(5)) for name, make in {
        "ours": lambda seed: ConditionalGPSampler(TREE, seed=seed),
        "tpe": lambda seed: TPESampler(seed=seed),
        "group": lambda seed: TPESampler(multivariate=True, group=True, seed=seed),
        "gp": lambda seed: GPSampler(seed=seed),
        "random": lambda seed: RandomSampler(seed=seed)}.items()}
    assert found["ours"] < 0.5 * min(each for name, each in found.items() if name != "ours")


@pytest.mark.slow
def test_a_suggestion_takes_seconds_with_three_hundred_trials_of_the_largest_space():
    space = load_space("all")
    tree = TreeSpace.of(space.suggest)
    values = numpy.random.default_rng(0).standard_normal(300).tolist()
    sampler = ConditionalGPSampler(tree, to_graph=lambda point: space.suggest(lambda name, _: point[name])[0].graph(),
                                   seed=0)
    study, seconds = study_of(sampler, values, tree), []
    while len(seconds) < 4:
        start = time.process_time()
        trial = study.ask()
        tree.walk(trial._suggest)
        if (how := study.trials[-1].user_attrs["sampler"]) != "random":
            assert how == "gp"
            seconds.append(time.process_time() - start)
        study.tell(trial, float(len(seconds)))
    # The first one also draws the graphs of all trials.
    assert median(seconds[1:]) < 5


def test_known_points_come_first_and_none_twice_even_where_they_fail():
    known = TREE.sample(seed=1, count=3)
    study = optuna.create_study(sampler=ConditionalGPSampler(TREE, num_startup_trials=5, known=known, seed=0))
    for number in range(7):
        trial = study.ask()
        TREE.ask(trial)
        study.tell(trial, None if number == 1 else float(number), state=TrialState.FAIL if number == 1 else None)
    assert [trial.params for trial in study.trials[:3]] == known
    hows = [trial.user_attrs["sampler"] for trial in study.trials]
    assert hows[:6] == ["known"] * 3 + ["startup"] * 3
    assert hows[6] in ("gp", "random")


def test_a_search_of_everything_begins_with_named_designs():
    definition = define(space="all", tasks=["quadratics"], pruner="none")
    sampler = make_sampler(definition, 0, optuna.pruners.NopPruner())
    space, study = definition.parsed_space(), optuna.create_study(sampler=sampler)
    found = [space.suggest(trial_suggest(study.ask())) for _ in range(4)]
    names = ("soap_gru", "soap_linear", "muon_linear", "muon_spectral")
    assert [design.fingerprint for design, _ in found] == [named_design(name).fingerprint for name in names]
    # Good starts are not to be lost in large steps.
    assert all(settings.meta_lr / settings.sigma < 0.05 for _, settings in found)
