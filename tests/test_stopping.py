"""Studies that end by themselves: the rule by hand-made numbers, and on a function whose best value is known."""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from command_line import call
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from optsearch.errors import StudyError
from optsearch.search import stopping
from optsearch.search import study as search
from optsearch.search.definition import StudyDefinition
from optsearch.search.duplicates import DUPLICATE_OF
from optsearch.search.gp_sampler import GAIN, ConditionalGPSampler
from optsearch.search.recovery import CHAIN
from optsearch.search.scheduling import WholeTrials
from optsearch.search.stopping import UntilWorthless, ended, gain_per_budget, per_budget
from optsearch.search.study import Store

BUDGET, NUM_STARTUP_TRIALS = 1000, 4
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def definition(stop_gain: float = 0.0, **kwargs: str) -> StudyDefinition:
    return StudyDefinition(space="s", space_text="", tasks=("quadratics",), budget=BUDGET, stop_gain=stop_gain,
                           num_startup_trials=NUM_STARTUP_TRIALS, **kwargs)


def new_study(stop_gain: float, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    definition(stop_gain).write(study)
    return study


def add(study: optuna.Study, gain: float | None, spent: int = BUDGET, state: TrialState = TrialState.COMPLETE,
        **user_attrs: int) -> None:
    study.add_trial(create_trial(state=state, value=0.0 if state is TrialState.COMPLETE else None,
                                 intermediate_values={spent: 0.0} if spent else {},
                                 user_attrs=user_attrs | ({} if gain is None else {GAIN: gain})))


def filled(stop_gain: float, gains: list[float | None]) -> optuna.Study:
    study = new_study(stop_gain)
    for gain in [None] * NUM_STARTUP_TRIALS + gains:
        add(study, gain)
    return study


def test_the_median_of_the_latest_gains_is_divided_by_what_a_trial_spends() -> None:
    assert per_budget([9.0, 9.0, 0.1, 0.5, 0.2, 0.4, 0.3], [1.0]) == pytest.approx(0.3)
    assert per_budget([0.1, 0.5, 0.2, 0.4, 0.3], [1.0, 0.25, 0.25, 0.25, 0.5, 0.25]) == pytest.approx(0.3 / 0.3)
    assert per_budget([0.1] * 4, [1.0]) is None
    assert per_budget([0.1] * 5, []) is None


def test_a_study_ends_below_the_bound_and_not_at_it_and_never_with_none() -> None:
    gains: list[float | None] = [0.5] * 8 + [0.02] * 3
    assert "0.02, less than the bound 0.03" in ended(filled(0.03, gains))
    assert not ended(filled(0.02, gains))
    assert not ended(filled(0.0, gains))
    # Of five, two lucky guesses are none yet.
    assert ended(filled(0.03, [*gains, 0.5, 0.5]))
    assert not ended(filled(0.03, [*gains, 0.5, 0.5, 0.5]))


def test_a_study_does_not_end_before_it_has_learned_something() -> None:
    assert not ended(filled(0.5, [0.0] * 9))
    assert ended(filled(0.5, [0.0] * 10))
    assert not ended(filled(0.5, [None] * 20 + [0.0] * 4))


def test_pruned_trials_make_trials_cheaper() -> None:
    study = filled(0.05, [0.02] * 10)
    assert ended(study)
    for _ in range(4):
        add(study, 0.02, spent=BUDGET // 8, state=TrialState.PRUNED)
    assert gain_per_budget(study, definition()) == pytest.approx(0.02 / ((4 / 8 + 1) / 5))
    assert not ended(study)


def test_each_design_counts_once_and_duplicates_and_failures_do_not() -> None:
    study = filled(0.05, [0.02] * 10)
    for _ in range(3):
        add(study, 9.0, state=TrialState.FAIL)
        add(study, 9.0, state=TrialState.FAIL, **{DUPLICATE_OF: 1})
        # An old design that goes on.
        add(study, 9.0, **{CHAIN: 4})
    assert gain_per_budget(study, definition()) == pytest.approx(0.02)
    for _ in range(3):
        add(study, 9.0, spent=0, state=TrialState.RUNNING)
    assert gain_per_budget(study, definition()) == pytest.approx(9.0)


def test_what_waits_to_go_on_is_still_trained() -> None:
    study = filled(0.05, [0.02] * 10)
    schedule = UntilWorthless(WholeTrials())
    assert schedule.is_over(study, 100)
    assert schedule.claim(study, 100) is None
    study.enqueue_trial({})
    assert not schedule.is_over(study, 100)
    assert schedule.is_over(study, 14)


def test_a_bound_must_be_one_and_needs_a_model() -> None:
    for bound in (-0.1, float("inf"), float("nan")):
        with pytest.raises(StudyError, match="stop_gain must be"):
            definition(bound)
    with pytest.raises(StudyError, match="needs the sampler gp, not tpe"):
        definition(0.1, sampler="tpe")


def run(study: optuna.Study, function: Callable[[float, float], float], most: int) -> None:
    """Until it ends by itself."""
    while len(study.trials) < most and not ended(study):
        trial = study.ask({name: FloatDistribution(0.0, 1.0) for name in ("x", "y")})
        value = function(trial.params["x"], trial.params["y"])
        trial.report(value, BUDGET)
        study.tell(trial, value)


def bowl(x: float, y: float) -> float:
    """At its best, 0, at (0.3, 0.7)."""
    return (x - 0.3) ** 2 + 2 * (y - 0.7) ** 2 + (x - 0.3) * (y - 0.7)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_ends_when_it_has_found_the_best_and_not_before(seed: int) -> None:
    bound = 1e-3

    def sampler() -> ConditionalGPSampler:
        return ConditionalGPSampler(seed=seed, num_startup_trials=NUM_STARTUP_TRIALS)

    study = new_study(bound, sampler())
    run(study, bowl, most=60)
    assert NUM_STARTUP_TRIALS + stopping.NUM_MODELLED <= len(study.trials) < 40
    # What is left to gain is about the bound.
    assert study.best_value < 3 * bound
    gains = [trial.user_attrs[GAIN] for trial in study.trials if GAIN in trial.user_attrs]
    # Every third one is random, and expects nothing.
    assert len(gains) >= 2 * (len(study.trials) - NUM_STARTUP_TRIALS) // 3 - 1
    assert gains[0] > 10 * bound
    # Another process that goes on sees the same.
    assert ended(study)
    definition(bound / 1e4).write(study)
    assert not ended(study)


@pytest.mark.slow
def test_a_run_goes_on_while_it_finds_better_values() -> None:
    """The best is far down a narrow valley that few trials can have found."""
    study = new_study(1e-3, ConditionalGPSampler(seed=0, num_startup_trials=NUM_STARTUP_TRIALS))
    run(study, lambda x, y: (4 * (x - 0.1 - 0.8 * y)) ** 2 + (y - 0.9) ** 2, most=40)
    assert study.best_value < 0.01


def test_the_command_line_says_so_and_goes_on_with_a_lower_bound(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "tuned_opponents", lambda *args, **kwargs: [])
    url = f"sqlite:///{tmp_path}/studies.db"

    def said(*words: str) -> str:
        result = call("study", *words, "--storage", url)
        assert result.returncode == 0, result.stderr
        return result.stdout

    said("create", "digits", "--task", "quadratics", "--stop-gain", "0.05", "--budget", str(BUDGET))
    study = Store.at(url).load("digits")
    for gain in [None] * StudyDefinition.of(study).num_startup_trials + [0.02] * 10:
        add(study, gain)
    assert said("run", "digits", "--quiet").splitlines()[1].startswith("ended by itself: ")
    assert json.loads(said("run", "digits", "--quiet", "--json"))["ended"]
    # With as many as were asked for there is nothing to say.
    assert "by itself" not in said("run", "digits", "--quiet", "--trials", "18")
    assert "by itself" not in said("run", "digits", "--quiet", "--trials", "18", "--stop-gain", "0.001")
    assert not ended(Store.at(url).load("digits"))
    assert len(study.trials) == 18
