"""What a point of the learning curve says, and what meta-training does beside following a gradient."""

from dataclasses import replace
from math import log

import pytest
import torch

from optsearch.meta_training import MetaTraining, Outcome, Plan, meta_train
from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.meta_losses import MetaLosses
from optsearch.meta_training.points import Gathered
from optsearch.meta_training.training import _limited
from optsearch.meta_training.windows import draw_horizon
from optsearch.optimizers import MLP, Features, LearnedOptimizer, NoMixing, OutputRMS
from optsearch.optimizers.schedules import Constant
from optsearch.seeds import generator
from optsearch.tasks import LowPrecision, Reparametrized, families

SMALL = LearnedOptimizer(features=Features(groups=("lean",)), rule=MLP(hidden_size=4))
SETTINGS = MetaTraining(horizon=40, num_tasks=2, truncation=10, num_meta_losses=2)


def plan(optimizer: LearnedOptimizer = SMALL, settings: MetaTraining = SETTINGS, *, task: str = "quadratics",
         budget: int = 1600, num_points: int = 4) -> Plan:
    return Plan(optimizer, families(task), settings, budget, num_points, seed=3)


def estimate(gradient: list[float], losses: list[float] | None = None, progress: float = 1.0) -> Estimate:
    raw = torch.tensor([losses or [1.0]])
    return Estimate(torch.tensor(gradient), MetaLosses(raw, torch.full_like(raw, progress), 10.0, 1.0), {})


def test_signal_to_noise_is_that_of_a_known_distribution() -> None:
    """Mean 3 along the first of 4 weights, deviation 2 along each: 9 / 16."""
    gathered, stream = Gathered(), generator(0, "noise")
    for _ in range(4_000):
        noise = 2 * torch.randn(4, generator=stream)
        gathered.add(0, estimate((noise + torch.tensor([3.0, 0.0, 0.0, 0.0])).tolist()))
    assert gathered.signal_to_noise == pytest.approx(9 / 16, rel=0.1)
    alone = Gathered()
    alone.add(0, estimate([1.0]))
    assert alone.signal_to_noise is None


def test_failed_and_late_losses_are_counted() -> None:
    gathered = Gathered()
    gathered.add(0, estimate([0.0], [torch.nan, torch.inf, 2.0, 4.0], progress=0.9))
    gathered.add(0, estimate([0.0], [1.0, 1.0, 1.0, 1.0], progress=0.1))
    assert gathered.failed_share == pytest.approx(2 / 8)
    assert gathered.late_logs(0).tolist() == pytest.approx([log(10 * 10 * 2 * 4) / 4])
    assert len(gathered.late_logs(1)) == 0


def test_points_carry_speed_failures_and_signal() -> None:
    for point in meta_train(plan()):
        assert point.inner_steps_per_second > 0
        assert 0 <= point.failed_share <= 1
        assert point.signal_to_noise is not None
        assert point.signal_to_noise >= 0
        assert not point.is_compiled


def test_early_points_divide_the_first_stretch_by_three_and_change_nothing_else() -> None:
    """Of 40 meta-steps, a quarter is the first stretch."""
    usual, early = list(meta_train(plan())), list(meta_train(replace(plan(), num_early=2)))
    assert [point.snapshot.meta_step for point in early] == [1, 3, 10, 20, 30, 40]
    assert [point.index for point in early] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(usual, early[2:], strict=True):
        assert torch.equal(one.snapshot.weights, other.snapshot.weights)


def test_a_design_that_gets_nowhere_is_given_up_early() -> None:
    """Steps of RMS 1 at this rate leave a digits MLP at chance level; the same steps at a sane rate do not."""
    hopeless = replace(SMALL, head=OutputRMS(floor=1e-9), mixing=NoMixing(), base=None, schedule=Constant(1e-7))
    settings = replace(SETTINGS, meta_lr=1e-6)
    points = list(meta_train(plan(hopeless, settings, task="digits_mlp", budget=4_800, num_points=6)))
    assert points[-1].outcome is Outcome.COLLAPSED
    assert len(points) == 3
    sane = list(meta_train(plan(settings=settings, task="digits_mlp", budget=4_800, num_points=6)))
    assert sane[-1].outcome is Outcome.COMPLETED


