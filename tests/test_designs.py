"""Named designs have the sizes of their sources, counted layer by layer."""

import pytest
from torch import nn

from optsearch.optimizers import DESIGNS, named_design, num_weights


def layer(fan_in, fan_out):
    return (fan_in + 1) * fan_out


def lstm(fan_in, hidden):
    """One bias a gate."""
    return layer(fan_in + hidden, 4 * hidden)


def count(module):
    return sum(param.numel() for param in module.parameters())


SCHEDULE = 1 + 9
# What the published Celo carries and never uses: a mix layer whose output is overwritten, and a softmax over one.
CELO_UNUSED = layer(18, 64) + layer(64, 1)
VELO_INPUTS = 9 + 9 + 3 + 1 + 3 + 5
# Gradient, parameter, three momenta, second moment, size, loss and progress.
DEFAULT_INPUTS = 1 + 1 + 1 + 1 + 2 + 9 + 9

PUBLISHED = {
    "celo": 37_089 - CELO_UNUSED,
    "nnadam": 2 * 32 + lstm(19, 32) + layer(32, 4) + 4,
    "star": layer(39, 4) + layer(4, 4) + layer(4, 4) + 7,
    "velo_small": (layer(30, 4) + layer(4, 4) + layer(4, 3) + 2 * layer(VELO_INPUTS, 64) + lstm(64, 64) + 2 * 64
                   + layer(64, 1 + 16) + layer(16, 2 * 4)),
    "transformer_256x4": (layer(DEFAULT_INPUTS, 256) + layer(256, 1) + SCHEDULE + count(nn.TransformerEncoder(
        nn.TransformerEncoderLayer(256, 8, 1024, norm_first=True), 4, nn.LayerNorm(256), enable_nested_tensor=False))),
    "lstm_128x2_memory1000": (3 * layer(DEFAULT_INPUTS, 8) + lstm(2 * (DEFAULT_INPUTS + 8), 128) + lstm(128, 128)
                              + layer(128, 1) + SCHEDULE),
    "opt2vec": layer(5 * 3, 32) + layer(32, 16) + layer(16, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_design_has_the_size_of_its_source(name):
    assert num_weights(named_design(name)) == PUBLISHED[name]


def test_every_design_is_a_different_one_and_says_what_it_is():
    assert len({design.fingerprint for design, _ in DESIGNS.values()}) == len(DESIGNS)
    assert all(text and len(text) < 110 for _, text in DESIGNS.values())
