import math

import pytest
import torch
from torch.func import functional_call, grad, grad_and_value, jacrev, vmap

from optsearch.errors import TaskError
from optsearch.seeds import generator
from optsearch.tasks import DOMAINS, TASKS, Data, families, families_of, networks, split_rows
from optsearch.tasks.quadratics import LABEL_NOISE

SPLITS = ("inner", "meta", "test")
FAMILIES = {family.name: family for name in TASKS for family in families(name)}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def first_rows(family, split, num_rows):
    return {name: leaf[:num_rows] for name, leaf in family.data.rows(split).items()}


def fresh(family, seed):
    """A task and params for it."""
    stream = generator(seed, "training")
    task = family.sample(stream)
    return task, family.init(stream, task)


@every_family
def test_a_family_says_what_it_is(family):
    assert family.domain in DOMAINS
    assert family.loss_cap > 0
    assert family.batch_size > 0


@every_family
def test_no_row_is_in_two_splits(family):
    sets = [{row.numpy().tobytes() for row in family.data.rows(split)["inputs"]} for split in SPLITS]
    assert all(len(rows) >= family.batch_size / 2 for rows in sets)
    for index, rows in enumerate(sets):
        assert not any(rows & other for other in sets[:index])


@every_family
def test_the_leaves_of_a_split_have_the_same_rows(family):
    for split in SPLITS:
        assert len({len(leaf) for leaf in family.data.rows(split).values()}) == 1
        assert all(leaf.isfinite().all() for leaf in family.data.rows(split).values())


@every_family
def test_the_loss_is_finite_below_the_cap_and_differentiable(family):
    losses = []
    for seed in range(4):
        task, params = fresh(family, seed)
        for split in SPLITS:
            gradients, loss = grad_and_value(family.loss)(params, family.data.rows(split) | task)
            assert loss.shape == ()
            assert all(leaf.isfinite().all() and leaf.any() for leaf in gradients.values())
            losses.append(loss)
    assert torch.stack(losses).isfinite().all()
    assert torch.stack(losses).mean() < family.loss_cap


@every_family
def test_plain_gradient_descent_lowers_the_loss(family):
    task, params = fresh(family, 0)
    batch = first_rows(family, "inner", 256) | task
    start = family.loss(params, batch)
    for _ in range(20):
        gradients = grad(family.loss)(params, batch)
        params = {name: leaf - 0.05 * gradients[name] for name, leaf in params.items()}
    assert family.loss(params, batch) < start


@every_family
def test_many_trainings_at_once_equal_one_by_one(family):
    num_rows, starts = 8, [fresh(family, seed) for seed in range(3)]
    tasks, params = ({name: torch.stack([start[index][name] for start in starts]) for name in starts[0][index]}
                     for index in (0, 1))
    rows = {name: leaf[:3 * num_rows].unflatten(0, (3, num_rows)) for name, leaf in family.data.inner.items()}
    gradients, losses = vmap(grad_and_value(family.loss))(params, rows | tasks)
    for index, (task, alone) in enumerate(starts):
        batch = {name: leaf[index] for name, leaf in rows.items()} | task
        gradient, loss = grad_and_value(family.loss)(alone, batch)
        torch.testing.assert_close(losses[index], loss)
        torch.testing.assert_close({name: leaf[index] for name, leaf in gradients.items()}, gradient)


@every_family
def test_a_training_depends_on_its_seed_alone(family):
    first, second, other = fresh(family, 1), fresh(family, 1), fresh(family, 2)
    for index in (0, 1):
        assert all(torch.equal(leaf, second[index][name]) for name, leaf in first[index].items())
    assert any(not torch.equal(leaf, other[index][name]) for index in (0, 1) for name, leaf in first[index].items())


@every_family
def test_a_family_moves_to_a_device_with_its_data(family):
    moved = family.on("meta")
    assert moved == family
    assert all(leaf.device.type == "meta" for split in SPLITS for leaf in moved.data.rows(split).values())
    assert all(leaf.device.type == "cpu" for split in SPLITS for leaf in family.data.rows(split).values())


@pytest.mark.parametrize("name", TASKS)
def test_families_of_a_task_are_the_same_every_time(name):
    for first, second in zip(families(name), families(name), strict=True):
        assert first == second
        assert first.name.split("/")[0] == name
        assert all(torch.equal(leaf, second.data.rows(split)[key])
                   for split in SPLITS for key, leaf in first.data.rows(split).items())


def test_families_have_names_of_their_own_and_stand_in_the_order_asked_for():
    assert len(FAMILIES) == sum(len(families(name)) for name in TASKS)
    assert families_of(["quadratics", "digits_mlp"]) == (*families("quadratics"), *families("digits_mlp"))


