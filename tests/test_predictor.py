"""Forecasts of final values: calibrated where the truth is known, modest where there is nothing to learn."""

from dataclasses import replace
from math import inf, nan

import optuna
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from optsearch.errors import UsageError
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.forecasting.divergence import DivergenceModel, ended_early
from optsearch.search.forecasting.power_law import last_value, power_law
from optsearch.search.forecasting.predictor import Forecast, PerformancePredictor, Trust
from optsearch.search.forecasting.ranks import coverage, kendall
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.tree import TreeSpace
from optsearch.seeds import generator

BUDGET = 1000
STEPS = tuple(round(10 * 100 ** (index / 14)) for index in range(15))


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    unit = optuna.distributions.FloatDistribution(0.0, 1.0)
    return Encoding(TreeSpace.of(lambda suggest: [suggest(name, unit) for name in ("a", "b", "c")]))


def final(params: dict[str, float], values: Tensor) -> LearningCurve:
    return LearningCurve(params, STEPS[:len(values)], tuple(values.tolist()), (0.0,) * len(values), is_final=True)


def power_laws(count: int, noise: float, seed: int = 0) -> list[LearningCurve]:
    """Ends and falls depend on the design and on chance."""
    source = generator(seed, "power laws")
    curves = []
    for _ in range(count):
        a, b, c, chance, more = torch.rand(5, generator=source, dtype=torch.float64).tolist()
        fractions = torch.tensor(STEPS).double() / BUDGET
        clean = a + 0.3 * chance + (0.2 + b) * (fractions ** -(0.2 + 0.2 * more) - 1)
        wiggle = noise * torch.randn(len(STEPS), generator=source, dtype=torch.float64)
        curves.append(final({"a": a, "b": b, "c": c}, clean + wiggle))
    return curves


def pure_noise(count: int) -> list[LearningCurve]:
    """Of the end neither the design nor the curve says anything."""
    source = generator(0, "noise")
    return [final(dict(zip("abc", torch.rand(3, generator=source).tolist(), strict=True)),
                  torch.randn(len(STEPS), generator=source, dtype=torch.float64)) for _ in range(count)]


def ends(curves: list[LearningCurve]) -> Tensor:
    return torch.tensor([curve.values[-1] for curve in curves], dtype=torch.float64)


@pytest.fixture(scope="module")
def learnable() -> list[LearningCurve]:
    return power_laws(90, noise=0.05)


@pytest.fixture(scope="module")
def predictor(learnable: list[LearningCurve], encoding: Encoding) -> PerformancePredictor:
    return PerformancePredictor.fit(learnable[:40], encoding, BUDGET)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.25, 0.5])
def test_forecasts_of_new_curves_are_calibrated(
        predictor: PerformancePredictor, learnable: list[LearningCurve], part: float) -> None:
    """Within three standard errors of 90 % of 50 curves."""
    unseen = learnable[40:]
    forecast = predictor.forecast([curve.until(round(part * BUDGET)) for curve in unseen])
    assert coverage(ends(unseen), forecast.mean, forecast.deviation, 0.9) >= 0.77
    assert float(forecast.deviation.mean()) < 2 * float(ends(unseen).std())


def test_forecasts_rank_better_than_the_last_value(
        predictor: PerformancePredictor, learnable: list[LearningCurve]) -> None:
    unseen = learnable[40:]
    cut = [curve.until(100) for curve in unseen]
    ranks = kendall(predictor.forecast(cut).mean, ends(unseen))
    assert ranks > kendall(last_value(cut, BUDGET)[0], ends(unseen)) + 0.1


def test_trust_is_earned_where_there_is_something_to_learn(predictor: PerformancePredictor) -> None:
    trust = predictor.trust
    assert trust.is_earned
    assert trust.num_curves == 40
    assert trust.rank_correlation > trust.last_value_correlation


def test_trust_is_not_earned_on_noise_nor_with_few_curves(encoding: Encoding) -> None:
    assert not PerformancePredictor.fit(pure_noise(30), encoding, BUDGET).trust.is_earned
    assert not PerformancePredictor.fit(power_laws(9, 0.01), encoding, BUDGET).trust.is_earned
    assert not Trust(nan, nan, nan, 50).is_earned


def test_a_trial_that_was_learned_from_does_not_count_twice(
        learnable: list[LearningCurve], encoding: Encoding) -> None:
    """The forecast of a curve cut short must not know the end that the fit has seen."""
    start, changed = learnable[0].until(100), list(learnable[:30])
    changed[0] = final(learnable[0].params, torch.tensor(learnable[0].values).double() + torch.cat(
        [torch.zeros(7), torch.linspace(0, 3, 8)]).double())
    known = [PerformancePredictor.fit(each, encoding, BUDGET).learned.looks([start]).mean.item()
             for each in (learnable[:30], changed)]
    spread = float(ends(learnable).std())
    assert abs(known[0] - known[1]) < spread


def test_tails_of_pruned_curves_may_be_missing(learnable: list[LearningCurve], encoding: Encoding) -> None:
    mixed = [curve if index % 2 else curve.until(200) for index, curve in enumerate(learnable[:40])]
    predictor = PerformancePredictor.fit(mixed, encoding, BUDGET)
    assert predictor.trust.num_curves == 20
    forecast = predictor.forecast([curve for curve in mixed if not curve.is_final])
    truth = ends([curve for index, curve in enumerate(learnable[:40]) if not index % 2])
    assert kendall(forecast.mean, truth) > 0.6
    assert coverage(truth, forecast.mean, forecast.deviation, 0.9) > 0.6


