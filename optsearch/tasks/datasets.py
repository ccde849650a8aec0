"""Real data that comes with scikit-learn, standardised and split once and for all."""

from functools import cache
from typing import Any

import torch

from optsearch.seeds import generator
from optsearch.tasks.family import Data, split_rows

SPLIT_SEED = 0


@cache
def digits() -> Data:
    """1,797 handwritten digits of 8x8 pixels: `inputs` `[n, 1, 8, 8]` in 0..1, `targets` in 0..9."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    rows = {"inputs": inputs, "targets": torch.tensor(bunch.target, dtype=torch.int64)}
    return split_rows(rows, generator(SPLIT_SEED, "digits"))


@cache
def table(name: str) -> Data:
    """`breast_cancer`, `wine` (classes) or `diabetes` (a real target), each column standardised."""
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    inputs = torch.tensor(bunch.data, dtype=torch.float32)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    if name == "diabetes":
        targets = torch.tensor(bunch.target, dtype=torch.float32)
        targets = (targets - targets.mean()) / targets.std()
    else:
        targets = torch.tensor(bunch.target, dtype=torch.int64)
    return split_rows({"inputs": inputs, "targets": targets}, generator(SPLIT_SEED, name))
