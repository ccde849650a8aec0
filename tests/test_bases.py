import math
from dataclasses import replace
from functools import cache

import pytest
import reference_optimizers
import torch
from torch import nn

from optsearch import optimizers
from optsearch.optimizers import (
    DESIGNS,
    GRU,
    HEADS,
    LSTM,
    MIXINGS,
    MLP,
    RULES,
    SCHEDULES,
    SGDM,
    SOAP,
    AdamW,
    AggMo,
    Constant,
    Cosine,
    ExpMagnitude,
    Features,
    LearnedOptimizer,
    Lion,
    Muon,
    NoRule,
    Observation,
    OutputRMS,
    ParameterRMS,
    Progress,
    Raw,
    RMSprop,
)
from optsearch.optimizers.inputs import Inputs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.rules import ACTIVATIONS
from optsearch.seeds import generator

NUM_STEPS = 3
BASES = {
    "adamw": AdamW(), "adamw, other values": AdamW(beta1=0.5, beta2=0.9, eps=1e-4, weight_decay=0.2),
    "adam": AdamW(weight_decay=0.0), "sgdm": SGDM(), "sgdm, other values": SGDM(momentum=0.5, weight_decay=0.1),
    "lion": Lion(), "lion, other values": Lion(beta1=0.5, beta2=0.7, weight_decay=0.1), "rmsprop": RMSprop(),
    "rmsprop, other values": RMSprop(alpha=0.9, momentum=0.0, eps=1e-3, weight_decay=0.1), "aggmo": AggMo(),
    "aggmo, other values": AggMo(betas=(0.5, 0.9), beta2=0.9, eps=1e-3, weight_decay=0.1), "muon": Muon(),
    "muon, other values": Muon(beta1=0.8, beta2=0.99, eps=1e-4, weight_decay=0.0, momentum=0.5, num_iterations=2),
    "soap": SOAP(),
    "soap, other values": SOAP(0.8, 0.9, 1e-4, 0.2, shampoo_beta=0.7, precondition_1d=True, precondition_frequency=2)}
# What carries a base through the first steps: every rule, head, mixing and schedule.
CARRIERS = [LearnedOptimizer(Features(groups=("compact",)), kind()) for name, kind in RULES.items() if name != "none"]
CARRIERS += [LearnedOptimizer(head=kind()) for kind in HEADS.values()]
CARRIERS += [LearnedOptimizer(mixing=kind()) for kind in MIXINGS.values() if kind().has_base]
FLAT = [name for name in SCHEDULES if name != "cosine"]
CARRIERS += [LearnedOptimizer(rule=NoRule(), schedule=SCHEDULES[name]()) for name in FLAT]
# At a rate at which every base stays on the ground.
CARRIERS += [replace(design, schedule=Progress(initial_lr=1e-3))
             for design, _ in DESIGNS.values() if design.base is not None]
# Two tensors: the heads that scale must keep them apart.
LAYOUT = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(4)})


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


REFERENCES = {
    AdamW: lambda base, params, lr: torch.optim.AdamW(params, lr, (base.beta1, base.beta2), base.eps,
                                                      base.weight_decay),
    SGDM: lambda base, params, lr: torch.optim.SGD(params, lr, base.momentum, weight_decay=base.weight_decay),
    RMSprop: lambda base, params, lr: torch.optim.RMSprop(params, lr, base.alpha, base.eps, base.weight_decay,
                                                          base.momentum),
    Lion: lambda base, params, lr: reference_optimizers.Lion(params, lr, base),
    AggMo: lambda base, params, lr: reference_optimizers.AggMo(params, lr, base),
    Muon: lambda base, params, lr: reference_optimizers.Muon(params, lr, base),
    SOAP: lambda base, params, lr: reference_optimizers.SOAP(params, lr, base)}


def rosenbrock(params):
    values = torch.cat([param.flatten() for param in params.values()])
    return ((1 - values[:-1])**2 + 10 * (values[1:] - values[:-1]**2)**2).sum()


def gradients_at(params):
    leaves = {name: param.detach().clone().requires_grad_() for name, param in params.items()}
    return dict(zip(leaves, torch.autograd.grad(rosenbrock(leaves), leaves.values()), strict=True))


def doubled(weights):
    return {name: leaf.double() for name, leaf in weights.items()}


def test_every_base_is_compared_with_a_reference():
    assert {type(base) for base in BASES.values()} == set(optimizers.BASES.values())


FRESH = {"a": normal(2, 3, purpose="a"), "b": normal(4, purpose="b"), "c": normal(purpose="c")}


@cache
def after_the_reference(base, lr):
    """Params after `NUM_STEPS` steps."""
    params = {name: nn.Parameter(param.clone()) for name, param in FRESH.items()}
    optimizer = REFERENCES[type(base)](base, params.values(), lr)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        rosenbrock(params).backward()
        optimizer.step()
    return {name: param.detach() for name, param in params.items()}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("is_horizon_known", [True, False])
