"""The yardstick: the baseline is torch's AdamW under a cosine, and the metrics say what they are said to say."""

from math import cos, pi

import pytest
import torch
from torch import nn

from optsearch import evaluation
from optsearch.evaluation import baseline, comparison, metrics, runs
from optsearch.evaluation.baseline import CosineDecay
from optsearch.evaluation.runs import Setup
from optsearch.meta_training import inner
from optsearch.optimizers import AdamW, named_design
from optsearch.seeds import generator
from optsearch.tasks import families

HORIZON = 40
FAMILY = families("digits_mlp")[0]
SETUP = Setup(FAMILY, HORIZON, "meta", (0, 1), "test")


def test_the_baseline_is_torch_adamw_under_warmup_and_cosine() -> None:
    """The same params, batches and learning rates in a plain torch loop give the same losses."""
    lr, seed = 0.01, 1
    ours = runs.run(CosineDecay(AdamW()), {"lr": torch.tensor([[lr]])}, Setup(FAMILY, HORIZON, "meta", (seed,), "test"))
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
    tuned = baseline.tune(SETUP)
    finals = []
    for rate in baseline.LEARNING_RATES:
        measured = runs.run(CosineDecay(AdamW()), {"lr": torch.tensor([[rate]])}, SETUP).measured
        finals.append(float(metrics.final_loss(measured).mean()))
    assert tuned.learning_rate == baseline.LEARNING_RATES[finals.index(min(finals))]
    assert tuned.final_loss == pytest.approx(min(finals), rel=1e-4)
    assert tuned.is_interior
    assert baseline.Baseline.from_config(tuned.to_config()) == tuned
    assert len(baseline.LEARNING_RATES) == 11
    assert (baseline.LEARNING_RATES[0], baseline.LEARNING_RATES[-1]) == (1e-5, 1.0)


def test_the_baseline_against_itself_ties() -> None:
    tuned = baseline.tune(SETUP)
    measured = baseline.run(tuned, SETUP)
    assert torch.equal(metrics.speedup(measured.measured, metrics.final_loss(measured.measured)).clamp(max=1.0),
                       torch.ones(2))
    final = metrics.final_loss(measured.measured)
    assert float((final / final).log().abs().max()) == 0.0


@pytest.mark.parametrize(("curve", "target", "expected"), [
    ([1.0 - 0.01 * step for step in range(100)], 0.455, 100 / 60),
    ([1.0] * 100, 0.5, 0.0),
    ([0.0] * 100, 0.5, 10.0),
])
def test_speedup_in_closed_form(curve: list[float], target: float, expected: float) -> None:
    """With a slope of -0.01 the trailing mean of ten values is at 1 - 0.01 (steps - 1 - 4.5)."""
    found = metrics.speedup(torch.tensor(curve, dtype=torch.float64)[:, None], torch.tensor([target + 1e-9]))
    assert float(found) == pytest.approx(expected)


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


def test_an_unlearned_optimizer_has_a_finite_value_and_a_whole_report() -> None:
    design = named_design("adamw_mlp")
    weights = design.init_weights(generator(0, "weights"))
    calls: list[str] = []
    kept: dict[str, dict[str, object]] = {}

    def cache(key: str, compute: "comparison.Callable[[], dict[str, object]]") -> dict[str, object]:
        if key not in kept:
            calls.append(key)
            kept[key] = compute()
        return kept[key]

    against = evaluation.opponent(FAMILY, HORIZON, cache)
    value = evaluation.value(design, weights, [against])
    assert torch.isfinite(torch.tensor(value))
    assert value > 0  # AdamW at 1e-3 without a schedule loses to a tuned one
    evaluation.opponent(FAMILY, HORIZON, cache)
    assert len(calls) == 2
    setup = evaluation.report_setups([FAMILY], HORIZON)[0]
    compared = evaluation.compared([evaluation.report(design, weights, setup, cache)])
    content = compared.to_config()
    assert set(content["relative_loss"]) == {"value", "low", "high"}
    assert content["relative_loss"]["low"] <= content["relative_loss"]["value"] <= content["relative_loss"]["high"]
    assert content["relative_loss"]["value"] > 1
    assert content["families"][FAMILY.name]["baseline_lr_is_interior"]


def test_a_diverged_optimizer_counts_as_the_cap_and_is_counted() -> None:
    design = named_design("lstm_2016")
    weights = {name: leaf * 1e6 for name, leaf in design.init_weights(generator(0, "weights")).items()}
    setup = evaluation.report_setups([FAMILY], HORIZON)[0]
    compared = evaluation.compared([evaluation.report(design, weights, setup)])
    assert compared.num_failed == len(setup.seeds)
    assert compared.speedup.value == 0.0
    value = evaluation.value(design, weights, [evaluation.opponent(FAMILY, HORIZON)])
    assert torch.isfinite(torch.tensor(value))


def test_tuning_selection_and_report_share_no_seed_and_no_rows() -> None:
    selection = evaluation.selection_setup(FAMILY, HORIZON)
    report = evaluation.report_setups([FAMILY], HORIZON)[0]
    assert (selection.split, report.split) == ("meta", "test")
    assert len({comparison.TUNING, selection.purpose, report.purpose}) == 3
