"""The yardstick: the baseline is torch's AdamW under a cosine, and the metrics say what they are said to say."""

from dataclasses import replace
from math import cos, log, pi

import pytest
import torch
from torch import nn

from optsearch import evaluation
from optsearch.evaluation import measurements, metrics, runs
from optsearch.evaluation.hand_made import LEARNING_RATES, Scheduled
from optsearch.evaluation.runs import Setup
from optsearch.meta_training import inner
from optsearch.optimizers import AdamW, Progress, named_design
from optsearch.seeds import generator
from optsearch.tasks import families

HORIZON = 40
FAMILY = families("digits_mlp")[0]
SETUP = Setup(FAMILY, HORIZON, "meta", (0, 1), "test")
ADAMW = evaluation.hand_made("adamw_cosine")


def cache_in(kept):
    """A cache that keeps everything in a dictionary."""
    def cache(key, compute):
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    return cache


def test_the_baseline_is_torch_adamw_under_warmup_and_cosine() -> None:
    """The same params, batches and learning rates in a plain torch loop give the same losses."""
    lr, seed = 0.01, 1
    ours = runs.run(Scheduled(AdamW()), {"lr": torch.tensor([[lr]])}, Setup(FAMILY, HORIZON, "meta", (seed,), "test"))
    stream = generator(seed, "test", FAMILY.name)
    params = FAMILY.init(stream, {})
    rows = inner.draw(FAMILY, "inner", (HORIZON,), stream)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    names = {"0.weight": "0.weight", "0.bias": "0.bias", "1.weight": "2.weight", "1.bias": "2.bias"}
    model.load_state_dict({names[name]: leaf for name, leaf in params.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    warmup = 0.05

    def factor(step: int) -> float:
        progress = step / HORIZON
        return max(progress / warmup, 0.01) if progress < warmup else (
            1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses = []
    for step in range(HORIZON):
        inputs, targets = (FAMILY.data.inner[name][rows[step]] for name in ("inputs", "targets"))
        loss = nn.functional.cross_entropy(model(inputs.flatten(1)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    torch.testing.assert_close(ours.train[:, 0], torch.tensor(losses), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        final = nn.functional.cross_entropy(model(FAMILY.data.meta["inputs"].flatten(1)), FAMILY.data.meta["targets"])
    assert float(ours.measured[-1, 0]) == pytest.approx(float(final), rel=1e-3)


def test_tuning_finds_the_best_learning_rate_of_the_grid() -> None:
    kept: dict[str, dict[str, object]] = {}
    tuned = measurements.tuned(ADAMW, FAMILY, HORIZON, cache_in(kept))
    finals, setup = [], Setup(FAMILY, HORIZON, "meta", tuple(range(5)), "tuning")
    for rate in LEARNING_RATES:
        measured = runs.run(Scheduled(AdamW()), {"lr": torch.tensor([[rate]])}, setup).measured
        finals.append(float(metrics.final_loss(measured).mean()))
    assert tuned.learning_rate == LEARNING_RATES[finals.index(min(finals))]
    assert (tuned.num_tried, tuned.is_interior) == (15, True)
    assert measurements.tuned(ADAMW, FAMILY, HORIZON, cache_in(kept)) == tuned
    assert len(kept) == 1
    assert (LEARNING_RATES[0], LEARNING_RATES[-1]) == (pytest.approx(1e-7), pytest.approx(1.0))


def test_the_baseline_against_itself_ties() -> None:
    result = evaluation.compete([], evaluation.report_setup(FAMILY, HORIZON, num_seeds=4))
    standing = evaluation.standing([result], evaluation.BASELINE)
    assert [standing.relative_loss.value, standing.speedup.value, standing.train_speedup.value] == [1.0, 1.0, 1.0]
    assert standing.seconds_ratio == 1.0


FALLING = [1.0 - 0.01 * step for step in range(100)]


@pytest.mark.parametrize(("curve", "baseline", "expected"), [
    # A slope of -0.01: the trailing mean of ten values is at 1 - 0.01 (steps - 1 - 4.5).
    (FALLING, [0.455] * 100, 10 / 60),
    (FALLING, [1.0 - 0.005 * step for step in range(100)], 100 / 53),
    ([1.0] * 100, FALLING, 0.0),
    ([0.0] * 100, FALLING, 10.0),
    (FALLING, FALLING, 1.0),
    # The baseline overfits: it was at its final loss early in its run.
    (FALLING, [abs(0.5 - 0.01 * step) for step in range(100)], 11 / 61),
])
def test_speedup_in_closed_form(curve: list[float], baseline: list[float], expected: float) -> None:
    one, other = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (curve, baseline))
    assert float(metrics.speedup(one - 1e-9, other)) == pytest.approx(expected)


def test_no_curve_is_faster_than_itself() -> None:
    noisy = torch.linspace(1, 0.5, 200)[:, None] + 0.2 * torch.randn(200, 50, generator=generator(0, "noise"))
    assert torch.equal(metrics.speedup(noisy, noisy), torch.ones(50))
    # Curves that reach their final loss at their very end, where the last bit decides.
    falling = torch.linspace(1, 0.1, 100)[:, None] + 0.03 * torch.rand(100, 5000, generator=generator(0, "noise"))
    assert torch.equal(metrics.speedup(falling, falling), torch.ones(5000))


def test_final_loss_is_the_mean_of_the_last_tenth() -> None:
    curve = torch.arange(50.0)[:, None]
    assert float(metrics.final_loss(curve)) == 47.0
    assert float(metrics.smoothed(curve)[-1]) == 47.0
    assert bool(metrics.smoothed(curve)[:4].isinf().all())


def test_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert float(metrics.interquartile_mean(torch.tensor([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0]))) == 3.5


def test_bootstrap_intervals_hold_what_they_promise() -> None:
    """Of 200 samples around 0, about 95 % of the intervals cover it."""
    samples = torch.randn(200, 2, 20, generator=generator(0, "samples"))
    covered = [interval.low <= 0 <= interval.high for interval in
               (metrics.bootstrap(list(strata), seed=1) for strata in samples)]
    assert 0.88 <= sum(covered) / 200 <= 0.98


def test_an_unlearned_optimizer_has_a_finite_value_and_a_whole_result() -> None:
    design = named_design("adamw_mlp")
    weights = design.init_weights(generator(0, "weights"))
    kept: dict[str, dict[str, object]] = {}
    against = evaluation.opponent(FAMILY, HORIZON, cache_in(kept))
    value = evaluation.value(design, weights, [against])
    assert torch.isfinite(torch.tensor(value))
    assert value > 0  # AdamW without a schedule loses to a tuned one
    assert len(kept) == 2
    evaluation.opponent(FAMILY, HORIZON, cache_in(kept))
    assert len(kept) == 2
    setup = evaluation.report_setup(FAMILY, HORIZON)
    first, again = (evaluation.compete([evaluation.learned(design, weights)], setup, cache_in(kept))
                    for _ in range(2))
    assert len(kept) == 4
    learned, kept_learned = (each.to_config()["contenders"][evaluation.LEARNED] for each in (first, again))
    assert learned | {"seconds_ratio": 0} == kept_learned | {"seconds_ratio": 0}
    standing = evaluation.standing([first], evaluation.LEARNED)
    assert 1 < standing.relative_loss.low <= standing.relative_loss.value <= standing.relative_loss.high
    assert (standing.num_trainings, standing.num_tried, standing.num_failed) == (16, 1, 0)


def test_what_is_kept_is_kept_by_content() -> None:
    """Another design, weights, data, horizon or seed is another measurement."""
    design, setup = named_design("adamw_mlp"), evaluation.report_setup(FAMILY, 10, num_seeds=1)
    weights = design.init_weights(generator(0, "weights"))
    changed = replace(FAMILY, data=replace(FAMILY.data, test={
        name: leaf.flip(0) for name, leaf in FAMILY.data.test.items()}))
    kept: dict[str, dict[str, object]] = {}
    for contender, asked in [
            (evaluation.learned(design, weights), setup),
            (evaluation.learned(replace(design, schedule=Progress(0.02)), weights), setup),
            (evaluation.learned(design, {name: leaf + 1e-3 for name, leaf in weights.items()}), setup),
            (evaluation.learned(design, weights), replace(setup, family=changed)),
            (evaluation.learned(design, weights), replace(setup, horizon=11)),
            (evaluation.learned(design, weights), replace(setup, seeds=(1,)))]:
        before = len(kept)
        measurements.measured(contender, asked, cache_in(kept))
        assert len(kept) == before + 1
        measurements.measured(contender, asked, cache_in(kept))
        assert len(kept) == before + 1


def test_a_learned_optimizer_may_have_its_learning_rate_tuned_as_often_as_the_baseline() -> None:
    design = named_design("adamw_mlp")
    weights = design.init_weights(generator(0, "weights"))
    setup = evaluation.report_setup(FAMILY, HORIZON, num_seeds=4)
    result = evaluation.compete([evaluation.learned(design, weights), evaluation.learned_tuned(design, weights)], setup)
    tuned, plain = (result.measurements[name] for name in (evaluation.TUNED_LEARNED, evaluation.LEARNED))
    assert tuned.tuned.num_tried == result.baseline.tuned.num_tried == 15
    scaled = runs.run(design, {name: leaf[None] for name, leaf in weights.items()}, setup)
    torch.testing.assert_close(plain.runs.measured, scaled.measured, rtol=1e-5, atol=1e-6)
    faster = replace(design, schedule=Progress(0.01 * tuned.tuned.learning_rate))
    scaled = runs.run(faster, {name: leaf[None] for name, leaf in weights.items()}, setup)
    torch.testing.assert_close(tuned.runs.measured, scaled.measured, rtol=1e-3, atol=1e-4)


def test_many_trainings_run_in_parts_that_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ADAMW.run([0.01, 0.03], SETUP)
    monkeypatch.setattr(inner, "MAX_ROWS", 3 * FAMILY.batch_size)
    parts = ADAMW.run([0.01, 0.03], SETUP)
    assert whole.measured.shape == parts.measured.shape == (HORIZON, 4)
    torch.testing.assert_close(whole.measured, parts.measured)
    torch.testing.assert_close(whole.train, parts.train)


def test_a_diverged_optimizer_counts_as_the_cap_and_is_counted() -> None:
    design = named_design("lstm_2016")
    weights = {name: leaf * 1e6 for name, leaf in design.init_weights(generator(0, "weights")).items()}
    result = evaluation.compete([evaluation.learned(design, weights)], evaluation.report_setup(FAMILY, HORIZON))
    standing = evaluation.standing([result], evaluation.LEARNED)
    assert (standing.num_failed, standing.num_trainings) == (16, 16)
    assert standing.speedup.value == 0.0
    value = evaluation.value(design, weights, [evaluation.opponent(FAMILY, HORIZON)])
    assert torch.isfinite(torch.tensor(value))


def test_a_loss_of_exactly_zero_has_a_finite_value() -> None:
    flat = replace(FAMILY, loss_cap=0.0)
    against = evaluation.Opponent(replace(SETUP, family=flat), torch.ones(2))
    design = named_design("adamw_mlp")
    assert evaluation.value(design, design.init_weights(generator(0, "weights")), [against]) == pytest.approx(log(0.01))


def test_weights_measured_side_by_side_have_the_values_that_they_have_alone() -> None:
    design = named_design("adamw_mlp")
    sets = [{name: leaf + 0.1 * index for name, leaf in design.init_weights(generator(0, "weights")).items()}
            for index in range(3)]
    against = evaluation.Opponent(SETUP, torch.tensor([0.5, 0.7]))
    together = evaluation.values(design, {name: torch.stack([tree[name] for tree in sets]) for name in sets[0]},
                                 [against])
    alone = torch.tensor([evaluation.value(design, tree, [against]) for tree in sets])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert alone.std() > 0.01


def test_a_profile_is_the_part_of_trainings_within_each_ratio() -> None:
    result = evaluation.compete([evaluation.hand_made("adamw_default")],
                                evaluation.report_setup(FAMILY, HORIZON, num_seeds=8))
    ratios = result.relative_losses("adamw_default").sort().values.tolist()
    assert evaluation.profile([result], "adamw_default", [ratios[0] - 1e-3, ratios[3], ratios[7]]) == [0.0, 0.5, 1.0]
    assert evaluation.profile([result], evaluation.BASELINE, [0.999, 1.0]) == [0.0, 1.0]


def test_tuning_selection_and_report_share_no_seed_and_no_rows() -> None:
    selection, report = evaluation.selection_setup(FAMILY, HORIZON), evaluation.report_setup(FAMILY, HORIZON)
    assert (selection.split, report.split) == ("meta", "test")
    assert len({measurements.TUNING, selection.purpose, report.purpose}) == 3


@pytest.mark.parametrize("horizon", [1, 7, 40, 60, 100, 199, 250])
def test_what_is_measured_for_the_final_loss_alone_gives_the_same_one(horizon: int) -> None:
    design = named_design("adamw_mlp")
    weights = {name: leaf[None] for name, leaf in design.init_weights(generator(0, "weights")).items()}
    setup = Setup(FAMILY, horizon, "meta", (0,), "test")
    whole, end = (runs.run(design, weights, each).measured for each in (setup, setup.of_the_end))
    assert whole.shape == end.shape
    assert metrics.final_loss(whole) == metrics.final_loss(end)
    assert end.isnan().sum() == max(0, len(end) - metrics.window(len(end)))
