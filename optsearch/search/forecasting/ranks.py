"""How well forecasts rank, and how often the truth lies in their intervals."""

from math import sqrt

import torch
from torch import Tensor


def kendall(first: Tensor, second: Tensor) -> float:
    """Kendall's rank correlation of `[n]` and `[n]` with ties counted (tau-b), 0 where one of them is constant."""
    one, two = ((each[:, None] - each[None]).sign() for each in (first, second))
    untied = sqrt(float(one.abs().sum()) * float(two.abs().sum()))
    return float((one * two).sum()) / untied if untied else 0.0


def coverage(values: Tensor, mean: Tensor, deviation: Tensor, probability: float) -> float:
    """The part of `values` in the central intervals that normal forecasts give a probability; nan of none."""
    return float(((values - mean).abs() <= half_width(probability) * deviation).double().mean())


def half_width(probability: float) -> float:
    """Of the central interval of a standard normal value."""
    return float(torch.special.ndtri(torch.tensor((1 + probability) / 2, dtype=torch.float64)))
