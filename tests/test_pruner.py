"""Pruning by forecasts: what is stopped, what never is, who decides, and what is kept of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist, median
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from toy_objective import Toy, finished

from optsearch.errors import StudyError, UsageError
from optsearch.search.costs import FLOPS, STATE_BYTES
from optsearch.search.definition import ATTR, StudyDefinition, define
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.forecaster import Forecaster, num_fitted
from optsearch.search.forecasting.front_pruner import BEST, FrontPruner
from optsearch.search.forecasting.history import curves_of
from optsearch.search.forecasting.pruner import Judgement, PredictorPruner, PruningRule
from optsearch.search.objectives import OneObjective, rivals_of
from optsearch.search.records import Records
from optsearch.search.recovery import CHAIN, chain_of
from optsearch.search.samplers import make_pruner, make_sampler
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import TreeSpace
from optsearch.search.workers import run_slots

BUDGET, DEVIATION = 100, 0.1
SPACE = FloatDistribution(0.0, 1.0)
ENCODING = Encoding(TreeSpace.of(lambda suggest: suggest("x", SPACE)))


@dataclass(frozen=True)
class NormalForecast:
    """What the predictor's forecasts promise, for normal ones that never diverge."""

    mean: torch.Tensor

    @property
    def deviation(self):
        return torch.full_like(self.mean, DEVIATION)

    @property
    def divergence(self):
        return torch.zeros_like(self.mean)

    def quantile(self, probability):
        return self.mean + DEVIATION * NormalDist().inv_cdf(probability)

    def probability_below(self, value):
        return torch.tensor([NormalDist(mean, DEVIATION).cdf(value) for mean in self.mean.tolist()])


@dataclass
class Clairvoyant:
    """Knows that every curve ends at its design's `x`; it is trusted from `earned` finished curves on."""

    earned: int = 5
    fits: list = field(default_factory=list)

    def fit(self, curves, encoding, budget, seed):
        self.fits.append(len(curves))
        predictor = SimpleNamespace(trust=SimpleNamespace(is_earned=len(curves) >= self.earned))
        predictor.forecast = lambda asked: NormalForecast(torch.tensor([curve.params["x"] for curve in asked]))
        return predictor


def pruner_of(fit, rule=None, **rest):
    """A pruner, and the list that it writes what it did into."""
    rows = []
    forecaster = Forecaster(ENCODING, BUDGET, fit=fit)
    return PredictorPruner(forecaster, rule or PruningRule(), record=rows.append, **rest), rows


def add(study, x, state=TrialState.COMPLETE, values=None, **attrs):
    """A trial whose curve falls in a line from x + 1 to x at four points."""
    known = values if values is not None else {step: x + 1 - step / BUDGET for step in (25, 50, 75, 100)}
    study.add_trial(create_trial(
        state=state, value=x if state is TrialState.COMPLETE else None, params={"x": x}, user_attrs=attrs,
        distributions={"x": SPACE}, intermediate_values=known))


def asked(study, pruner, x, step=25, **attrs):
    """Whether a running trial of this end would be pruned at `step`."""
    values = {at: x + 1 - at / BUDGET for at in range(5, step + 1, 5)}
    add(study, x, TrialState.RUNNING, values, **attrs)
    return pruner.prune(study, study.get_trials()[-1])


def study_of(*ends):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for x in ends:
        add(study, x)
    return study


ENDS = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85]


def test_what_is_unlikely_to_reach_the_top_is_stopped_at_the_threshold() -> None:
    """The probability is a normal one, so the end at which it is 2 % is known."""
    pruner, rows = pruner_of(Clairvoyant().fit, PruningRule(keep=0.0))
    study = study_of(*ENDS)
    edge = 0.4 + DEVIATION * NormalDist().inv_cdf(0.98)
    assert asked(study, pruner, edge + 0.001)
    assert not asked(study, pruner, edge - 0.001)
    assert not asked(study, pruner, 0.1)
    assert [row.decision for row in rows] == ["pruned", "kept", "kept"]
    weak = rows[0]
    assert (weak.chain, weak.inner_steps, weak.bar, weak.decided_by) == (10, 25, 0.4, "predictor")
    assert weak.probability_top == pytest.approx(NormalDist(edge + 0.001, DEVIATION).cdf(0.4), abs=1e-6)
    spread = DEVIATION * NormalDist().inv_cdf(0.95)
    assert weak.quantiles[0] == pytest.approx(weak.mean - spread, abs=1e-6)
    assert weak.quantiles[3] == pytest.approx(weak.mean + spread, abs=1e-6)


@pytest.mark.parametrize(("top", "count", "bar"), [(0.1, 10, 0.4), (0.1, 11, 0.45), (0.3, 10, 0.5), (0.01, 3, 0.4),
                                                   (0.0, 10, 0.4), (1.0, 4, 0.55)])
