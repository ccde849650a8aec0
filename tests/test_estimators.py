"""Estimators: what they are unbiased for, against closed forms, finite differences and each other."""

from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch
from parabola import LinearOptimizer, parabola
from torch import Tensor

from optsearch import trees
from optsearch.meta_training import MetaTraining, inner
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.pairs import Particles
from optsearch.meta_training.settings import EstimatorName
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem, Window, fresh_trainings
from optsearch.optimizers import LSTM, MLP, Features, LearnedOptimizer, NoMixing, OutputRMS, named_design
from optsearch.seeds import generator
from optsearch.tasks import Data, TaskFamily, families
from optsearch.trees import Tree

SMALL = LearnedOptimizer(features=Features(groups=("lean",)), rule=MLP(hidden_size=4))
SETTINGS = MetaTraining(horizon=40, num_tasks=2, truncation=10, num_meta_losses=2)


def test_the_settings_name_every_estimator() -> None:
    assert set(get_args(EstimatorName)) == set(ESTIMATORS)


NUM_REPEATS = 20


def assert_unbiased(found: list[float], expected: float) -> None:
    """Independent estimates of `expected`: their mean lies within 4 standard errors of it.

    A right estimator fails this once in 16,000 times. It is also demanded that 7 standard errors be less than a tenth
    of `expected`: a bias of 10 % then passes with a chance below 0.002.
    """
    values = torch.tensor(found, dtype=torch.float64)
    error = float(values.std()) / len(values)**0.5
    assert 7 * error < 0.1 * abs(expected)
    assert abs(float(values.mean()) - expected) < 4 * error


@pytest.mark.parametrize("estimator", ["pes", "nres"])
def test_the_meta_gradient_is_that_of_the_whole_inner_training(estimator: str) -> None:
    """Summed over the truncations of a run, both estimators are unbiased for the gradient of all its losses.

    Here log loss = 2 t log(1 - r) - log 2 after t steps, weighted with 2 t / T, so the gradient over r is known.
    """
    settings = MetaTraining(horizon=4, truncation=2, num_tasks=2_000, num_meta_losses=2, min_horizon_ratio=1.0,
                            sigma=0.01, estimator=estimator)  # type: ignore[arg-type]
    problem = Problem(Steps(LinearOptimizer(), parabola()), settings, {"rate": (1,)})
    rate = torch.tensor([0.1])

    def total(seed: int) -> float:
        state = ESTIMATORS[estimator].start(problem, 1, generator(seed, "start"))
        state |= {"windows_left": torch.full((settings.num_tasks,), 2)}
        first = ESTIMATORS[estimator].meta_gradient(problem, state, rate, generator(seed, "first"))
        second = ESTIMATORS[estimator].meta_gradient(problem, first.state, rate, generator(seed, "second"))
        return float(first.gradient + second.gradient)

    steps = torch.arange(1, 5, dtype=torch.float32)
    weights = 2 * steps / 4
    expected = (weights * (-2 * steps / (1 - 0.1))).view(2, 2).mean(1).sum()
    assert_unbiased([total(seed) for seed in range(NUM_REPEATS)], float(expected))


def test_both_halves_of_a_pair_start_alike_and_differ_only_by_their_weights() -> None:
    settings = replace(SETTINGS, sigma=1e-12)
    first = SMALL.init_weights(generator(0, "weights"))
    problem = Problem(Steps(SMALL, families("quadratics")[0]), settings, trees.shapes_of(first))
    state = ESTIMATORS["nres"].start(problem, len(trees.ravel(first)), generator(0, "start"))
    found = ESTIMATORS["nres"].meta_gradient(problem, state, trees.ravel(first), generator(0, "step"))
    losses = found.meta_losses.values.view(2, 2)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def test_inner_trainings_do_not_restart_together() -> None:
    settings = replace(SETTINGS, num_tasks=64, horizon=200)
    problem = Problem(Steps(SMALL, families("quadratics")[0]), settings, {})
    group = Particles.from_tree(ESTIMATORS["nres"].start(problem, 5, generator(0, "start")))
    assert len(set(group.windows_left.tolist())) > 5
    horizons = group.trainings.horizon
    assert horizons.min() >= 200 * settings.min_horizon_ratio
    assert horizons.max() <= 200
    assert bool((horizons % settings.truncation == 0).all())