@pytest.mark.parametrize("num_curves", [1, 2, 6])
def test_little_is_known_from_few_curves_but_something_finite(
        learnable: list[LearningCurve], encoding: Encoding, num_curves: int) -> None:
    predictor = PerformancePredictor.fit(learnable[:num_curves], encoding, BUDGET)
    forecast = predictor.forecast([learnable[20].until(0), learnable[20].until(10), learnable[20].until(300)])
    assert torch.isfinite(torch.stack([forecast.mean, forecast.deviation, forecast.divergence])).all()
    assert (forecast.deviation > 0).all()


def test_values_that_are_not_finite_are_left_out(learnable: list[LearningCurve], encoding: Encoding) -> None:
    def broken(curve: LearningCurve) -> LearningCurve:
        return replace(curve, values=(*curve.values[:3], nan, inf, *curve.values[5:]))

    curves = [broken(curve) if index % 3 == 0 else curve for index, curve in enumerate(learnable[:20])]
    predictor = PerformancePredictor.fit([*curves, LearningCurve({"a": 0.5, "b": 0.5, "c": 0.5})], encoding, BUDGET)
    exploded = replace(learnable[30], values=tuple(1e30 for _ in STEPS)).until(100)
    forecast = predictor.forecast([broken(learnable[30]).until(400), exploded])
    assert torch.isfinite(torch.stack([forecast.mean, forecast.deviation])).all()


def test_without_any_value_there_is_nothing_to_learn_from(encoding: Encoding) -> None:
    with pytest.raises(UsageError, match="none of 1 curves has a finite value"):
        PerformancePredictor.fit([LearningCurve({"a": 0.1, "b": 0.2, "c": 0.3})], encoding, BUDGET)


def test_a_curve_that_is_final_is_its_last_value(
        predictor: PerformancePredictor, learnable: list[LearningCurve]) -> None:
    forecast = predictor.forecast(learnable[:5])
    torch.testing.assert_close(forecast.mean, ends(learnable[:5]))
    assert (forecast.deviation < 0.01).all()


def test_quantiles_and_probabilities_are_those_of_a_normal_distribution() -> None:
    forecast = Forecast(*torch.tensor([[1.0, 2.0], [0.5, 2.0], [0.0, 0.25]], dtype=torch.float64))
    normal = torch.distributions.Normal(forecast.mean, forecast.deviation)
    torch.testing.assert_close(forecast.quantile(0.9), normal.icdf(torch.tensor(0.9).double()))
    torch.testing.assert_close(forecast.probability_below(1.5),
                               torch.tensor([1.0, 0.75]) * normal.cdf(torch.tensor(1.5).double()))


def test_a_power_law_finds_known_ends() -> None:
    fractions = torch.tensor(STEPS).double() / BUDGET
    curves = [final({}, end + fall * (fractions ** -power)).until(300)
              for end, fall, power in ((0.5, 0.2, 0.5), (-0.3, 1.0, 0.3), (2.0, 0.1, 1.0))]
    mean, deviation = power_law(curves, BUDGET)
    truth = torch.tensor([0.7, 0.7, 2.1]).double()
    assert (mean - truth).abs().max() < 0.05
    assert ((mean - truth).abs() < 3 * deviation).all()
    assert (mean - truth).abs().mean() < (last_value(curves, BUDGET)[0] - truth).abs().mean() / 3


def test_short_curves_stay_at_their_last_value() -> None:
    mean, deviation = power_law([LearningCurve({}), LearningCurve({}, (10,), (1.5,), (0.0,))], BUDGET)
    assert mean[0].isnan()
    assert deviation[0].isnan()
    assert mean[1] == 1.5
    assert deviation[1] > 0


def failing(share: float, num_points: int) -> LearningCurve:
    values = torch.ones(len(STEPS)).double()
    return replace(final({}, values[:num_points]), failed_shares=(share,) * num_points)


def test_what_fails_often_is_likelier_to_diverge() -> None:
    """Six of thirty curves diverge, those with most failures."""
    curves = [failing(0.6, 8) for _ in range(6)] + [failing(0.0, len(STEPS)) for _ in range(24)]
    assert sum(ended_early(curve, BUDGET) for curve in curves) == 6
    model = DivergenceModel.fit(curves, [50, 100], BUDGET, scale=1.0)
    bad, good = model.probability([failing(0.6, 8).until(50), failing(0.0, 15).until(50)]).tolist()
    assert bad > 0.4
    assert good < 0.2
    assert model.probability([curves[0], curves[-1]]).tolist() == [1.0, 0.0]


def test_without_events_divergence_is_unlikely_but_possible() -> None:
    model = DivergenceModel.fit([failing(0.0, len(STEPS)) for _ in range(20)], [50], BUDGET, scale=1.0)
    assert 0 < model.probability([failing(0.0, 15).until(50)]).item() < 0.05


def test_rank_correlation_is_that_of_scipy() -> None:
    first, second = torch.randint(0, 6, (2, 30), generator=generator(0, "ranks")).double()
    assert kendall(first, second) == pytest.approx(kendalltau(first.numpy(), second.numpy()).statistic)
    assert kendall(first, torch.zeros(30).double()) == 0


def test_coverage_counts_what_lies_inside() -> None:
    values = torch.tensor([-2.0, -0.5, 0.0, 0.6, 1.7]).double()
    zero, one = torch.zeros(5).double(), torch.ones(5).double()
    assert coverage(values, zero, one, 0.5) == pytest.approx(0.6)
    assert coverage(values, zero, one, 0.9) == pytest.approx(0.6)
    assert coverage(values, zero, 2 * one, 0.9) == 1.0
