"""Few-shot methods against their definitions: closed forms on a parabola, finite differences on a real design."""

from dataclasses import dataclass, replace
from math import prod

import pytest
import torch
from parabola import LinearOptimizer, parabola
from torch import Tensor

from optsearch import trees
from optsearch.adaptation import AdaptedEstimator, FewShot
from optsearch.adaptation.curvature import hessian_vector
from optsearch.errors import UsageError
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem, Window
from optsearch.optimizers import MLP, Features, LearnedOptimizer
from optsearch.seeds import generator
from optsearch.tasks import Data, TaskFamily, families
from optsearch.trees import Tree

LENGTH, RATE, STEP = 6, 0.1, 0.002
SMALL = LearnedOptimizer(features=Features(groups=("lean",)), rule=MLP(hidden_size=4, activation="tanh"))


def closed_form() -> Problem:
    """Every truncation is a whole training, so that each step of adaptation lowers the same function."""
    settings = MetaTraining(horizon=LENGTH, num_tasks=2, truncation=LENGTH, num_meta_losses=LENGTH,
                            min_horizon_ratio=1.0)
    return Problem(Steps(LinearOptimizer(), parabola(torch.float64)), settings, {"rate": (1,)})


def slope(rate: float) -> float:
    """Of the mean over t of 2 t/T (2 t log(1 - r) - log 2)."""
    return sum(-4 * t * t / LENGTH for t in range(1, LENGTH + 1)) / LENGTH / (1 - rate)


def bend(rate: float) -> float:
    return slope(rate) / (1 - rate)


def outer_gradient(method: str, num_steps: int, problem: Problem) -> float:
    few_shot = FewShot(method, num_steps, STEP)  # type: ignore[arg-type]
    estimator = AdaptedEstimator(ESTIMATORS["backprop"], few_shot)
    state = estimator.start(problem, 1, generator(0, "start"))
    weights = torch.tensor([RATE], dtype=torch.float64)
    return float(estimator.meta_gradient(problem, state, weights, generator(0, "step")).gradient)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("method", ["maml", "anil", "first_order_maml", "reptile"])
def test_methods_agree_with_their_definitions_on_a_closed_form_quadratic(method: str, num_steps: int) -> None:
    rates = [RATE]
    for _ in range(num_steps):
        rates.append(rates[-1] - STEP * slope(rates[-1]))
    expected = {"reptile": RATE - rates[-1], "first_order_maml": slope(rates[-1]),
                "maml": slope(rates[-1]) * prod(1 - STEP * bend(rate) for rate in rates[:-1])}
    # A design without a readout is adapted as a whole.
    expected["anil"] = expected["maml"]
    assert outer_gradient(method, num_steps, closed_form()) == pytest.approx(expected[method], rel=1e-9)


@dataclass(frozen=True, kw_only=True)
class Regression(TaskFamily):
    """A small tanh network in float64."""

    def sample(self, generator: torch.Generator) -> Tree:
        return {}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {"first": torch.randn(4, 3, generator=generator).double(),
                "second": torch.randn(4, generator=generator).double()}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return ((batch["inputs"] @ params["first"].T).tanh() @ params["second"] - batch["targets"]).square().mean()


def regression(design: LearnedOptimizer) -> tuple[Problem, Tensor]:
    stream = generator(0, "regression")
    rows = {"inputs": torch.randn(50, 3, generator=stream).double(),
            "targets": torch.randn(50, generator=stream).double()}
    family = Regression(name="regression", domain="synthetic", loss_cap=1e6, batch_size=8, data=Data(rows, rows, rows))
    first = {name: (leaf + 0.3 * torch.randn(leaf.shape, generator=stream)).double()
             for name, leaf in design.init_weights(stream).items()}
    settings = MetaTraining(horizon=8, num_tasks=2, truncation=4, num_meta_losses=2)
    return Problem(Steps(design, family), settings, trees.shapes_of(first)), trees.ravel(first)


