"""Families seen through a change: what stays the same, and what changes as it is said to."""

import pytest
import torch
from torch.func import vmap

from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.seeds import generator
from optsearch.tasks import FewerRows, NoisyGradients, Reparametrized, families

ORIGINAL = families("digits_mlp")[0]
NUM_ROWS = 32


def start(family, seed=0):
    stream = generator(seed, "training")
    task = family.sample(stream)
    return task, family.init(stream, task)


def rows(family, seed=0):
    chosen = torch.randint(len(family.data.inner["inputs"]), (NUM_ROWS,), generator=generator(seed, "rows"))
    return {name: leaf[chosen] for name, leaf in family.data.inner.items()}


def gradient(family, params, batch):
    params = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
    return dict(zip(params, torch.autograd.grad(family.loss(params, batch), list(params.values())), strict=True))


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_units_are_drawn_at_their_level_and_scale_gradients(level):
    family = Reparametrized.of(ORIGINAL, most=100.0, level=level)
    units = []
    for seed in range(20):
        stream = generator(seed, "training")
        task = family.sample(stream)
        state = stream.get_state()
        params = family.init(stream, task)
        stream.set_state(state)
        plain, batch = ORIGINAL.init(stream, {}), rows(family)
        torch.testing.assert_close(family.loss(params, batch | task), ORIGINAL.loss(plain, batch))
        found, expected = gradient(family, params, batch | task), gradient(ORIGINAL, plain, batch)
        for name, leaf in params.items():
            unit = plain[name] / leaf
            torch.testing.assert_close(found[name], expected[name] * unit, rtol=1e-4, atol=1e-7)
            # Relative to its middle one, the spread of a tensor's units.
            spread = (unit / unit.flatten().median()).log().abs().max()
            assert spread > 1 if level == "parameter" else spread < 1e-3
        units.append([float((plain[name] / leaf).flatten()[0]) for name, leaf in params.items()])
    logs = torch.tensor(units).log10()
    assert -2.001 < logs.min() < -1
    assert 1 < logs.max() < 2.001
    assert bool((logs - logs[:, :1]).abs().max() < 1e-3) == (level == "global")


def test_noise_has_the_deviation_that_was_drawn_and_leaves_losses_alone():
    family = NoisyGradients.of(ORIGINAL, most=2.0)
    task, params = start(family)
    assert 0.02 <= task["changed.noise"] <= 2.0
    clean = gradient(ORIGINAL, params, rows(ORIGINAL))
    noise = {name: [] for name in clean}
    for seed in range(40):
        # The same rows under other numbers: only the noise is new.
        batch = rows(family) | {"changed.draw": torch.arange(NUM_ROWS) + 100 * seed} | task
        torch.testing.assert_close(family.loss(params, batch), ORIGINAL.loss(params, batch))
        for name, leaf in gradient(family, params, batch).items():
            noise[name].append((leaf - clean[name]) / clean[name].square().mean().sqrt())
    for name, each in noise.items():
        found = torch.stack(each) / task["changed.noise"]
        error = 5 / found.numel()**0.5
        assert abs(float(found.mean())) < error, name
        assert float(found.std()) == pytest.approx(1.0, abs=error), name


def test_noise_is_new_at_every_batch_and_the_same_for_the_same_one():
    family = NoisyGradients.of(ORIGINAL, most=1.0)
    task, params = start(family)
    first, again, other = (gradient(family, params, rows(family, seed) | task)["0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    clean = [gradient(ORIGINAL, params, rows(ORIGINAL, seed))["0.weight"] for seed in (0, 1)]
    noises = torch.stack([first - clean[0], other - clean[1]]).flatten(1)
    assert abs(float(torch.corrcoef(noises)[0, 1])) < 0.1


def test_every_row_has_a_number_of_its_own():
    data = NoisyGradients.of(ORIGINAL, most=1.0).data
    numbers = torch.cat([data.inner["changed.draw"], data.meta["changed.draw"], data.test["changed.draw"]])
    assert torch.equal(numbers, torch.arange(len(numbers)))


def test_fewer_rows_stand_for_the_batch():
    family = FewerRows.of(ORIGINAL, least=0.25)
    _, params = start(family)
    shares = torch.stack([family.sample(generator(seed, "task"))["changed.share"] for seed in range(200)])
    assert 0.25 <= shares.min() < 0.3
    assert 0.95 < shares.max() <= 1.0
    batch = rows(family)
    eight = {name: leaf[:8] for name, leaf in batch.items()}
    torch.testing.assert_close(family.loss(params, batch | {"changed.share": torch.tensor(0.25)}),
                               ORIGINAL.loss(params, eight))
    torch.testing.assert_close(family.loss(params, batch | {"changed.share": torch.tensor(1.0)}),
                               ORIGINAL.loss(params, batch))


def all_changes(family):
    noisy = NoisyGradients.of(Reparametrized.of(family, most=10.0, level="tensor"), most=1.0)
    return FewerRows.of(noisy, least=0.2)


def test_changes_chain_and_many_at_once_equal_one_by_one():
    family = all_changes(ORIGINAL)
    starts = [start(family, seed) for seed in range(3)]
    tasks, params = ({name: torch.stack([each[index][name] for each in starts]) for name in starts[0][index]}
                     for index in (0, 1))
    batches = [rows(family, seed) for seed in range(3)]
    batch = {name: torch.stack([each[name] for each in batches]) for name in batches[0]}
    leaves = [leaf.requires_grad_() for leaf in params.values()]
    together = torch.autograd.grad(vmap(family.loss)(params, tasks | batch).sum(), leaves)
    for index, (task, alone) in enumerate(starts):
        found = gradient(family, alone, batches[index] | task)
        for leaf, expected in zip(together, found.values(), strict=True):
            torch.testing.assert_close(leaf[index], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ["nres", "backprop"])
@pytest.mark.parametrize("compiling", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_meta_training_sees_the_changed_tasks(estimator, compiling):
    """With every change at once, compiled or not; without them it goes another way."""
    settings = MetaTraining(horizon=12, truncation=4, num_meta_losses=2, num_tasks=2, estimator=estimator,
                            reparametrization=10.0, reparametrization_level="tensor", gradient_noise=0.5,
                            min_batch_share=0.5)
    budget = 2 * 4 * 2 * (2 if estimator == "nres" else 1)
    plan = Plan(named_design("adamw_mlp"), families("quadratics"), settings, budget, 2, seed=0, compiling=compiling)
    *_, last = meta_train(plan)
    plainer = Plan(plan.optimizer, plan.families, MetaTraining(**vars(settings) | {"gradient_noise": 0.0}), budget, 2,
                   seed=0)
    *_, other = meta_train(plainer)
    assert all(leaf.isfinite().all() for leaf in last.weights.values())
    assert last.meta_loss != other.meta_loss
