"""A recogniser of domains is learned from examples."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.adaptation.examples import Example, of_domain, of_family
from optsearch.export.adapters import Adapters, offsets_of
from optsearch.export.recogniser import Recogniser, features
from optsearch.seeds import generator, seed_for
from optsearch.tasks import TaskFamily, families_of, suites
from optsearch.trees import Tree

NUM_HIDDEN, NUM_STEPS, DECAY = 32, 200, 1e-3
# Networks of each domain, and trainings of each family that was learned on.
NUM_NETWORKS, NUM_TRAININGS = 400, 20


def learned_adapters(weights: Tree, families: Sequence[TaskFamily], seed: int) -> Adapters | None:
    """The adapters that a meta-training on `families` left among `weights`, if any, with a recogniser.

    It learns from all that is learned on in these domains: no meta-training is needed for that.
    """
    offsets = offsets_of(weights)
    if not offsets:
        return None
    standard = families_of([task for domain in offsets if domain in suites.ROLES
                            for task in suites.roles(domain).meta_training])
    known = {family.name: family for family in (*standard, *families)}
    return Adapters(offsets, learned_recogniser(tuple(offsets), tuple(known.values()), seed))


def learned_recogniser(domains: Sequence[str], families: Sequence[TaskFamily], seed: int) -> Recogniser:
    """One that tells `domains` apart, from made-up networks of each and from trainings of their `families`.

    Takes a minute or two; the same arguments give the same numbers.
    """
    found = [example for domain in domains for example in of_domain(domain, NUM_NETWORKS, seed)]
    found += [of_family(family, seed_for(seed, "recogniser", index)) for family in families
              for index in range(NUM_TRAININGS)]
    return fit(domains, found, seed)


def fit(domains: Sequence[str], examples: Sequence[Example], seed: int) -> Recogniser:
    """Each domain counts alike, however many examples it has."""
    inputs = torch.stack([features(example.params, example.gradients) for example in examples]).double()
    labels = torch.tensor([domains.index(example.domain) for example in examples])
    center, scale = inputs.mean(0), inputs.std(0).clamp(min=1e-3)
    stream = generator(seed, "recogniser")
    sizes = ((NUM_HIDDEN, inputs.shape[1] + 1), (len(domains), NUM_HIDDEN + 1))
    inner, outer = (torch.randn(size, generator=stream, dtype=torch.float64).div(size[1]**0.5).requires_grad_()
                    for size in sizes)
    balance = len(labels) / len(domains) / torch.bincount(labels, minlength=len(domains)).clamp(min=1).double()
    optimizer = torch.optim.LBFGS([inner, outer], max_iter=NUM_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = Recogniser(center, scale, inner, outer).logits(inputs)
        loss = functional.cross_entropy(logits, labels, balance)
        loss = loss + DECAY * (inner.square().sum() + outer.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return Recogniser(*(leaf.detach().float() for leaf in (center, scale, inner, outer)))
