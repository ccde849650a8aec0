from math import exp

import pytest
import torch
from torch.nn.functional import cosine_similarity

from optsearch.errors import DesignError
from optsearch.optimizers import SGDM, Controls, LearnedOptimizer, Linear, NoRule, Observation, TensorFeatures
from optsearch.optimizers.schedules import Constant
from optsearch.optimizers.steering import SETTINGS

PARAMS = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
GAIN, RATE, BETA = 0.5, 0.1, 0.9


def design(**controls):
    return LearnedOptimizer(rule=NoRule(), base=SGDM(momentum=BETA), schedule=Constant(RATE), controller=Linear("none"),
                            tensors=TensorFeatures(("agreement", "rank")), controls=Controls(gain=GAIN, **controls))


def gradients(count):
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.randn(leaf.shape, generator=generator) for name, leaf in PARAMS.items()} for _ in range(count)]


def set_to(optimizer, of_agreement=0.0, bias=0.0):
    """Weights of zeros but for the readout of the agreement, and its bias."""
    weights = {name: torch.zeros_like(leaf) for name, leaf in optimizer.init_weights(torch.Generator()).items()}
    weights["controls.output.weight"][:, 0] = of_agreement
    weights["controls.output.bias"][:] = bias
    return weights


def run(optimizer, weights, num_steps, told=None):
    """The steps made, and the settings after the last."""
    state, found = optimizer.init(PARAMS), []
    told = None if told is None else torch.tensor([float(told)])
    for gradient in gradients(num_steps):
        step, state = optimizer.update(weights, Observation(gradient, PARAMS, num_steps=told), state)
        found.append(step)
    return found, state[SETTINGS]


def test_accumulated_agreement_is_hypergradient_descent_on_log_rates():
    optimizer = design(accumulates=True)
    steps, _ = run(optimizer, set_to(optimizer, of_agreement=1.0), 8)
    momentum = {name: torch.zeros_like(leaf) for name, leaf in PARAMS.items()}
    log_rates = dict.fromkeys(PARAMS, 0.0)
    for gradient, step in zip(gradients(8), steps, strict=True):
        for name in PARAMS:
            cosine = cosine_similarity(gradient[name].flatten(), momentum[name].flatten(), dim=0, eps=1e-12)
            log_rates[name] = log_rates[name] + GAIN * cosine
            momentum[name] = BETA * momentum[name] + gradient[name]
            torch.testing.assert_close(step[name], -RATE * log_rates[name].exp() * momentum[name])


@pytest.mark.parametrize("length", [5, 40])
def test_settings_that_accumulate_over_the_run_end_alike_whatever_its_length(length):
    optimizer = design(accumulates=True, over_run=True)
    _, settings = run(optimizer, set_to(optimizer, bias=1.0), length, told=length)
    torch.testing.assert_close(settings, torch.full_like(settings, GAIN))
    _, by_step = run(design(accumulates=True), set_to(optimizer, bias=1.0), length, told=length)
    torch.testing.assert_close(by_step, torch.full_like(settings, GAIN * length))


def test_what_counts_at_once_is_added_to_what_accumulates_and_is_forgotten():
    optimizer = design(accumulates=True, at_once=True)
    weights = set_to(optimizer)
    weights["controls.output.bias"][:] = torch.tensor([1.0, 3.0])
    steps, settings = run(optimizer, weights, 5)
    torch.testing.assert_close(settings, torch.full_like(settings, 5 * GAIN))
    plain, _ = run(design(), set_to(design()), 5)
    for count, (step, other) in enumerate(zip(steps, plain, strict=True), 1):
        for name in PARAMS:
            torch.testing.assert_close(step[name], exp(GAIN * (count + 3)) * other[name])


def test_a_linear_controller_sees_the_others_on_average_or_not_at_all():
    seen = torch.tensor([[1.0, 3.0], [2.0, 6.0]])
    assert Linear("none").update({}, seen, None, {})[0] is seen
    torch.testing.assert_close(Linear("mean").update({}, seen, None, {})[0],
                               torch.tensor([[1.0, 3.0], [2.0, 6.0], [2.0, 2.0], [4.0, 4.0]]))
    with pytest.raises(DesignError, match="none, mean"):
        Linear("max")
