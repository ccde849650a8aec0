"""One optimizer for several domains: shared weights, and for each domain small offsets to some of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optsearch import trees
from optsearch.adaptation.few_shot import READOUTS
from optsearch.errors import DesignError
from optsearch.export.adapters import ADAPTERS, Adapters, effective, shared_of
from optsearch.meta_training.estimate import Estimate, Estimator
from optsearch.meta_training.plan import Plan
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import Problem
from optsearch.trees import Tree, prefixed


def is_adapted(name: str) -> bool:
    """Whether a domain has offsets to this leaf of a design's weights: to readouts, biases and schedules."""
    return name.startswith((*READOUTS, "schedule.")) or name.endswith(".bias")


def with_adapters(plan: Plan, known: Adapters | None = None) -> Plan:
    """The plan with offsets for every domain of its families, from the `known` ones or 0; what is learned are both.

    They stand among the weights as `adapters.DOMAIN.NAME`. Raises `DesignError` where no leaf `is_adapted`.
    """
    nothing = {name: torch.zeros_like(leaf) for name, leaf in plan.first_weights().items() if is_adapted(name)}
    if not nothing:
        raise DesignError("the design has no readout, bias or schedule for adapters to change. Leave adapters away.")
    offsets = dict.fromkeys((family.domain for family in plan.distribution.families), nothing)
    if known is not None and known.fit(trees.shapes_of(plan.first_weights())):
        offsets |= {domain: nothing | each for domain, each in known.offsets.items()}
    beside = {name: leaf for domain, each in offsets.items() for name, leaf in
              prefixed(f"{ADAPTERS}.{domain}", each).items()}
    return replace(plan, beside=beside, estimator=DomainEstimator(plan.chosen_estimator))


@dataclass(frozen=True)
class DomainEstimator:
    """Meta-gradients of shared weights and offsets, which are those of their sum: `estimator` knows only that.

    A family's meta-gradient moves the shared weights and its own domain's offsets (Rebuffi et al. 2017,
    arxiv.org/abs/1705.08045, for networks); a perturbation is one of the sum, so that more domains are no more noise.
    """

    estimator: Estimator

    def inner_steps(self, settings: MetaTraining) -> int:
        return self.estimator.inner_steps(settings)

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        weights = trees.unravel(torch.zeros(num_weights), problem.shapes)
        return self.estimator.start(_plain(problem, weights), trees.ravel(shared_of(weights)).numel(), generator)

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        domain, whole = problem.steps.family.domain, trees.unravel(weights, problem.shapes)
        plain = _plain(problem, whole)
        found = self.estimator.meta_gradient(plain, state, trees.ravel(effective(whole, domain)), generator)
        shared = trees.unravel(found.gradient, plain.shapes)
        own = prefixed(f"{ADAPTERS}.{domain}", shared)
        gradient = {name: shared.get(name, own.get(name, torch.zeros_like(leaf))) for name, leaf in whole.items()}
        return replace(found, gradient=trees.ravel(gradient))


def _plain(problem: Problem, weights: Tree) -> Problem:
    """The problem without adapters."""
    return replace(problem, shapes=trees.shapes_of(shared_of(weights)))