def window_loss(problem: Problem, state: Tree, seed: int, at: Tensor) -> Tensor:
    """What backprop takes the gradient of, differentiable by autograd as a whole."""
    settings, trainings = problem.settings, Trainings.from_tree(state)
    window = Window(problem, settings.truncation, settings.num_tasks)
    batches = window.draw(settings.num_tasks, torch.Generator().manual_seed(seed))
    weights = trees.unravel(at.expand(settings.num_tasks, -1), problem.shapes)
    return window.unroll(trainings, weights, batches, gradients="second_order").meta_losses.values.mean()


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_second_order_gradients_equal_finite_differences(method: str) -> None:
    """Of the loss after three steps as a function of the start, with the trainings of each step held fixed."""
    problem, weights = regression(SMALL)
    few_shot = FewShot(method, 3, 0.05)  # type: ignore[arg-type]
    estimator = AdaptedEstimator(ESTIMATORS["backprop"], few_shot)
    state = ESTIMATORS["backprop"].start(problem, len(weights), generator(0, "start"))
    seeds = torch.randint(2**62, (4,), generator=generator(1, "step")).tolist()
    mask = torch.cat([torch.full((prod(shape),), float(method == "maml" or name.startswith("rule.output.")))
                      for name, shape in problem.shapes.items()]).double()
    # The trainings that each step begins with.
    states, now = [state], weights
    for seed in seeds[:-1]:
        found = ESTIMATORS["backprop"].meta_gradient(problem, states[-1], now, torch.Generator().manual_seed(seed))
        states.append(found.state)
        now = now - few_shot.learning_rate * mask * found.gradient

    def after_adapting(at: Tensor) -> float:
        for state, seed in zip(states[:-1], seeds[:-1], strict=True):
            followed = at.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(window_loss(problem, state, seed, followed), followed)
            at = at - few_shot.learning_rate * mask * gradient
        return float(window_loss(problem, states[-1], seeds[-1], at).detach())

    found = estimator.meta_gradient(problem, state, weights, generator(1, "step")).gradient
    first_order = AdaptedEstimator(ESTIMATORS["backprop"], replace(few_shot, method="first_order_maml"))
    cut = first_order.meta_gradient(problem, state, weights, generator(1, "step")).gradient
    stream = generator(2, "directions")
    for _ in range(4):
        direction = torch.randn(len(weights), generator=stream).double()
        direction /= direction.norm()
        difference = (after_adapting(weights + 1e-5 * direction) - after_adapting(weights - 1e-5 * direction)) / 2e-5
        assert float(found @ direction) == pytest.approx(difference, rel=1e-5, abs=1e-8)
    # The test could not tell the two apart if curvature did not matter here.
    assert float((found - cut).norm() / found.norm()) > 0.01


@pytest.mark.parametrize("name", ["backprop", "nres", "full_es"])
def test_curvature_is_the_change_of_the_meta_gradient(name: str) -> None:
    problem, weights = regression(SMALL)
    estimator = ESTIMATORS[name]
    state = estimator.start(problem, len(weights), generator(0, "start"))
    state = {key: leaf.double() if key in ("perturbation", "memory") else leaf for key, leaf in state.items()}
    direction = torch.randn(len(weights), generator=generator(1, "direction")).double()
    found = hessian_vector(estimator, problem, state, weights, direction, 5)
    step = 1e-5
    ahead, behind = (estimator.meta_gradient(problem, state, weights + sign * step * direction,
                                             torch.Generator().manual_seed(5)).gradient for sign in (1, -1))
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=0.02, atol=0.02 * float(found.abs().max()))


def test_nothing_bends_along_no_direction() -> None:
    problem, weights = regression(SMALL)
    state = ESTIMATORS["nres"].start(problem, len(weights), generator(0, "start"))
    assert not hessian_vector(ESTIMATORS["nres"], problem, state, weights, torch.zeros_like(weights), 5).any()


@pytest.mark.parametrize("method", ["maml", "anil", "first_order_maml", "reptile"])
@pytest.mark.parametrize("name", ["backprop", "nres"])
def test_starts_are_meta_trained_and_count_every_inner_step(method: str, name: str) -> None:
    settings = MetaTraining(horizon=20, num_tasks=1, truncation=10, num_meta_losses=2,
                            estimator=name)  # type: ignore[arg-type]
    few_shot = FewShot(method, 2)  # type: ignore[arg-type]
    plan = Plan(SMALL, families("quadratics"), settings, 240, 1, 0,
                estimator=AdaptedEstimator(ESTIMATORS[name], few_shot))
    each = 10 if name == "backprop" else 20
    # Two steps and a look at where they led; a curvature a step unrolls once more, or for losses alone twice.
    unrolls = {"reptile": 2, "first_order_maml": 3}.get(method, 5 if name == "backprop" else 7)
    assert plan.steps_per_meta_step == unrolls * each
    (point,) = meta_train(plan)
    assert point.inner_steps == 240 // (unrolls * each) * unrolls * each
    after = trees.ravel(point.weights)
    assert after.isfinite().all()
    assert not torch.equal(after, trees.ravel(plan.first_weights()))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="reptile"):
        FewShot("proto")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1 step"):
        FewShot(num_steps=0)