def test_the_bar_is_the_worst_of_the_top(top: float, count: int, bar: float) -> None:
    assert PruningRule(top=top).bar([*reversed([*ENDS, 0.9][:count])]) == bar


def test_nothing_is_stopped_before_the_warmup_or_at_its_end() -> None:
    pruner, rows = pruner_of(Clairvoyant().fit, PruningRule(keep=0.0, warmup=0.2))
    study = study_of(*ENDS)
    assert [asked(study, pruner, 0.9, step) for step in (5, 15, 20, 95, 100)] == [False, False, True, True, False]
    assert [row.decided_by for row in rows] == ["warmup", "warmup", "predictor", "predictor"]
    add(study, 0.9, TrialState.RUNNING, {50: float("nan")})
    assert not pruner.prune(study, study.get_trials()[-1])
    add(study, 0.9, TrialState.RUNNING, {})
    assert not pruner.prune(study, study.get_trials()[-1])


def test_a_twentieth_of_the_chains_is_spared_whatever_becomes_of_them() -> None:
    """The choice is of the chain: a retry, which is another trial, is spared too."""
    rule = PruningRule()
    spared = [chain for chain in range(4000) if rule.spares(3, chain)]
    assert 150 < len(spared) < 250
    assert spared != [chain for chain in range(4000) if rule.spares(4, chain)]
    study = study_of(*ENDS)
    pruner, rows = pruner_of(Clairvoyant().fit, seed=3)
    chains = [next(chain for chain in range(20, 4000) if (chain in spared) == is_spared) for is_spared in (True, False)]
    assert [asked(study, pruner, 0.9, **{CHAIN: chain}) for chain in chains] == [False, True]
    assert [(row.chain, row.decision) for row in rows] == list(zip(chains, ["spared", "pruned"], strict=True))


def test_until_it_is_trusted_it_prunes_as_the_cold_pruner_does() -> None:
    study = study_of(*ENDS)
    cold = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=20)
    pruner, rows = pruner_of(Clairvoyant(earned=99).fit, PruningRule(keep=0.0), cold=cold)
    middle = median(ENDS) + 0.75
    for x in (0.3, 0.62, 0.63, 0.9):
        assert asked(study, pruner, x) == (x + 0.75 > middle)
    assert not asked(study, pruner, 0.9, step=15)
    assert {row.decided_by for row in rows} == {"cold"}
    assert rows[0].mean == pytest.approx(0.3)


@pytest.mark.parametrize("ends", [[], [0.4], [0.4, 0.5]])
def test_with_hardly_any_ends_nothing_is_fitted(ends: list[float]) -> None:
    clairvoyant = Clairvoyant(earned=0)
    pruner, rows = pruner_of(clairvoyant.fit)
    assert not asked(study_of(*ends), pruner, 0.9)
    assert (clairvoyant.fits, rows) == ([], [])


def test_a_predictor_that_fails_is_recorded_and_the_cold_pruner_decides() -> None:
    def fit(curves, encoding, budget, seed):
        raise ArithmeticError("not positive\ndefinite")

    study = study_of(*ENDS)
    pruner, rows = pruner_of(fit, PruningRule(keep=0.0), cold=optuna.pruners.MedianPruner(n_startup_trials=3))
    assert asked(study, pruner, 0.9)
    assert not asked(study, pruner, 0.3)
    assert [(row.decided_by, row.decision) for row in rows] == [("cold", "pruned"), ("cold", "kept")]
    assert rows[0].problem == "ArithmeticError: not positive definite"
    assert rows[0].mean is None


def test_fits_are_few_and_depend_on_the_study_alone() -> None:
    clairvoyant = Clairvoyant()
    pruner, _ = pruner_of(clairvoyant.fit)
    study = study_of(*[0.5] * 3)
    for number in range(97):
        asked(study, pruner, 0.45, step=15)
        asked(study, pruner, 0.55, step=10)
        add(study, 0.5, TrialState.PRUNED if number % 2 else TrialState.COMPLETE)
    assert clairvoyant.fits[:38] == list(range(3, 41))
    steps = [following - one for one, following in zip(clairvoyant.fits, clairvoyant.fits[1:], strict=False)]
    assert all(step == max(1, one // 20) for one, step in zip(clairvoyant.fits, steps, strict=False))
    resumed = Clairvoyant()
    asked(study, pruner_of(resumed.fit)[0], 0.5)
    assert resumed.fits == [num_fitted(100)]
    asked(study, pruner, 0.5)
    assert clairvoyant.fits[-1] == resumed.fits[0]


def test_slots_that_share_a_pruner_share_its_fit() -> None:
    clairvoyant = Clairvoyant()
    pruner, rows = pruner_of(clairvoyant.fit, PruningRule(keep=0.0))
    study = study_of(*ENDS)
    for x in (0.3, 0.9) * 4:
        add(study, x, TrialState.RUNNING, {25: x + 0.75})
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda trial: pruner.prune(study, trial), study.get_trials()[10:])) == [False, True] * 4
    assert (clairvoyant.fits, len(rows)) == ([10], 8)


