import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from optsearch.export import Artifact, LearnedTorchOptimizer, OptimizerModule
from optsearch.optimizers import DESIGNS, MLP, SGDM, Features, LearnedOptimizer, Observation, Progress, named_design
from optsearch.seeds import generator

NUM_STEPS = 6
every_design = pytest.mark.parametrize("name", DESIGNS)
# Its weights start at the step of plain SGD, so that steps have a closed form.
SGD = LearnedOptimizer(Features(groups=("lean",)), MLP(hidden_size=2), schedule=Progress(initial_lr=0.1, num_knots=3),
                       base=SGDM(momentum=0.0))


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose))


def fresh(design, disturbance=0.0):
    """The design with its initial weights, or with weights that are no longer zero anywhere."""
    weights = design.init_weights(generator(0, "weights"))
    return OptimizerModule(Artifact(design, {
        name: leaf + disturbance * normal(*leaf.shape, purpose=name) for name, leaf in weights.items()}, {}))


def trained(name):
    """No more disturbed than its rates can take: a strong gain makes rounding errors grow."""
    design = named_design(name)
    return fresh(design, 0.05 / design.steering.controls.gain)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3))


def cnn():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


def build(factory, dtype=torch.float32):
    module = factory()
    with torch.no_grad():
        for name, param in module.named_parameters():
            param.copy_(0.3 * normal(*param.shape, purpose=name))
    return module.to(dtype)


def loss_at(module, step):
    dtype = next(module.parameters()).dtype
    inputs, labels = normal(8, 1, 6, 6, purpose=step).to(dtype), torch.arange(8) % 3
    return nn.functional.cross_entropy(module(inputs), labels)


def train(module, optimizer, scheduler, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_at(module, step).backward()
        optimizer.step()
        scheduler.step()


def set_gradients(params, value):
    for param in params:
        param.grad = torch.full_like(param, value)


def parameter(*shape):
    return nn.Parameter(torch.ones(shape))


@every_design
@pytest.mark.parametrize("factory", [mlp, cnn])
def test_the_optimizer_takes_the_pure_updates_of_all_tensors(name, factory):
    learned, module, num_steps = trained(name), build(factory), NUM_STEPS - 2
    optimizer = learned(module.named_parameters(), lr=2.0, weight_decay=0.1, num_steps=num_steps)
    train(module, optimizer, CosineAnnealingLR(optimizer, NUM_STEPS), range(NUM_STEPS))
    expected = build(factory)
    # In the optimizer's order, since SOAP's bases lie as rounding has it where there was hardly a gradient.
    params = dict(sorted(expected.named_parameters(), key=lambda named: tuple(named[1].shape)))
    state = learned.design.init(params)
    for step in range(NUM_STEPS):
        gradients = dict(zip(params, torch.autograd.grad(loss_at(expected, step), params.values()), strict=True))
        observation = Observation(gradients, params, torch.tensor([min(step / num_steps, 1.0)]), weight_decay=0.1,
                                  num_steps=torch.tensor([float(num_steps)]))
        with torch.no_grad():
            updates, state = learned.design.update(learned.weights, observation, state)
            for key, param in params.items():
                param.add_(updates[key], alpha=1 + math.cos(math.pi * step / NUM_STEPS))
    for key, param in module.named_parameters():
        assert param.ne(build(factory).get_parameter(key)).any()
        torch.testing.assert_close(param, params[key], rtol=1e-4, atol=1e-6)


@every_design
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_saved_in_the_middle_ends_on_the_same_bits(tmp_path, name, dtype):
    def objects():
        module = build(mlp, dtype)
        optimizer = trained(name)(module.named_parameters(), num_steps=NUM_STEPS)
        return {"module": module, "optimizer": optimizer, "scheduler": CosineAnnealingLR(optimizer, NUM_STEPS)}

    whole, first, second = objects(), objects(), objects()
    train(*whole.values(), range(NUM_STEPS))
    train(*first.values(), range(3))
    torch.save({key: value.state_dict() for key, value in first.items()}, tmp_path / "middle.pt")
    for key, state in torch.load(tmp_path / "middle.pt", weights_only=True).items():
        second[key].load_state_dict(state)
    train(*second.values(), range(3, NUM_STEPS))
    for left, right in zip(whole["module"].parameters(), second["module"].parameters(), strict=True):
        assert left.dtype == dtype
        assert torch.equal(left, right)
    for optimizer in (whole["optimizer"], second["optimizer"]):
        leaves = [leaf for state in optimizer.state.values() for leaf in state.values()]
        assert leaves
        assert all(leaf.dtype == torch.float32 for leaf in leaves)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
                         ids=["deepcopy", "pickle"])
def test_a_copied_optimizer_goes_on_alone(duplicate):
    param = parameter(3)
    optimizer = trained("small_fc")([param])
    set_gradients([param], 0.5)
    optimizer.step()
    copied = duplicate(optimizer)
    other = copied.param_groups[0]["params"][0]
    set_gradients([param, other], -2.0)
    before = param.detach().clone()
    copied.step()
    assert torch.equal(param, before)
    optimizer.step()
    assert torch.equal(param, other)


def test_a_copied_state_dict_does_not_change_with_the_run():
    param = parameter(3)
    optimizer = trained("small_fc")([param])
    for value in (1.0, 2.0):
        set_gradients([param], value)
        optimizer.step()
        if value == 1.0:
            saved, at_save = copy.deepcopy(optimizer.state_dict()), param.detach().clone()
    other = nn.Parameter(at_save)
    again = trained("small_fc")([other])
    again.load_state_dict(saved)
    set_gradients([other], 2.0)
    again.step()
    assert torch.equal(param, other)
    assert saved["state"][0]["step"] == 1


