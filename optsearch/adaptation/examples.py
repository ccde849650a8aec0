"""Networks as each domain has them, on data that look like its own: what a recogniser of domains learns from."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.adaptation.example_data import Draw
from optsearch.adaptation.example_networks import MAKERS
from optsearch.seeds import generator, seed_for
from optsearch.tasks import TaskFamily


@dataclass(frozen=True)
class Example:
    """A model of a domain as an optimizer sees it at its first step."""

    domain: str
    params: list[Tensor]
    gradients: list[Tensor]


def of_family(family: TaskFamily, seed: int) -> Example:
    """A fresh training of `family` at its first batch."""
    stream = generator(seed, "example", family.name)
    task = family.sample(stream)
    params = {name: leaf.requires_grad_() for name, leaf in family.init(stream, task).items()}
    rows = torch.randint(len(next(iter(family.data.inner.values()))), (family.batch_size,), generator=stream)
    batch = {name: leaf[rows] for name, leaf in family.data.inner.items()} | task
    return _example(family.domain, list(params.values()), family.loss(params, batch))


def of_domain(domain: str, count: int, seed: int) -> Iterator[Example]:
    """`count` networks of `domain`, each kind in turn, of random sizes."""
    makers = MAKERS[domain]
    for index in range(count):
        one = seed_for(seed, "example", domain, index)
        # Modules initialise themselves from torch's global stream; it is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(one)
            module, loss = makers[index % len(makers)](Draw(random.Random(one)))
        yield _example(domain, list(module.parameters()), loss)


def _example(domain: str, params: list[Tensor], loss: Tensor) -> Example:
    gradients = torch.autograd.grad(loss, params, allow_unused=True)
    pairs = [(param.detach(), gradient) for param, gradient in zip(params, gradients, strict=True)
             if gradient is not None]
    return Example(domain, [param for param, _ in pairs], [gradient for _, gradient in pairs])