def test_curves_are_one_a_chain_without_failures_and_duplicates() -> None:
    inf, nan = float("inf"), float("nan")
    study = study_of(0.5)
    add(study, 0.1, TrialState.FAIL)
    add(study, 0.2, TrialState.FAIL, {25: 1.0, 50: 0.9})
    add(study, 0.2, TrialState.RUNNING, {25: 1.0, 50: 0.9, 75: 0.8}, **{CHAIN: 2})
    add(study, 0.3, TrialState.PRUNED, {25: 2.0, 50: inf, 75: 3.0})
    add(study, 0.3, TrialState.RUNNING, {})
    add(study, 0.3, TrialState.RUNNING, {25: 1.0}, duplicate_of=0)
    add(study, 0.6, values={25: 1.0, 50: nan, 75: 0.9})
    add(study, 0.7, values={25: nan})
    assert curves_of(study, {2: {25: 0.5}, 4: {75: 1.0}}) == [
        LearningCurve({"x": 0.5}, (25, 50, 75, 100), (1.25, 1.0, 0.75, 0.5), (0.0,) * 4, is_final=True),
        LearningCurve({"x": 0.2}, (25, 50, 75), (1.0, 0.9, 0.8), (0.5, 0.0, 0.0)),
        LearningCurve({"x": 0.3}, (25, 75), (2.0, 3.0), (0.0, 1.0)),
        LearningCurve({"x": 0.3}),
        LearningCurve({"x": 0.6}, (25, 75), (1.0, 0.6), (0.0, 0.0), is_final=True)]
    assert curves_of(study.get_trials()[:1]) == curves_of(study)[:1]


def test_the_sampler_hears_how_stopped_trials_would_have_ended() -> None:
    pruner, _ = pruner_of(Clairvoyant(earned=12).fit)
    study = study_of(*ENDS)
    add(study, 0.9, TrialState.PRUNED, {25: 1.0})
    assert pruner.forecaster.ends_of_pruned(study) == {}
    add(study, 0.7, TrialState.PRUNED, {25: 1.0})
    assert pruner.forecaster.ends_of_pruned(study) == {
        10: pytest.approx((0.9, DEVIATION)), 11: pytest.approx((0.7, DEVIATION))}


def test_a_study_that_maximises_is_refused() -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.raises(UsageError, match="its sign turned"):
        asked(study, pruner_of(Clairvoyant().fit)[0], 0.5)


def test_a_rule_of_impossible_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="warmup is a part, from 0 to 1, not 10"):
        PruningRule(warmup=10)


def test_a_whole_study_stops_what_is_weak_and_keeps_what_is_good() -> None:
    clairvoyant = Clairvoyant(earned=10)
    pruner, rows = pruner_of(clairvoyant.fit, seed=1)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(10, 101, 10):
            trial.report(x + 1 - step / BUDGET, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=120)
    judged = [row for row in rows if row.decided_by == "predictor"]
    assert len({(row.chain, row.inner_steps) for row in rows}) == len(rows)
    for row in judged:
        assert (row.probability_top < 0.02) == (row.decision != "kept")
        assert row.decision != "pruned" or study.trials[row.chain].state is TrialState.PRUNED
    spared = {row.chain for row in judged if row.decision == "spared"}
    assert spared
    assert all(study.trials[chain].state is TrialState.COMPLETE for chain in spared)
    assert min(trial.params["x"] for trial in study.trials) == study.best_value
    assert len(study.get_trials(states=(TrialState.PRUNED,))) > 60


@dataclass
class ForecastToy(Toy):
    """Toy trials, whose value at all steps is their `x`; their forecasts are recorded, and all are spared."""

    def study(self):
        study, records = super().study(), Records(self.url)
        study.pruner, _ = pruner_of(Clairvoyant().fit, PruningRule(keep=1.0, warmup=0.0))
        study.pruner.forecaster.budget = self.num_steps
        study.pruner.record = lambda row: records.put_forecast(row.study_id, row.chain, row.inner_steps, asdict(row))
        return study