def test_groups_have_their_own_lr_weight_decay_and_num_steps():
    names = ("adamw_mlp", "small_fc")
    options = ({"lr": 0.5, "weight_decay": 0.2, "num_steps": 3}, {"lr": 2.0})
    for name in names:
        together, alone = [parameter(3), parameter(3)], [parameter(3), parameter(3)]
        optimizers = [trained(name)([{"params": [param], **option} for param, option in
                                     zip(together, options, strict=True)], lr=7.0, weight_decay=0.1, num_steps=5),
                      trained(name)([alone[0]], lr=0.5, weight_decay=0.2, num_steps=3),
                      trained(name)([alone[1]], lr=2.0, weight_decay=0.1, num_steps=5)]
        for step in range(4):
            set_gradients([*together, *alone], 0.5 - step)
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(together[0], alone[0])
        assert torch.equal(together[1], alone[1])
        assert not torch.equal(together[0], together[1])


def test_a_group_added_later_starts_its_own_run():
    late, alone = parameter(2), parameter(2)
    optimizer, other = trained("adamw_mlp")([parameter(2)], num_steps=9), trained("adamw_mlp")([alone], num_steps=2)
    set_gradients(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.add_param_group({"params": [late], "num_steps": 2})
    for value in (1.0, -0.5):
        set_gradients([late, alone], value)
        optimizer.step()
        other.step()
    assert torch.equal(late, alone)
    assert [group["step"] for group in optimizer.param_groups] == [3, 2]


def test_named_parameters_train_alike_and_keep_their_names():
    modules = [build(mlp), build(mlp)]
    optimizers = [trained("celo2")(modules[0].parameters()), trained("celo2")(modules[1].named_parameters())]
    for module, optimizer in zip(modules, optimizers, strict=True):
        train(module, optimizer, CosineAnnealingLR(optimizer, 9), range(2))
    assert all(torch.equal(*pair) for pair in zip(*(module.parameters() for module in modules), strict=True))
    assert optimizers[1].state_dict()["param_groups"][0]["param_names"] == list(dict(modules[1].named_parameters()))


def test_params_without_a_gradient_are_left_alone_until_they_have_one():
    used, unused, frozen = parameter(2), parameter(2), parameter(2).requires_grad_(False)
    optimizer = trained("lstm_2016")([used, unused, frozen], weight_decay=0.1)
    set_gradients([used], 1.0)
    optimizer.step()
    assert unused.eq(1).all()
    assert frozen.eq(1).all()
    assert used.ne(1).all()
    assert list(optimizer.state) == [used]
    set_gradients([unused], 1.0)
    used.grad = None
    optimizer.step()
    assert torch.equal(used, unused)


def test_a_closure_is_run_with_gradients_and_its_loss_returned():
    param = parameter(2)
    optimizer = fresh(SGD)([param])

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    torch.testing.assert_close(param.detach(), torch.full((2,), 0.8))
    assert optimizer.step() is None


def test_weight_decay_is_in_the_units_of_adamw():
    params = [nn.Parameter(normal(4, 3)), nn.Parameter(normal(4, 3))]
    design = named_design("adamw_mlp")
    lr = design.schedule.initial_lr
    optimizers = [fresh(design)(params[:1], lr=20.0, weight_decay=0.3),
                  torch.optim.AdamW(params[1:], lr=20 * lr, weight_decay=design.base.weight_decay + 0.3)]
    for step in range(10):
        for param, optimizer in zip(params, optimizers, strict=True):
            param.grad = normal(4, 3, purpose=step)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1])


@pytest.mark.parametrize(("num_steps", "exponents"), [
    (4, [0, 0.5, 1, -0.5, -2, -2]),      # knots 0, 1 and -2 at 0, 1/2 and 1 of the run; beyond it the last holds
    (None, [0.5] * 6),                   # unknown: a quarter of the run
])
def test_a_learned_schedule_moves_with_the_run_if_its_length_is_known(num_steps, exponents):
    module = fresh(SGD)
    module.weights["schedule.knots"].copy_(torch.tensor([0.0, 1.0, -2.0]) / SGD.schedule.gain)
    param = parameter(1)
    optimizer = module([param], num_steps=num_steps)
    for exponent in exponents:
        before = param.item()
        set_gradients([param], 1.0)
        optimizer.step()
        assert before - param.item() == pytest.approx(0.1 * math.exp(exponent), rel=1e-5, abs=2e-7)


@pytest.mark.parametrize("told", ["closure", "number", "tensor"])
def test_a_controller_hears_the_loss(told: str) -> None:
    """As told in an observation to the pure update, however it comes."""
    design = named_design("opt2vec")
    weights = {name: leaf + 0.1 for name, leaf in design.init_weights(generator(0, "weights")).items()}
    param = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
    params, state = {"p": param.detach().clone()}, design.init({"p": param})
    optimizer = LearnedTorchOptimizer([param], design, weights, lr=1.0, weight_decay=0.0, num_steps=None)
    for _ in range(4):
        loss = param.square().sum()
        updates, state = design.update(
            weights, Observation({"p": 2 * params["p"]}, params, loss=loss.detach()[None]), state)
        params = {"p": params["p"] + updates["p"]}
        optimizer.zero_grad()
        loss.backward()
        if told == "closure":
            optimizer.step(lambda loss=loss: loss.detach())
        else:
            optimizer.step(loss=loss.item() if told == "number" else loss)
    torch.testing.assert_close(param.detach(), params["p"], rtol=1e-6, atol=1e-7)
    deaf = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
    other = LearnedTorchOptimizer([deaf], design, weights, lr=1.0, weight_decay=0.0, num_steps=None)
    for _ in range(4):
        other.zero_grad()
        deaf.square().sum().backward()
        other.step()
    assert not torch.equal(deaf, param)