@pytest.mark.parametrize("estimator", ["full_es", "full_es_sign"])
def test_full_es_is_unbiased_for_the_whole_inner_training(estimator: str) -> None:
    """With one weight every pair agrees on the sign, so what is left of signs is -E|noise| / (2 sigma)."""
    settings = MetaTraining(horizon=4, truncation=2, num_tasks=2_000, num_meta_losses=2, sigma=0.01)
    problem = Problem(Steps(LinearOptimizer(), parabola()), settings, {"rate": (1,)})
    rate = torch.tensor([0.1])
    found = [float(ESTIMATORS[estimator].meta_gradient(problem, {}, rate, generator(seed, "step")).gradient)
             for seed in range(NUM_REPEATS)]
    steps = torch.arange(1, 5, dtype=torch.float32)
    expected = {"full_es": float((2 * steps / 4 * (-2 * steps / (1 - 0.1))).mean()),
                "full_es_sign": -((2 / torch.pi) ** 0.5) / (2 * 0.01)}
    assert_unbiased(found, expected[estimator])


@dataclass(frozen=True, kw_only=True)
class SmoothRegression(TaskFamily):
    """A tanh network in float64, smooth enough for finite differences."""

    def sample(self, generator: torch.Generator) -> Tree:
        return {}

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        return {"first": torch.randn(5, 3, generator=generator).double(), "second": torch.randn(5).double()}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        return ((batch["inputs"] @ params["first"].T).tanh() @ params["second"] - batch["targets"]).square().mean()


def regression() -> SmoothRegression:
    stream = generator(0, "regression")
    rows = {"inputs": torch.randn(50, 3, generator=stream).double(),
            "targets": torch.randn(50, generator=stream).double()}
    return SmoothRegression(name="regression", domain="synthetic", loss_cap=1e6, batch_size=8,
                            data=Data(rows, rows, rows))


