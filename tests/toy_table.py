"""A table of learning curves that takes no meta-training: made-up curves of random designs."""

import math

from optsearch.bench.design_table import Curve, DesignTable
from optsearch.search.samplers import encoding_of
from optsearch.search.spaces import load_space

BUDGETS = (10, 20, 40, 80, 160)
FAMILIES = ("one", "other")


def end_of(params, family):
    """Better with a higher meta-learning rate; the families differ in their range."""
    return (2.0 if family == "one" else 1.0) - math.log10(params["meta_training.meta_lr"] / 0.0005)


def toy_table(num_designs=24, space="mlp"):
    """Every fourth design has a second meta-training, 0.1 apart; every eighth collapses after three values."""
    text = load_space(space).text
    designs = tuple(encoding_of(space, text).tree.sample(seed=1, count=num_designs))
    curves = []
    for index, params in enumerate(designs):
        for family in FAMILIES:
            for seed in (0, 1) if index % 4 == 0 else (0,):
                end = end_of(params, family) + 0.1 * seed
                values = tuple(round(end + 1 - step / BUDGETS[-1], 4) for step in BUDGETS)
                count = 3 if index % 8 == 7 else 5
                curves.append(Curve(index, family, seed, values[:count], (0.0, 0.1, 0.2, 0.3, 0.4)[:count],
                                    "COLLAPSED" if count == 3 else "COMPLETED", 2.0))
    return DesignTable(space, text, 20, BUDGETS, designs, tuple(curves))
