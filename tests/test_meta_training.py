"""Meta-training: unbiased gradients, fair pairs, and a resume that gives the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optsearch import trees
from optsearch.errors import DesignError
from optsearch.meta_training import Checkpoints, MetaTraining, Outcome, Plan, inner, meta_train
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem, Window, fresh_trainings
from optsearch.optimizers import LSTM, MLP, Features, LearnedOptimizer, NoMixing, Raw, named_design
from optsearch.seeds import generator
from optsearch.tasks import families, networks

SMALL = LearnedOptimizer(features=Features(groups=("lean",)), rule=MLP(hidden_size=4))
SETTINGS = MetaTraining(horizon=40, num_tasks=2, truncation=10, num_meta_losses=2)


def plan(optimizer: LearnedOptimizer = SMALL, settings: MetaTraining = SETTINGS, *, task: str = "quadratics",
         budget: int = 1600, num_points: int = 4) -> Plan:
    return Plan(optimizer, families(task), settings, budget, num_points, seed=3)


def test_a_batch_of_trainings_equals_trainings_run_one_by_one() -> None:
    family = families("digits_mlp")[0]
    optimizer = named_design("adamw_mlp")
    weights = [optimizer.init_weights(generator(index, "weights")) for index in range(3)]
    weights = [{name: leaf + 0.01 for name, leaf in each.items()} for each in weights]

    def run(chosen: list[int]) -> Tensor:
        batch = {name: torch.stack([weights[index][name] for index in chosen]) for name in weights[0]}
        trainings = inner.start(optimizer, family, [generator(index, "inner") for index in chosen], [5] * len(chosen))
        with torch.no_grad():
            for _ in range(5):
                rows = inner.draw(family, "inner", (1,), generator(7, "rows")).repeat(len(chosen), 1)
                losses, trainings = inner.step(optimizer, family, batch, trainings,
                                               inner.rows_at(family, "inner", rows))
        return losses

    together = run([0, 1, 2])
    alone = torch.cat([run([index]) for index in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_meta_loss_is_that_of_all_meta_rows_where_these_are_few() -> None:
    """A log of the loss on few rows would be lowest for what is sure of itself, and wrong."""
    family = families("tabular_mlp")[0]
    weights = SMALL.init_weights(generator(0, "weights"))
    problem = Problem(Steps(SMALL, family), SETTINGS, trees.shapes_of(weights))
    start = fresh_trainings(problem, [40, 40], generator(0, "start"))
    batched = {name: leaf.expand(2, *leaf.shape) for name, leaf in weights.items()}
    unroll = Window(problem, 10, 2).run(start, batched, generator(1, "step"))
    for index in range(2):
        params = {name: leaf[index] for name, leaf in unroll.trainings.params.items()}
        loss = torch.nn.functional.cross_entropy(networks.mlp(params, family.data.meta["inputs"]),
                                                 family.data.meta["targets"])
        assert float(unroll.meta_losses.losses[-1, index]) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("size", [16, 128])
def test_meta_batches_are_drawn_where_there_are_more_rows(size: int) -> None:
    rows = inner.draw_meta(families("digits_mlp")[0], (4, 3), size, generator(0, "rows"))
    assert rows.shape == (4, 3, size)
    assert len(rows.unique()) > size
    assert 0 <= int(rows.min()) <= int(rows.max()) < 360


def test_meta_training_lowers_the_meta_loss() -> None:
    settings = replace(SETTINGS, num_tasks=8, meta_lr=1e-2)
    points = list(meta_train(plan(settings=settings, budget=32_000)))
    assert points[-1].meta_loss < points[0].meta_loss - 0.05
    assert points[-1].outcome is Outcome.COMPLETED
    assert [point.index for point in points] == [1, 2, 3, 4]
    assert points[-1].inner_steps == 32_000


@pytest.mark.parametrize("rule", [MLP(hidden_size=4), pytest.param(LSTM(hidden_size=3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_resumed_meta_training_gives_the_same_bits(rule: MLP | LSTM, estimator: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, estimator=estimator)  # type: ignore[arg-type]
    asked = plan(replace(SMALL, rule=rule), settings, task="tabular_mlp", budget=800)
    unbroken = list(meta_train(asked))
    checkpoints = Checkpoints(tmp_path, "same")
    for point in meta_train(asked):
        checkpoints.save(point, [{"point": point.index}])
        if point.index == 2:
            break
    found = checkpoints.newest()
    assert found is not None
    resumed = list(meta_train(asked, found[0]))
    assert [point.index for point in resumed] == [3, 4]
    for ours, theirs in zip(resumed, unbroken[2:], strict=True):
        assert ours.meta_loss == theirs.meta_loss
        assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "same")
    for point in meta_train(plan()):
        checkpoints.save(point, [{"point": point.index}])
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == ["000003.safetensors", "000004.safetensors"]
    content = bytearray(kept[-1].read_bytes())
    content[-3] ^= 1
    kept[-1].write_bytes(content)
    found = checkpoints.newest()
    assert found is not None
    assert found[1] == [{"point": 3}]


def test_checkpoints_of_something_else_are_left_alone(tmp_path: Path) -> None:
    point = next(meta_train(plan()))
    Checkpoints(tmp_path, "this").save(point, [])
    assert Checkpoints(tmp_path, "that").newest() is None


def test_divergence_is_an_outcome() -> None:
    settings = replace(SETTINGS, meta_lr=1e38)
    design = replace(SMALL, head=Raw(), mixing=NoMixing(), base=None)
    points = list(meta_train(plan(design, settings)))
    assert points[-1].outcome is Outcome.DIVERGED
    assert len(points) < 4


def test_non_finite_losses_count_as_the_cap() -> None:
    family = families("digits_mlp")[0]
    losses = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0, 100.0])
    capped = inner.capped(losses, family.loss_cap)
    assert capped[0] == capped[1] == capped[4] == pytest.approx(family.loss_cap)
    assert capped[3] == 1.0
    assert bool(capped.isfinite().all())


@pytest.mark.parametrize("change", [{"estimator": "es"}, {"meta_loss": "test"}, {"num_tasks": 0}, {"horizon": 5},
                                    {"sigma": 0.0}, {"min_horizon_ratio": 2.0}, {"num_meta_losses": 11},
                                    {"meta_batch_size": 0}, {"num_meta_losses": 3}, {"curriculum": 1.5},
                                    {"meta_warmup": -0.1}, {"max_meta_gradient": -1.0}, {"meta_weight_decay": -1.0},
                                    {"reparametrization": 0.5}, {"precision": "float16"}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DesignError):
        replace(SETTINGS, **change)  # type: ignore[arg-type]
