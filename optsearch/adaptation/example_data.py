"""Batches that look like those of a domain, made up."""

import random
from dataclasses import dataclass
from math import exp, log
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

Item = TypeVar("Item")


@dataclass(frozen=True)
class Draw:
    """Random sizes; tensors come from torch's own stream."""

    source: random.Random

    def size(self, low: int, high: int) -> int:
        """Log-uniform, both ends included."""
        return min(high, int(exp(self.source.uniform(log(low), log(high + 1)))))

    def real(self, low: float, high: float) -> float:
        return self.source.uniform(low, high)

    def choice(self, *items: Item) -> Item:
        return self.source.choice(items)


@dataclass(frozen=True)
class Batch:
    """Inputs `[rows, ...]` and the classes `[rows]` of them, below `num_classes`."""

    inputs: Tensor
    labels: Tensor
    num_classes: int


def images(draw: Draw) -> Batch:
    """Smooth `[rows, channels, size, size]`: photographs, or strokes on a background that nothing reaches."""
    channels, size = draw.choice(1, 1, 3), draw.choice(*range(6, 17), *range(18, 34, 2))
    batch = _smooth(draw, (channels, size, size), draw.size(2, 20))
    found = batch.inputs
    kind = draw.choice("strokes", "photographs", "standardised")
    if kind == "strokes":
        border = torch.linspace(-1, 1, size).abs()
        faded = torch.maximum(border[:, None], border[None]) * draw.real(0.5, 2.0)
        found = (found - faded).relu()
    elif kind == "photographs":
        found = (found * draw.real(0.1, 0.3) + 0.5).clamp(0, 1)
    return Batch(found, batch.labels, batch.num_classes)


def spectrograms(draw: Draw) -> Batch:
    """Log-mel energies `[rows, frames, bands]` of words: bands of energy that move, often with silence around."""
    frames, bands = draw.size(12, 64), draw.size(12, 64)
    batch = _smooth(draw, (1, frames, bands), draw.size(2, 35))
    found = batch.inputs.squeeze(1)
    if draw.choice(True, False):
        starts = torch.rand(len(found), 1) * 0.3 * frames
        ends = frames - torch.rand(len(found), 1) * 0.3 * frames
        times = torch.arange(frames)
        found = torch.where(((times >= starts) & (times < ends))[..., None], found, -draw.real(1.0, 3.0))
    tilt = draw.real(0.0, 1.0) * torch.linspace(1, -1, bands)
    return Batch(found + tilt, batch.labels, batch.num_classes)


def _smooth(draw: Draw, shape: tuple[int, int, int], num_classes: int) -> Batch:
    """Rows around one smooth prototype a class."""
    num_rows = draw.size(16, 128)
    coarse = [min(length, draw.size(3, 6)) for length in shape[1:]]
    labels = torch.randint(num_classes, (num_rows,))
    amount = draw.real(0.3, 1.0)
    parts = torch.randn(num_classes, shape[0], *coarse)[labels] + amount * torch.randn(num_rows, shape[0], *coarse)
    found = functional.interpolate(parts, size=shape[1:], mode="bilinear", align_corners=True)
    # Colours go together.
    found = draw.real(0.0, 0.5) * found + found.mean(1, keepdim=True)
    found = found / found.std() + draw.real(0.0, 0.4) * torch.randn(num_rows, *shape)
    return Batch(found, labels, num_classes)


def tokens(draw: Draw) -> Batch:
    """Numbers `[rows, length]` by Zipf's law, with as many classes as there are words."""
    num_words, shape = draw.size(24, 1000), (draw.size(4, 32), draw.size(8, 48))
    odds = torch.arange(1, num_words + 1) ** -draw.real(0.8, 1.3)
    odds = odds[torch.randperm(num_words)]
    found = torch.multinomial(odds, shape[0] * shape[1], replacement=True).view(shape)
    return Batch(found, found[:, -1], num_words)


def table(draw: Draw) -> Batch:
    """Standardised columns `[rows, columns]` of many kinds, in no order."""
    num_rows, num_columns, num_causes = draw.size(16, 128), draw.size(4, 64), draw.size(2, 10)
    found = (torch.randn(num_rows, num_causes) @ torch.randn(num_causes, num_columns)
             * draw.real(0.0, 1.0) + torch.randn(num_rows, num_columns))
    kinds = torch.rand(num_columns)
    skewed, binary = draw.real(0.0, 0.5), draw.real(0.0, 0.3)
    found = torch.where(kinds < skewed, (0.7 * found).exp(), found)
    found = torch.where(kinds > 1 - binary, (found > torch.randn(num_columns)).float(), found)
    found = (found - found.mean(0)) / found.std(0).clamp(min=0.1)
    num_classes = draw.choice(2, 2, 3, 4, 5, 7, 10)
    labels = (found @ torch.randn(num_columns, num_classes)).argmax(1)
    return Batch(found, labels, num_classes)


def points(draw: Draw) -> Tensor:
    """Coordinates `[rows, 1 to 4]` in a box."""
    found = torch.rand(draw.size(16, 256), draw.choice(1, 2, 2, 3, 4))
    return found * 2 - 1 if draw.choice(True, False) else found