@pytest.mark.parametrize("meta_loss", ["validation", "train"])
@pytest.mark.parametrize("design", [
    replace(SMALL, rule=MLP(hidden_size=4, activation="tanh")),
    replace(SMALL, rule=LSTM(hidden_size=3), head=OutputRMS()),
    replace(SMALL, features=Features(groups=("small_fc",), learn_decays=True),
            rule=MLP(hidden_size=3, activation="silu"), mixing=NoMixing(), base=None),
])
def test_backprop_is_exact_to_second_order(design: LearnedOptimizer, meta_loss: str) -> None:
    """Against central differences along random directions, from weights away from the flat start."""
    settings = replace(SETTINGS, meta_loss=meta_loss, truncation=4, num_meta_losses=4)  # type: ignore[arg-type]
    stream = generator(0, "weights")
    first = {name: (leaf + 0.2 * torch.randn(leaf.shape, generator=stream)).double()
             for name, leaf in design.init_weights(stream).items()}
    # Learned decays near 1 are stiff: a little offset is all that makes sense there.
    first |= {name: leaf * 0.02 for name, leaf in first.items() if "decay" in name}
    weights = trees.ravel(first)
    problem = Problem(Steps(design, regression()), settings, trees.shapes_of(first))
    state = fresh_trainings(problem, [8, 8], generator(0, "start")).to_tree()

    def loss(at: Tensor) -> float:
        with torch.no_grad():
            unroll = Window(problem, 4, 2).run(inner.Trainings.from_tree(state), trees.unravel(
                at.expand(2, -1), problem.shapes), generator(1, "step"))
        return float(unroll.meta_losses.values.mean())

    found = ESTIMATORS["backprop"].meta_gradient(
        problem, state | {"windows_left": torch.tensor([2, 2])}, weights, generator(1, "step")).gradient
    for _ in range(5):
        direction = torch.randn(len(weights), generator=stream).double()
        direction /= direction.norm()
        difference = (loss(weights + 1e-5 * direction) - loss(weights - 1e-5 * direction)) / 2e-5
        assert float(found @ direction) == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_first_order_takes_gradients_as_given() -> None:
    """x goes to x - r x each step. With x held fixed inside the gradient, d x_t / d r is -(x_0 + ... + x_{t-1})."""
    settings = MetaTraining(horizon=3, truncation=3, num_tasks=1, num_meta_losses=3, min_horizon_ratio=1.0,
                            late_emphasis=0.0)
    problem = Problem(Steps(LinearOptimizer(), parabola()), settings, {"rate": (1,)})
    found = {}
    for name in ("backprop", "backprop_first_order"):
        state = ESTIMATORS[name].start(problem, 1, generator(0, "start"))
        estimate = ESTIMATORS[name].meta_gradient(problem, state, torch.tensor([0.1]), generator(1, 0))
        found[name] = float(estimate.gradient)
    xs = [0.9**step for step in range(4)]
    slopes = [-sum(xs[:step]) for step in range(1, 4)]
    assert found["backprop_first_order"] == pytest.approx(sum(2 * slope / x for slope, x in zip(
        slopes, xs[1:], strict=True)) / 3, rel=1e-4)
    assert found["backprop"] == pytest.approx(sum(-2 * step / 0.9 for step in range(1, 4)) / 3, rel=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("design", [SMALL, replace(SMALL, rule=LSTM(hidden_size=3)), named_design("rnnprop")])
def test_every_estimator_gives_a_finite_gradient_and_a_state_to_go_on_from(name: str,
                                                                           design: LearnedOptimizer) -> None:
    """On digits, some of whose pixels are always blank: there gradients are exactly 0."""
    first = design.init_weights(generator(0, "weights"))
    weights = trees.ravel(first)
    problem = Problem(Steps(design, families("digits_mlp")[0]), SETTINGS, trees.shapes_of(first))
    estimator = ESTIMATORS[name]
    assert estimator.inner_steps(SETTINGS) > 0
    state = estimator.start(problem, len(weights), generator(0, "start"))
    for step in range(6):
        found = estimator.meta_gradient(problem, state, weights, generator(0, step))
        state = found.state
        assert found.gradient.shape == weights.shape
        assert bool(found.gradient.isfinite().all())
        assert float(found.gradient.abs().max()) > 0
        assert not any(leaf.requires_grad for leaf in state.values())


def test_the_train_meta_loss_uses_the_batches_of_the_inner_steps() -> None:
    """With one inner step a meta-loss, it is the loss before that step, on that batch."""
    settings = replace(SETTINGS, meta_loss="train", truncation=1, num_meta_losses=1, late_emphasis=0.0, sigma=1e-12)
    first = SMALL.init_weights(generator(0, "weights"))
    family = families("quadratics")[0]
    problem = Problem(Steps(SMALL, family), settings, trees.shapes_of(first))
    state = ESTIMATORS["nres"].start(problem, len(trees.ravel(first)), generator(0, "start"))
    found = ESTIMATORS["nres"].meta_gradient(problem, state, trees.ravel(first), generator(0, "step"))
    losses = found.meta_losses.values.view(2, 2)
    group = Particles.from_tree(state)
    rows = inner.draw(family, "inner", (1, 2), generator(0, "step"))[0]
    task = {name: leaf[0] for name, leaf in group.trainings.task.items()}
    params = {name: leaf[0] for name, leaf in group.trainings.params.items()}
    batch = {name: leaf[0] for name, leaf in inner.rows_at(family, "inner", rows).items()}
    assert float(losses[0, 0]) == pytest.approx(float(family.loss(params, task | batch).log()), rel=1e-5)