def test_the_curriculum_lengthens_horizons() -> None:
    settings = replace(SETTINGS, horizon=200, curriculum=0.5)
    longest = []
    for progress in (0.0, 0.2, 0.4, 0.5, 1.0):
        now, stream = settings.at(progress), generator(0, "horizons")
        longest.append(max(draw_horizon(now, stream) for _ in range(200)))
        assert min(draw_horizon(now, stream) for _ in range(200)) == 40
    assert longest == sorted(longest)
    assert longest[0] == 40
    assert longest[-2:] == [200, 200]
    assert list(meta_train(plan(settings=replace(settings, horizon=40))))[-1].outcome is Outcome.COMPLETED


def test_the_meta_learning_rate_warms_up_and_decays() -> None:
    asked = plan(settings=replace(SETTINGS, meta_warmup=0.25, meta_lr=1.0))
    rates = [asked.meta_lr(step) for step in range(asked.num_meta_steps)]
    peak = rates.index(max(rates))
    assert peak == round(0.25 * asked.num_meta_steps)
    assert rates[peak] == pytest.approx(1.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[0] < 0.2
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_long_gradient_is_cut_and_a_short_one_is_not() -> None:
    gradient = torch.tensor([3.0, 4.0])
    assert _limited(gradient, 1.0).tolist() == pytest.approx([0.6, 0.8])
    assert _limited(gradient, 10.0).tolist() == [3.0, 4.0]
    assert _limited(gradient, 0.0).tolist() == [3.0, 4.0]


def test_other_units_change_gradients_and_nothing_else() -> None:
    original = families("digits_mlp")[0]
    family = Reparametrized.of(original, most=100.0)
    units = []
    for seed in range(20):
        task, plain = family.sample(generator(seed)), original.sample(generator(seed))
        unit = float(task["changed.unit"])
        units.append(unit)
        rows = {name: leaf[:32] for name, leaf in family.data.inner.items()}
        params = {name: leaf.requires_grad_() for name, leaf in family.init(generator(seed), task).items()}
        same = {name: leaf.requires_grad_() for name, leaf in original.init(generator(seed), plain).items()}
        loss, other = family.loss(params, task | rows), original.loss(same, rows)
        assert float(loss.detach()) == pytest.approx(float(other.detach()), rel=1e-4)
        for ours, theirs in zip(torch.autograd.grad(loss, list(params.values())),
                                torch.autograd.grad(other, list(same.values())), strict=True):
            torch.testing.assert_close(ours, theirs * unit, rtol=1e-3, atol=1e-5 * unit)
    assert min(units) > 0.01
    assert max(units) < 100
    assert max(units) > 10 * min(units)
    settings = replace(SETTINGS, reparametrization=10.0)
    assert list(meta_train(plan(settings=settings, task="tabular_mlp", budget=400)))[-1].outcome is Outcome.COMPLETED


def test_inner_losses_in_bfloat16_are_close_and_everything_else_stays_float32() -> None:
    family = families("digits_mlp")[0]
    params = {name: leaf.requires_grad_() for name, leaf in family.init(generator(0), {}).items()}
    rows = {name: leaf[:32] for name, leaf in family.data.inner.items()}
    low, full = LowPrecision.of(family).loss(params, rows), family.loss(params, rows)
    assert low.dtype == torch.float32
    assert float(low.detach()) == pytest.approx(float(full.detach()), rel=0.02)
    assert float(low.detach()) != float(full.detach())
    for ours, theirs in zip(torch.autograd.grad(low, list(params.values())),
                            torch.autograd.grad(full, list(params.values())), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05
    point = list(meta_train(plan(settings=replace(SETTINGS, precision="bfloat16"), task="digits_mlp", budget=400)))[-1]
    assert point.outcome is Outcome.COMPLETED
    assert {leaf.dtype for leaf in point.snapshot.groups[0].values() if leaf.is_floating_point()} == {torch.float32}
