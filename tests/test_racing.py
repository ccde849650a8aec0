"""Races: levels and intervals against scipy, and how often they are wrong when the truth is known."""

from itertools import pairwise

import numpy
import pytest
from scipy import stats

from optsearch.errors import UsageError
from optsearch.search.racing import FIRST_LOOK, Estimate, Race, Rules


def raced(values: numpy.ndarray, rules: Rules) -> Race:
    """A race to its end over values `[rounds, candidates]`."""
    race = Race.of(values.shape[1], rules)
    for row in values:
        if race.is_over:
            break
        race = race.after({index: float(row[index]) for index in race.racing})
    return race


def normal(means: list[float], seed: int, deviation: float = 1.0) -> numpy.ndarray:
    """Values `[8, candidates]` whose noise is half the seed's, which all share, and half their own."""
    stream = numpy.random.default_rng(seed)
    return numpy.asarray(means) + deviation * (stream.normal(size=(8, 1)) + stream.normal(size=(8, len(means))))


@pytest.mark.parametrize("max_rounds", [3, 8])
def test_all_looks_together_spend_the_whole_error(max_rounds: int) -> None:
    rules = Rules(confidence=0.9, max_rounds=max_rounds)
    assert sum(map(rules.error, range(FIRST_LOOK, max_rounds + 1))) == pytest.approx(0.1)


def test_an_interval_is_students() -> None:
    values = [0.3, 0.1, 0.4, 0.15, 0.9]
    found = Estimate.of(values, 0.1)
    low, high = stats.t.interval(0.9, 4, numpy.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((numpy.mean(values), low, high))


def test_who_leaves_at_a_look_is_who_a_paired_t_test_with_holms_levels_rejects() -> None:
    rules = Rules(max_rounds=5, margin=0)
    seen = set()
    for seed in range(200):
        values = normal([0, 0.5, 4, 12, 40], seed)[:FIRST_LOOK]
        race = raced(values, rules)
        leader = int(values.mean(0).argmin())
        others = [index for index in range(5) if index != leader]
        p_values = {index: stats.ttest_rel(values[:, index], values[:, leader]).pvalue for index in others}
        expected = set()
        for rank, index in enumerate(sorted(others, key=lambda index: p_values[index])):
            if p_values[index] > rules.error(FIRST_LOOK) / (len(others) - rank):
                break
            expected.add(index)
        assert race.left == expected
        assert race.leader == race.order[0] == leader
        seen.add(len(expected))
    assert seen >= {1, 2, 3}


@pytest.mark.parametrize("means", [[0, 0, 0, 0], [0, 0.1, 0.1, 0.1, 0.1, 0.1], [0, 0.2, 1, 3], [0, 0.5]])
def test_the_best_leaves_no_more_often_than_stated(means: list[float]) -> None:
    """Close rivals, hopeless ones, and as many as there are: at 95 %, at most one race in 20 loses its best."""
    num_races, most = 1000, 0.05
    num_lost = sum(0 in raced(normal(means, seed), Rules(margin=0)).left for seed in range(num_races))
    # Three standard errors of the simulation below the bound or more: it isn't met by luck.
    assert num_lost / num_races < most - 3 * (most * (1 - most) / num_races) ** 0.5


def test_equal_candidates_are_seldom_told_apart_and_different_ones_are() -> None:
    equal = [len(raced(normal([0, 0], seed), Rules(margin=0)).left) for seed in range(600)]
    assert numpy.mean(equal) < 0.05
    races = [raced(normal([0, 3, 9], seed), Rules(margin=0)) for seed in range(600)]
    assert numpy.mean([race.left == {1, 2} and race.leader == 0 for race in races]) > 0.8
    # The hopeless one costs fewer seeds than the close one.
    assert numpy.mean([len(race.values[2]) for race in races]) < numpy.mean([len(race.values[1]) for race in races]) - 1


def test_what_all_seeds_share_is_no_noise() -> None:
    """Pairing: a seed that is hard for all changes nothing."""
    values = normal([0, 0.5, 8], 0)
    shared = 100 * numpy.random.default_rng(1).normal(size=(8, 1))
    plain, shifted = raced(values, Rules()), raced(values + shared, Rules())
    assert shifted.left == plain.left
    assert shifted.order == plain.order
    assert all(ours is theirs is None or (ours is not None and theirs is not None
                                          and ours.low == pytest.approx(theirs.low))
               for ours, theirs in zip(plain.behind, shifted.behind, strict=True))


def test_intervals_hold_for_all_rivals_and_looks_together() -> None:
    """Until the race ends, at least 95 of 100 races never show an interval that misses the true difference."""
    means = [0.0, 0.5, 2.0]
    num_wrong = 0
    for seed in range(600):
        race, is_wrong = Race.of(3, Rules(margin=0)), False
        for row in normal(means, seed):
            if race.is_over:
                break
            race = race.after({index: float(row[index]) for index in race.racing})
            gaps = [(means[index] - means[race.leader], gap) for index, gap in enumerate(race.behind)
                    if gap is not None and index in race.racing]
            is_wrong |= any(not gap.low <= truth <= gap.high for truth, gap in gaps)
        num_wrong += is_wrong
    assert num_wrong / 600 < 0.05


def test_a_race_ends_when_no_rival_can_be_ahead_by_more_than_the_margin() -> None:
    values = normal([0, 0.002, 0.002], 3, deviation=0.002)
    wide, narrow = raced(values, Rules(margin=0.05)), raced(values, Rules(margin=0))
    assert wide.num_rounds == FIRST_LOOK
    assert narrow.num_rounds > FIRST_LOOK
    noisy = raced(normal([0, 0, 0], 3), Rules(margin=0.05))
    assert (noisy.num_rounds, noisy.is_within_margin) == (8, False)


def test_constant_differences_need_no_variance() -> None:
    same = raced(numpy.zeros((8, 2)), Rules())
    assert (same.left, same.num_rounds, same.is_within_margin) == (frozenset(), FIRST_LOOK, True)
    apart = raced(numpy.tile([1.0, 0.0], (8, 1)), Rules())
    assert (apart.left, apart.leader, apart.num_rounds) == ({0}, 1, FIRST_LOOK)


def test_order_is_by_staying_then_by_mean() -> None:
    race = raced(normal([5, 0, 0.1, 50], 2), Rules(margin=0))
    stays = [(index not in race.left, len(race.values[index])) for index in race.order]
    assert all(before >= after for before, after in pairwise(stays))
    assert race.order[-1] == 3


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": 0.1}, {"max_rounds": 2}, {"margin": -1.0}])
def test_rules_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Rules(**wrong)  # type: ignore[arg-type]