def test_an_unknown_task_lists_those_that_exist():
    with pytest.raises(TaskError, match=f"no task `magic`. Tasks: {', '.join(sorted(TASKS))}"):
        families_of(["quadratics", "magic"])


def test_rows_are_split_sixty_twenty_twenty_and_stay_together():
    rows = {"inputs": torch.arange(50), "targets": 2 * torch.arange(50)}
    data = split_rows(rows, generator(0, "split"))
    assert [len(data.rows(split)["inputs"]) for split in SPLITS] == [30, 10, 10]
    assert all(torch.equal(data.rows(split)["targets"], 2 * data.rows(split)["inputs"]) for split in SPLITS)
    everything = torch.cat([data.rows(split)["inputs"] for split in SPLITS])
    assert not torch.equal(everything, rows["inputs"])
    assert torch.equal(everything.sort().values, rows["inputs"])


def test_data_move_without_changing():
    data = Data({"a": torch.ones(2)}, {"a": torch.zeros(1)}, {"a": torch.zeros(3)})
    assert torch.equal(data.to("cpu").inner["a"], data.inner["a"])


def test_the_cnn_is_that_of_torch():
    family = FAMILIES["digits_cnn/32"]
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 10))
    batch = first_rows(family, "inner", 16)
    _, params = fresh(family, 0)
    renamed = dict(zip(network.state_dict(), params.values(), strict=True))
    expected = torch.nn.functional.cross_entropy(functional_call(network, renamed, batch["inputs"]), batch["targets"])
    torch.testing.assert_close(family.loss(params, batch), expected)


@pytest.mark.parametrize("name", ["digits_mlp/32", "tabular_mlp/wine", "tabular_mlp/diabetes"])
def test_the_mlps_are_those_of_torch(name):
    family = FAMILIES[name]
    batch = first_rows(family, "inner", 16)
    _, params = fresh(family, 0)
    first, second = params["0.weight"], params["1.weight"]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(*first.T.shape), torch.nn.ReLU(),
                                  torch.nn.Linear(*second.T.shape))
    network.load_state_dict(dict(zip(network.state_dict(), params.values(), strict=True)))
    outputs = network(batch["inputs"]).detach()
    expected = (torch.nn.functional.mse_loss(outputs[:, 0], batch["targets"]) if name.endswith("diabetes")
                else torch.nn.functional.cross_entropy(outputs, batch["targets"]))
    torch.testing.assert_close(family.loss(params, batch), expected)


@pytest.mark.parametrize("shape", [(100, 50), (100, 10, 3, 3)])
def test_layers_start_as_those_of_torch(shape):
    params = networks.init_layer(generator(0, "layer"), "0", shape)
    layer = torch.nn.Linear(*shape[::-1]) if len(shape) == 2 else torch.nn.Conv2d(shape[1], shape[0], shape[2:])
    for name, leaf in layer.named_parameters():
        ours, bound = params[f"0.{name}"], math.prod(shape[1:])**-0.5
        assert ours.shape == leaf.shape
        # Uniform between the bounds: both reach out to them, neither goes beyond.
        assert all(0.9 * bound < values.abs().max() <= bound for values in (ours, leaf))
        torch.testing.assert_close(ours.std(), torch.tensor(bound / 3**0.5), rtol=0.2, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_quadratic_has_a_hessian_of_trace_one_and_its_closed_form_gradient(seed):
    family = FAMILIES["quadratics"]
    task, _ = fresh(family, seed)
    params = {"solution": torch.randn(20, generator=generator(seed, "params"))}
    # Rows whose second moments are the identity, without noise: the expected loss, exactly.
    batch = {"inputs": math.sqrt(20) * torch.eye(20), "noise": torch.zeros(20)} | task
    curvature = jacrev(grad(family.loss))(params, batch)["solution"]["solution"]
    eigenvalues = torch.linalg.eigvalsh(curvature.double())
    torch.testing.assert_close(eigenvalues.sum(), torch.ones(()).double(), rtol=1e-5, atol=0)
    assert 1 <= eigenvalues[-1] / eigenvalues[0] <= 1001
    error = params["solution"] - task["solution"]
    torch.testing.assert_close(curvature, task["root"].T @ task["root"])
    torch.testing.assert_close(grad(family.loss)(params, batch)["solution"], curvature @ error)
    torch.testing.assert_close(family.loss(params, batch), error @ curvature @ error / 2)


def test_no_solution_of_a_quadratic_beats_the_noise_of_its_labels():
    family = FAMILIES["quadratics"]
    task, _ = fresh(family, 0)
    for split in SPLITS:
        floor = family.loss({"solution": task["solution"]}, family.data.rows(split) | task)
        # The spread of the mean of 1,000 squares is 4.5 %.
        torch.testing.assert_close(floor, torch.tensor(LABEL_NOISE**2 / 2), rtol=0.15, atol=0)