def test_forecasts_of_a_killed_trial_and_its_retry_are_one_row_a_step(tmp_path: Path) -> None:
    toy = ForecastToy(tmp_path, killed=(6,), value=0.5)
    list(run_slots(toy, ["cpu"], num_trials=8))
    before = Records(toy.url).forecasts(1)
    list(run_slots(ForecastToy(tmp_path, value=0.5), ["cpu"], num_trials=9))
    rows = Records(toy.url).forecasts(1)
    assert {chain: rows[chain] for chain in before} == before
    study = toy.study()
    retry = next(trial for trial in study.get_trials() if chain_of(trial) == 6 and trial.state is TrialState.COMPLETE)
    assert retry.number != 6
    assert list(rows[6]) == list(range(6))
    assert sorted(rows) == sorted({chain_of(trial) for trial in finished(study)} - {0, 1, 2})
    assert all(Judgement.of(row).mean == pytest.approx(retry.params["x"]) for row in rows[6].values())


@pytest.fixture
def definition() -> StudyDefinition:
    return define(space="quickstart", tasks=["quadratics"], sampler="tpe", seed=5)


def test_a_study_says_who_chooses_and_who_stops(definition: StudyDefinition, tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path}/a.db")
    kinds = {pruner: make_pruner(replace(definition, pruner=pruner), records)
             for pruner in ("predictor", "median", "none")}
    assert isinstance(kinds["median"], optuna.pruners.MedianPruner)
    assert isinstance(kinds["none"], optuna.pruners.NopPruner)
    chosen = kinds["predictor"]
    assert isinstance(chosen, PredictorPruner)
    assert (chosen.forecaster.budget, chosen.forecaster.seed, chosen.seed) == (definition.budget, 5, 5)
    assert isinstance(make_sampler(definition, 1, chosen), optuna.samplers.TPESampler)
    assert isinstance(make_sampler(replace(definition, sampler="random"), 1, chosen), optuna.samplers.RandomSampler)
    chosen.record(Judgement(study_id=3, chain=1, inner_steps=25, mean=0.5, quantiles=(0.1, 0.2, 0.3, 0.4)))
    assert Judgement.of(records.forecasts(3)[1][25]).quantiles == (0.1, 0.2, 0.3, 0.4)
    records.put_point(3, 1, 26, {"point": 1, "failed_share": 0.25})
    study = SimpleNamespace(_study_id=3)
    assert chosen.forecaster.failed_shares(study) == {1: {definition.budget // 8: 0.25}}
    encoding = chosen.forecaster.encoding
    assert encoding is make_pruner(definition, records).forecaster.encoding
    (row,) = encoding.encode(encoding.tree.sample(seed=0, count=1))
    assert row[encoding.graph].norm() == pytest.approx(1)
    for name in ("sampler", "pruner"):
        with pytest.raises(StudyError, match=f"no {name} 'best'. There are: "):
            replace(definition, **{name: "best"})


def test_a_study_from_before_there_was_a_choice_keeps_what_it_had(definition: StudyDefinition) -> None:
    study = optuna.create_study()
    definition.write(study)
    assert StudyDefinition.of(study) == definition
    old = {name: value for name, value in asdict(definition).items() if name not in ("sampler", "pruner")}
    study.set_user_attr(ATTR, old)
    assert StudyDefinition.of(study) == replace(definition, sampler="tpe", pruner="median")


def test_on_the_way_to_a_front_the_best_that_costs_no_more_is_to_be_beaten() -> None:
    pruner, rows = pruner_of(Clairvoyant().fit, replace(BEST, keep=0.0), rivals=rivals_of)
    front, study = FrontPruner(pruner, OneObjective), optuna.create_study(directions=["minimize"] * 3)

    def tell(x, flops, size, state, known):
        study.add_trial(create_trial(
            state=state, values=[x, flops, size] if state is TrialState.COMPLETE else None, params={"x": x},
            distributions={"x": SPACE}, intermediate_values=known, user_attrs={FLOPS: flops, STATE_BYTES: size}))

    def is_stopped(x, flops, size):
        tell(x, flops, size, TrialState.RUNNING, {25: x + 0.75})
        return front.prune(study, study.get_trials()[-1])

    for x, flops, size in ((0.1, 3.0, 3.0), (0.3, 2.0, 2.0), (0.35, 2.0, 2.0), (0.2, 1.0, 3.0), (0.6, 1.0, 1.0)):
        tell(x, flops, size, TrialState.COMPLETE, {25: x + 0.75, 100: x})
    margin = DEVIATION * NormalDist().inv_cdf(0.98)
    for bar, flops, size in ((0.3, 2.0, 2.0), (0.6, 1.0, 1.5), (0.2, 1.5, 4.0), (0.1, 3.0, 3.0)):
        assert is_stopped(bar + margin + 0.001, flops, size)
        assert not is_stopped(bar + margin - 0.001, flops, size)
        assert [row.bar for row in rows[-2:]] == [bar, bar]
    # Nothing costs so little: whatever it comes to enters the front.
    assert not is_stopped(1.0, 0.5, 9.0)
