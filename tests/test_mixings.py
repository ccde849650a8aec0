"""Mixings: closed forms, and the base's direction where nothing is learned."""

import torch

from optsearch.optimizers import MIXINGS, Gated, NoMixing, Residual
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.mixings import Candidates
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator

LAYOUT = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(4)})


def normal(*shape, purpose):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def moment(step=1, loss=1.0):
    """One step with random gradients and params."""
    one = torch.ones(1).double()
    return Moment(LAYOUT, normal(10, purpose=("gradient", step)), normal(10, purpose="params"), step * one, 0.5 * one,
                  loss=None if loss is None else loss * one)


def candidates(step=1, rate=0.1):
    return Candidates(normal(10, purpose=("learned", step)), normal(10, purpose=("base", step)),
                      torch.full((2,), rate).double(), normal(10, purpose=("gate", step)))


def test_mixings_without_memory_have_their_closed_forms():
    both = candidates()
    expected = {NoMixing(): both.learned, Residual(): both.base + both.learned,
                Gated(): 2 / (1 + torch.exp(-both.gate)) * both.base + both.learned}
    for mixing, direction in expected.items():
        torch.testing.assert_close(mixing.mix(both, moment(), {})[0], direction)


def test_with_nothing_learned_every_mixing_gives_the_bases_direction():
    for mixing in (kind() for kind in MIXINGS.values()):
        if not mixing.has_base:
            continue
        state = mixing.init(torch.zeros(10).double(), 2)
        for step in range(1, 4):
            both = candidates(step)
            nothing = Candidates(torch.zeros(10).double(), both.base, both.rates, torch.zeros(10).double())
            direction, state = mixing.mix(nothing, moment(step, loss=1.0 / step), state)
            assert torch.equal(direction, both.base)