def test_with_initial_weights_every_design_takes_the_step_of_its_base(base, is_horizon_known):
    for carrier in CARRIERS:
        design = LearnedOptimizer(carrier.features, carrier.rule, carrier.head, carrier.schedule, carrier.mixing, base,
                                  carrier.controller)
        weights = doubled(design.init_weights(generator(0, "weights")))
        params, state = FRESH, design.init(FRESH)
        for step in range(NUM_STEPS):
            progress = torch.tensor([step / NUM_STEPS]).double() if is_horizon_known else None
            updates, state = design.update(weights, Observation(gradients_at(params), params, progress), state)
            params = {name: param + updates[name] for name, param in params.items()}
        for name, expected in after_the_reference(base, design.schedule.initial_lr).items():
            assert (params[name] != FRESH[name]).all()
            torch.testing.assert_close(params[name], expected, rtol=1e-10, atol=1e-12)


def run_rule(rule, weights, sequence):
    """Outputs `[steps, num_outputs, n]` for features `[steps, num_inputs, n]`."""
    layout, state, outputs = Layout.of({"p": sequence[0, 0]}), rule.init(sequence[0, 0]), []
    for features in sequence:
        (block,) = Inputs(layout, None, lambda *_, values=features: [values], {}, {}, {}, {}).blocks()
        output, state = rule.update(weights, block, state)
        outputs.append(output)
    return torch.stack(outputs)


def linear(weights, name):
    layer = nn.utils.skip_init(nn.Linear, *weights[f"{name}.weight"].T.shape, dtype=torch.float64)
    layer.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    return layer


def random_weights(rule, num_inputs, num_outputs):
    weights = rule.init_weights(generator(0, "rule"), num_inputs, num_outputs)
    return {name: normal(*leaf.shape, purpose=name) / math.sqrt(leaf.shape[-1]) for name, leaf in weights.items()}


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(("activation", "layer"), [("relu", nn.ReLU()), ("tanh", nn.Tanh()), ("silu", nn.SiLU()),
                                                    ("gelu", nn.GELU())])
def test_the_mlp_is_that_of_torch(num_layers, activation, layer):
    rule = MLP(hidden_size=5, num_layers=num_layers, activation=activation)
    weights, sequence = random_weights(rule, 4, 3), normal(2, 4, 7)
    hidden = [module for index in range(num_layers) for module in (linear(weights, f"hidden{index}"), layer)]
    network = nn.Sequential(*hidden, linear(weights, "output"))
    torch.testing.assert_close(run_rule(rule, weights, sequence), network(sequence.mT).mT.detach())


def test_every_activation_is_compared_with_that_of_torch():
    assert ACTIVATIONS.keys() == {"relu", "tanh", "silu", "gelu"}


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("input_size", [0, 6])
def test_the_lstm_is_that_of_torch_for_every_parameter(num_layers, input_size):
    rule = LSTM(hidden_size=5, num_layers=num_layers, input_size=input_size)
    weights, sequence = random_weights(rule, 4, 2), normal(6, 4, 7)
    network = nn.LSTM(input_size or 4, 5, num_layers, dtype=torch.float64)
    network.load_state_dict({name: leaf for index in range(num_layers) for name, leaf in {
        f"weight_ih_l{index}": weights[f"gates{index}.weight"], f"bias_ih_l{index}": weights[f"gates{index}.bias"],
        f"weight_hh_l{index}": weights[f"recurrent{index}"], f"bias_hh_l{index}": torch.zeros(20)}.items()})
    before = nn.Sequential(linear(weights, "input"), nn.ELU()) if input_size else nn.Identity()
    # Steps of time first, parameters as torch's batch.
    hidden, _ = network(before(sequence.mT))
    torch.testing.assert_close(run_rule(rule, weights, sequence), linear(weights, "output")(hidden).mT.detach())


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("input_size", [0, 3])
def test_the_gru_is_that_of_torch_for_every_parameter(num_layers, input_size):
    rule = GRU(hidden_size=5, num_layers=num_layers, input_size=input_size)
    weights, sequence = random_weights(rule, 4, 2), normal(6, 4, 7)
    network = nn.GRU(input_size or 4, 5, num_layers, dtype=torch.float64)
    network.load_state_dict({name: leaf for index in range(num_layers) for name, leaf in {
        f"weight_ih_l{index}": weights[f"gates{index}.weight"], f"bias_ih_l{index}": weights[f"gates{index}.bias"],
        f"weight_hh_l{index}": weights[f"recurrent{index}"],
        f"bias_hh_l{index}": torch.cat([torch.zeros(10), weights[f"recalled{index}"]])}.items()})
    before = nn.Sequential(linear(weights, "input"), nn.ELU()) if input_size else nn.Identity()
    hidden, _ = network(before(sequence.mT))
    torch.testing.assert_close(run_rule(rule, weights, sequence), linear(weights, "output")(hidden).mT.detach())


