"""Adapters: their meta-gradients against those of the sum, and what they come to on parabolas of two widths."""

from dataclasses import dataclass, replace

import pytest
import torch
from parabola import LinearOptimizer, Parabola, parabola
from torch import Tensor

from optsearch import trees
from optsearch.adaptation.adapters import DomainEstimator, with_adapters
from optsearch.errors import DesignError
from optsearch.export.adapters import effective, offsets_of, shared_of
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.optimizers import MLP, LearnedOptimizer, named_design
from optsearch.seeds import generator
from optsearch.tasks import families
from optsearch.trees import Tree

LENGTH = 6
SMALL = LearnedOptimizer(rule=MLP(hidden_size=4))


def slope(rate: float) -> float:
    """Of the mean over t of 2 t/T (2 t log(1 - r) - log 2)."""
    return sum(-4 * t * t / LENGTH for t in range(1, LENGTH + 1)) / LENGTH / (1 - rate)


def test_a_domain_moves_the_shared_weights_and_its_own_offsets() -> None:
    """On a parabola, where the meta-gradient at the rate shared + offset has a closed form."""
    settings = MetaTraining(horizon=LENGTH, num_tasks=2, truncation=LENGTH, num_meta_losses=LENGTH,
                            min_horizon_ratio=1.0)
    problem = Problem(Steps(LinearOptimizer(), parabola(torch.float64)), settings,
                      {"rate": (1,), "adapters.vision.rate": (1,), "adapters.synthetic.rate": (1,)})
    estimator = DomainEstimator(ESTIMATORS["backprop"])
    state = estimator.start(problem, 3, generator(0, "start"))
    weights = torch.tensor([0.1, 0.4, 0.05], dtype=torch.float64)
    found = estimator.meta_gradient(problem, state, weights, generator(0, "step")).gradient
    assert found.tolist() == pytest.approx([slope(0.15), 0.0, slope(0.15)], rel=1e-9)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_meta_gradients_are_those_of_the_sum(name: str) -> None:
    """Brute force: one design of the sum, which nothing was added to, sees the same trainings."""
    (family,) = families("quadratics")
    settings = MetaTraining(horizon=8, num_tasks=2, truncation=4, num_meta_losses=2, estimator=name)  # type: ignore
    plan = with_adapters(Plan(SMALL, [family, replace(family, domain="tabular")], settings, 100, 1, 0))
    first = plan.first_weights()
    stream = generator(1, "offsets")
    weights = {leaf: value + 0.01 * torch.randn(value.shape, generator=stream) for leaf, value in first.items()}
    steps = Steps(SMALL, family)
    problem, vector = Problem(steps, settings, trees.shapes_of(weights)), trees.ravel(weights)
    total = {leaf: value + weights.get(f"adapters.synthetic.{leaf}", torch.tensor(0.0))
             for leaf, value in SMALL.init_weights(generator(0, "weights")).items()
             for value in [weights[leaf]]}
    plain = Problem(steps, settings, trees.shapes_of(total))

    def estimates(estimator, problem: Problem, vector: Tensor) -> list[Tree]:  # type: ignore[no-untyped-def]
        state, found = estimator.start(problem, len(vector), generator(2, "start")), []
        for step in range(3):
            estimate = estimator.meta_gradient(problem, state, vector, generator(2, "step", step))
            state = estimate.state
            found.append(trees.unravel(estimate.gradient, problem.shapes))
        return found

    ours = estimates(plan.chosen_estimator, problem, vector)
    theirs = estimates(ESTIMATORS[name], plain, trees.ravel(total))
    for one, other in zip(ours, theirs, strict=True):
        for leaf, value in one.items():
            expected = (torch.zeros_like(value) if leaf.startswith("adapters.tabular.")
                        else other[leaf.removeprefix("adapters.synthetic.")])
            assert torch.equal(value, expected)


@dataclass(frozen=True, kw_only=True)
class Steep(Parabola):
    """Four times as steep as the parabola: its best rate is a quarter."""

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return 4 * super().loss(params, batch)


class RateOptimizer(LinearOptimizer):
    """Its rate is a bias, and so adapted."""

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {"rate.bias": torch.full((1,), 0.3)}

    def update(self, weights: Tree, observation, state: Tree):  # type: ignore[no-untyped-def]
        return super().update({"rate": weights["rate.bias"]}, observation, state)


def test_domains_that_need_different_rates_get_them() -> None:
    flat = replace(parabola(), domain="vision")
    steep = Steep(**{name: getattr(flat, name) for name in ("name", "loss_cap", "batch_size", "data")},
                  domain="tabular")
    settings = MetaTraining(horizon=2, num_tasks=1, truncation=2, num_meta_losses=2, min_horizon_ratio=1.0,
                            estimator="backprop", meta_lr=0.02)
    plan = with_adapters(Plan(RateOptimizer(), [flat, steep], settings, 800, 1, 0))  # type: ignore[arg-type]
    (point,) = meta_train(plan)
    assert point.inner_steps == 800
    rates = {domain: float(effective(point.weights, domain)["rate.bias"]) for domain in offsets_of(point.weights)}
    assert rates == pytest.approx({"vision": 1.0, "tabular": 0.25}, abs=0.05)


def test_a_resumed_plan_with_adapters_gives_the_same_bits() -> None:
    settings = MetaTraining(horizon=8, num_tasks=1, truncation=4, num_meta_losses=2)
    plan = with_adapters(Plan(SMALL, [*families("quadratics"), *families("tabular_linear")], settings, 96, 2, 0))
    first, last = meta_train(plan)
    (again,) = meta_train(plan, first.snapshot)
    assert torch.equal(last.snapshot.weights, again.snapshot.weights)
    assert trees.shapes_of(last.snapshot.weights_tree(plan)) == trees.shapes_of(last.weights)
    assert shared_of(last.weights).keys() == SMALL.init_weights(torch.Generator()).keys()
    assert all(leaf.any() for offsets in offsets_of(last.weights).values() for leaf in offsets.values())


def test_adapters_are_small_and_begin_without_effect() -> None:
    design = named_design("adamw_mlp")
    plan = with_adapters(Plan(design, [*families("quadratics"), *families("tabular_linear")], MetaTraining(), 1, 1, 0))
    weights = plan.first_weights()
    sizes = {domain: sum(leaf.numel() for leaf in offsets.values()) for domain, offsets in offsets_of(weights).items()}
    assert sizes == {"synthetic": 59, "tabular": 59}
    assert trees.ravel(shared_of(weights)).numel() == 603
    for domain in ("synthetic", "tabular", "vision"):
        assert torch.equal(trees.ravel(effective(weights, domain)), trees.ravel(shared_of(weights)))


def test_a_design_without_leaves_for_adapters_is_refused() -> None:
    class Bare(RateOptimizer):
        def init_weights(self, generator: torch.Generator) -> Tree:
            return {"rate": torch.full((1,), 0.3)}

    with pytest.raises(DesignError, match="no readout, bias or schedule"):
        with_adapters(Plan(Bare(), [parabola()], MetaTraining(), 1, 1, 0))  # type: ignore[arg-type]
