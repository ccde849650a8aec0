import math

import pytest
import torch
from test_torch_optimizer import SGD, fresh, normal, parameter, set_gradients, trained
from torch import nn

from optsearch.errors import UsageError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_as_a_whole(value):
    params, plain = [parameter(2), parameter(3)], [parameter(2), parameter(3)]
    optimizer, other = trained("adamw_mlp")(params), trained("adamw_mlp")(plain)
    set_gradients([*params, *plain], 1.0)
    optimizer.step()
    other.step()
    set_gradients(params[:1], value)
    with pytest.warns(UserWarning, match="this step is skipped.*`num_skipped_steps` counts them") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    optimizer.step()
    assert optimizer.num_skipped_steps == 2
    set_gradients([*params, *plain], -3.0)
    optimizer.step()
    other.step()
    assert all(torch.equal(*pair) for pair in zip(params, plain, strict=True))


def test_skipped_steps_are_counted_through_a_restart_and_use_up_the_run():
    param = parameter(2)
    optimizer = trained("adamw_mlp")([param], num_steps=9)
    set_gradients([param], float("nan"))
    with pytest.warns(UserWarning, match="not finite"):
        optimizer.step()
    again = trained("adamw_mlp")([param], num_steps=9)
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert again.num_skipped_steps == 2
    assert again.param_groups[0]["step"] == 2


def test_a_state_dict_of_a_plain_optimizer_has_skipped_nothing():
    optimizer = trained("adamw_mlp")([parameter(2)])
    state = optimizer.state_dict()
    del state["num_skipped_steps"]
    optimizer.load_state_dict(state)
    assert optimizer.num_skipped_steps == 0


def test_a_loop_with_a_gradient_scaler_is_a_loop_without_its_overflows():
    scaled, plain = nn.Parameter(normal(3)), nn.Parameter(normal(3))
    optimizer, other = trained("small_fc")([scaled], num_steps=5), trained("small_fc")([plain], num_steps=5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        factor = float("inf") if step == 2 else 1.0
        optimizer.zero_grad()
        scaler.scale(((scaled - step)**2).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        if step != 2:
            other.zero_grad()
            ((plain - step)**2).sum().backward()
            other.step()
    assert torch.equal(scaled, plain)
    assert scaler.get_scale() == 2.0**9
    assert optimizer.num_skipped_steps == 0


def test_sparse_gradients_are_refused_with_advice():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = trained("celo2")(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(UsageError, match=r"sparse gradients are not supported.*sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(("options", "message"), [
    ({"lr": -0.1}, "lr and weight_decay must be at least 0, not -0.1 and 0.0"),
    ({"weight_decay": -1.0}, "lr and weight_decay must be at least 0, not 1.0 and -1.0"),
    ({"num_steps": 0}, "num_steps must be finite and at least 1, or None, not 0"),
    ({"num_steps": math.inf}, "num_steps must be finite and at least 1, or None, not inf"),
    ({"num_steps": math.nan}, "num_steps must be finite and at least 1, or None, not nan"),
])
def test_settings_that_make_no_sense_are_refused_with_advice(options, message):
    with pytest.raises(UsageError, match=message):
        trained("celo2")([parameter(1)], **options)
    optimizer = trained("celo2")([parameter(1)])
    with pytest.raises(UsageError, match=message):
        optimizer.add_param_group({"params": [parameter(1)], **options})
    assert len(optimizer.param_groups) == 1


def test_complex_parameters_are_refused_with_advice():
    with pytest.raises(UsageError, match=r"complex parameters are not supported; give torch.view_as_real"):
        trained("celo2")([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_an_lr_of_zero_moves_nothing_but_the_state():
    param = parameter(2)
    optimizer = trained("small_fc")([param], lr=0.0, weight_decay=1.0)
    set_gradients([param], 1.0)
    optimizer.step()
    assert param.eq(1).all()
    assert optimizer.state[param]["step"] == 1


def test_params_of_every_layout_are_stepped_as_if_contiguous():
    values = normal(2, 3, 4, 5)
    params = [nn.Parameter(values.clone()), nn.Parameter(values.clone(memory_format=torch.channels_last)),
              nn.Parameter(values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))]
    for param in params:
        param.grad = normal(2, 3, 4, 5, purpose="gradient")
    strides = [param.stride() for param in params]
    trained("small_fc")(params).step()
    assert [param.stride() for param in params] == strides
    assert all(torch.equal(param, params[0]) for param in params)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_params_without_elements_are_skipped(shape):
    empty, param = parameter(*shape), parameter(2)
    optimizer = trained("small_fc")([empty, param])
    set_gradients([empty, param], 1.0)
    optimizer.step()
    assert list(optimizer.state) == [param]
    assert param.ne(1).all()


def test_a_scalar_param_is_stepped():
    param = parameter()
    set_gradients([param], 1.0)
    fresh(SGD)([param]).step()
    assert param.item() == pytest.approx(0.9)


def test_params_in_double_precision_keep_it():
    param = nn.Parameter(torch.full((2,), 1 / 3, dtype=torch.float64))
    set_gradients([param], 1.0)
    optimizer = fresh(SGD)([param], lr=1e-8)
    for _ in range(10):
        optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((2,), 1 / 3 - 1e-8, dtype=torch.float64), rtol=0, atol=1e-14)
    assert all(leaf.dtype == torch.float32 for leaf in optimizer.state[param].values())


def test_the_length_of_a_run_may_be_set_while_it_runs():
    param, known = parameter(2), parameter(2)
    optimizer, other = trained("adamw_mlp")([param]), trained("adamw_mlp")([known], num_steps=4)
    optimizer.param_groups[0]["num_steps"] = 4
    set_gradients([param, known], 1.0)
    optimizer.step()
    other.step()
    assert torch.equal(param, known)


def test_optimizers_keep_the_weights_that_they_were_made_with():
    module, params = trained("small_fc"), [parameter(2), parameter(2)]
    optimizers = [module(params[:1]), trained("small_fc")(params[1:])]
    module.load_state_dict({name: leaf + 1 for name, leaf in module.state_dict().items()})
    set_gradients(params, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(*params)