@pytest.mark.parametrize("rule", [MLP(), LSTM(), LSTM(num_layers=2, input_size=8)], ids=str)
def test_initial_layers_are_truncated_normal_over_the_root_of_their_fan_in(rule):
    for name, leaf in rule.init_weights(generator(0, "init"), 200, 50).items():
        if name.endswith("bias"):
            assert not leaf.any()
        else:
            deviation = leaf.shape[1]**-0.5
            assert leaf.abs().max() <= 2 * deviation
            # A normal distribution cut at two deviations has 0.88 of its deviation.
            torch.testing.assert_close(leaf.std(), torch.tensor(0.88 * deviation), rtol=0.1, atol=0)


def part_of(values, name):
    return values[..., :6] if name == "a" else values[..., 6:]


def test_heads_have_their_closed_forms():
    outputs, params = normal(3, 10, purpose="outputs"), normal(10, purpose="params")
    first, second = outputs[0], outputs[1]

    def rms(values):
        return torch.cat([(part_of(values, name)**2).mean().sqrt().expand(size) for name, size in (("a", 6), ("b", 4))])

    expected = {
        Raw(): first, Raw(bounded=True): torch.tanh(first),
        ExpMagnitude(): first * torch.exp(0.001 * second),
        ExpMagnitude(exp_scale=2.0): first * torch.exp(2 * second),
        ParameterRMS(exp_scale=0.5): first * torch.exp(0.5 * second) * rms(params),
        OutputRMS(): first / torch.sqrt(1 + rms(first)**2),
        OutputRMS(floor=0.01, spare_outputs=2): first / torch.sqrt(0.01 + rms(first)**2),
    }
    assert {type(head) for head in expected} == set(HEADS.values())
    for head, direction in expected.items():
        actual = head.direction(LAYOUT, head.joined(outputs[:head.num_outputs]), params)
        torch.testing.assert_close(actual, direction, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e6])
def test_with_a_tiny_floor_every_tensors_step_has_size_one(scale):
    direction = OutputRMS(floor=1e-9).direction(LAYOUT, scale * normal(1, 10), torch.zeros(10))
    for name in "ab":
        torch.testing.assert_close((part_of(direction, name)**2).mean(), torch.ones(()).double(), rtol=1e-4, atol=0)


def test_params_of_size_zero_still_move_under_the_head_that_scales_by_them():
    direction = ParameterRMS().direction(LAYOUT, normal(2, 10), torch.zeros(10).double())
    assert 0 < direction.abs().max() < 1e-3


@pytest.mark.parametrize("kind", FLAT)
def test_schedules_start_flat_at_their_initial_learning_rate(kind):
    schedule, progress = SCHEDULES[kind](initial_lr=0.02), torch.linspace(0, 1, 11)[:, None]
    torch.testing.assert_close(schedule.learning_rate(schedule.init_weights(), progress), torch.full((11, 1), 0.02))


def test_a_constant_schedule_has_nothing_to_learn():
    assert Constant().init_weights() == {}


def test_the_logarithm_of_a_learned_schedule_is_linear_between_its_knots():
    schedule = Progress(initial_lr=0.1, num_knots=3, gain=2.0)
    weights = {"level": torch.tensor([0.5]), "knots": torch.tensor([0.0, 1.0, -2.0])}
    exponents = {0.0: 0.0, 0.125: 0.25, 0.25: 0.5, 0.5: 1.0, 0.75: -0.5, 1.0: -2.0}
    rates = schedule.learning_rate(weights, torch.tensor(list(exponents))[:, None])
    expected = [0.1 * math.exp(2 * (0.5 + exponent)) for exponent in exponents.values()]
    torch.testing.assert_close(rates[:, 0], torch.tensor(expected))


def test_a_cosine_schedule_starts_as_torchs_own_and_learns_to_leave_it():
    steps, optimizer = 200, torch.optim.SGD([torch.zeros(1)], lr=0.04)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-9, total_iters=10)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=190)
    theirs = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, falling], milestones=[10])
    schedule = Cosine(initial_lr=0.04, num_knots=5, gain=2.0)
    weights, other = schedule.init_weights(), {"level": torch.tensor([0.1]), "knots": torch.arange(5) / 10}
    for step in range(steps):
        ours, expected = schedule.learning_rate(weights, torch.tensor([step / steps])), theirs.get_last_lr()[0]
        torch.testing.assert_close(ours, torch.tensor([max(expected, 0.02 * 0.04)]), rtol=2e-3, atol=1e-6)
        left = schedule.learning_rate(other, torch.tensor([step / steps])) / ours
        torch.testing.assert_close(left, torch.tensor([math.exp(2.0 * (0.1 + 0.4 * step / steps))]))
        optimizer.step()
        theirs.step()
