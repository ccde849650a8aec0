"""The hand-made opponents are those of torch.optim and of their papers, and many learning rates are one batch."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import cos, log, pi
from types import SimpleNamespace

import pytest
import reference_optimizers
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optsearch.evaluation import runs
from optsearch.evaluation.hand_made import OPPONENTS
from optsearch.evaluation.runs import Setup
from optsearch.meta_training.inner import InnerOptimizer
from optsearch.optimizers import Observation
from optsearch.seeds import generator
from optsearch.tasks import families
from optsearch.trees import Tree

NUM_STEPS = 40
RATES = (0.003, 0.03)
TUNED = {name: opponent for name, opponent in OPPONENTS.items() if name != "adamw_default"}


def normal(*shape: int, purpose: str | int = "normal") -> Tensor:
    return torch.randn(shape, generator=generator(0, "hand-made", purpose), dtype=torch.float64)


FRESH = {"kernel": normal(4, 2, 3, 3, purpose="kernel") / 4, "matrix": normal(3, 16, purpose="matrix") / 4,
         "vector": normal(3, purpose="vector")}


def loss_of(params: Tree, inputs: Tensor, targets: Tensor) -> Tensor:
    hidden = functional.conv2d(inputs, params["kernel"].view(4, 2, 3, 3)).tanh().flatten(1)
    return (functional.linear(hidden, params["matrix"], params["vector"]) - targets).square().mean()


def batch_at(step: int) -> tuple[Tensor, Tensor]:
    inputs = normal(8, 2, 4, 4, purpose=step)
    return inputs, inputs.flatten(1)[:, :3]


def trained(optimizer: InnerOptimizer, rates: tuple[float, ...]) -> Iterator[tuple[Tree, Tree]]:
    """Params and state after each step, one row a learning rate."""
    params = {name: leaf.repeat(len(rates), *[1] * leaf.dim()) for name, leaf in FRESH.items()}
    state, weights = optimizer.init(params, 1), {"lr": torch.tensor(rates, dtype=torch.float64)[:, None]}
    for step in range(NUM_STEPS):
        leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
        losses = vmap(loss_of, in_dims=(0, None, None))(leaves, *batch_at(step))
        gradients = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        progress = torch.full((len(rates), 1), step / NUM_STEPS, dtype=torch.float64)
        with torch.no_grad():
            updates, state = optimizer.update(weights, Observation(gradients, leaves, progress), state)
            params = {name: leaf + updates[name] for name, leaf in leaves.items()}
        yield params, state


def cosine(step: int) -> float:
    if step < 0.05 * NUM_STEPS:
        return max(step / (0.05 * NUM_STEPS), 0.01)
    return (1 + cos(pi * (step / NUM_STEPS - 0.05) / 0.95)) / 2


def warmup(step: int) -> float:
    return min(max(step / (0.05 * NUM_STEPS), 0.01), 1.0)


def constant(step: int) -> float:
    return 1.0


class Lion(Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for param in self.param_groups[0]["params"]:
            average = self.state[param].get("average", 0)
            update = torch.sign(0.9 * average + 0.1 * param.grad)
            param.sub_(self.param_groups[0]["lr"] * (update + 0.1 * param))
            self.state[param]["average"] = 0.99 * average + 0.01 * param.grad


def muon_and_adamw(params: list[nn.Parameter], lr: float) -> list[Optimizer]:
    """Torch's Muon takes matrices alone: the kernel is one here."""
    return [torch.optim.Muon(params[:2], lr, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(params[2:], lr, betas=(0.9, 0.95), weight_decay=0.1)]


class SOAP(Optimizer):
    """Matrices and kernels turned, vectors as AdamW's."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        fields = SimpleNamespace(beta1=0.95, beta2=0.95, shampoo_beta=0.95, eps=1e-8, weight_decay=0.01,
                                 precondition_1d=False, precondition_frequency=5)
        self.reference = reference_optimizers.SOAP(params, lr, fields)

    def step(self) -> None:
        self.reference.lr = self.param_groups[0]["lr"]
        self.reference.step()


def alone(kind: Callable[..., Optimizer], params: list[nn.Parameter], lr: float) -> list[Optimizer]:
    return [kind(params, lr=lr)]


REFERENCES: dict[str, tuple[Callable[..., list[Optimizer]], Callable[[int], float]]] = {
    "adamw_cosine": (partial(alone, torch.optim.AdamW), cosine),
    "adam_constant": (partial(alone, torch.optim.Adam), constant),
    "adamw_default": (partial(alone, torch.optim.AdamW), constant),
    "sgdm_cosine": (partial(alone, partial(torch.optim.SGD, momentum=0.9)), cosine),
    "lion_cosine": (partial(alone, Lion), cosine),
    "muon_cosine": (muon_and_adamw, cosine),
    "soap_cosine": (partial(alone, SOAP), cosine),
    "nadamw_cosine": (partial(alone, partial(torch.optim.NAdam, weight_decay=0.01, decoupled_weight_decay=True)),
                      cosine),
}


def as_torch_trains(name: str, rate: float) -> Tree:
    make, factor = REFERENCES[name]
    params = {key: nn.Parameter(leaf.clone().flatten(1) if leaf.dim() > 2 else leaf.clone())
              for key, leaf in FRESH.items()}
    optimizers = make(list(params.values()), rate)
    schedulers = [LambdaLR(optimizer, factor) for optimizer in optimizers]
    for step in range(NUM_STEPS):
        for param in params.values():
            param.grad = None
        loss_of(params, *batch_at(step)).backward()
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return {key: param.detach().view_as(FRESH[key]) for key, param in params.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_an_opponent_is_that_of_torch_or_of_its_paper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of torch's Muon but its rounding.
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    *_, (found, _) = trained(OPPONENTS[name].optimizer, RATES)
    for row, rate in enumerate(RATES):
        for key, expected in as_torch_trains(name, rate).items():
            assert (expected - FRESH[key]).abs().max() > 1e-3
            torch.testing.assert_close(found[key][row], expected, rtol=1e-8, atol=1e-9)


def test_every_opponent_is_compared_with_a_reference() -> None:
    assert REFERENCES.keys() | {"schedule_free_adamw"} == OPPONENTS.keys()


def schedule_free(rate: float) -> Iterator[tuple[Tensor, Tensor]]:
    """y, where the next gradient is taken, and x after each step of the paper's Algorithm 1."""
    shapes = {name: leaf.shape for name, leaf in FRESH.items()}
    x = z = torch.cat([leaf.flatten() for leaf in FRESH.values()])
    second, squares = torch.zeros_like(x), 0.0
    for t in range(1, NUM_STEPS + 1):
        y = ((1 - 0.9) * z + 0.9 * x).requires_grad_()
        parts = y.split([shape.numel() for shape in shapes.values()])
        params = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        (gradient,) = torch.autograd.grad(loss_of(params, *batch_at(t - 1)), y)
        y, learning_rate = y.detach(), rate * warmup(t - 1)
        second = 0.999 * second + 0.001 * gradient**2
        root = torch.sqrt(second / (1 - 0.999**t))
        z = z - learning_rate * (gradient / (root + 1e-8) + 0.01 * y)
        squares += learning_rate**2
        share = learning_rate**2 / squares
        x = (1 - share) * x + share * z
        yield (1 - 0.9) * z + 0.9 * x, x


def test_schedule_free_is_that_of_its_paper() -> None:
    optimizer = OPPONENTS["schedule_free_adamw"].optimizer
    assert isinstance(optimizer, runs.Averaging)
    steps = zip(trained(optimizer, RATES), *map(schedule_free, RATES), strict=True)
    for (params, state), *expected in steps:
        evaluated = optimizer.evaluated(params, state)
        for row, (y, x) in enumerate(expected):
            for tree, vector in ((params, y), (evaluated, x)):
                found = torch.cat([leaf[row].flatten() for leaf in tree.values()])
                torch.testing.assert_close(found, vector, rtol=1e-9, atol=1e-10)


def test_schedule_free_judges_the_average_of_all_steps_weighted_by_squared_learning_rates() -> None:
    weights = torch.tensor([warmup(step)**2 for step in range(NUM_STEPS)]).double()
    states = [state for _, state in trained(OPPONENTS["schedule_free_adamw"].optimizer, RATES)]
    steps = torch.stack([state["z"] for state in states])
    torch.testing.assert_close(states[-1]["x"], torch.einsum("s,srn->rn", weights, steps) / weights.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPPONENTS)
def test_a_batch_of_learning_rates_is_each_by_itself(name: str, dtype: torch.dtype) -> None:
    optimizer, batch = OPPONENTS[name].optimizer, (2, 3)
    rates = torch.logspace(-4, -1, 6, dtype=dtype).view(*batch, 1)
    start = {key: normal(*batch, *leaf.shape, purpose=key).to(dtype) for key, leaf in FRESH.items()}

    def after(place: tuple[int, ...]) -> Tree:
        params = {key: leaf[place] for key, leaf in start.items()}
        state, weights = optimizer.init(params, len(batch) - len(place)), {"lr": rates[place]}
        for step in range(3):
            gradients = {key: normal(*leaf.shape, purpose=f"{key}{step}").to(dtype)[place]
                         for key, leaf in start.items()}
            progress = torch.full_like(weights["lr"], step / 3)
            updates, state = optimizer.update(weights, Observation(gradients, params, progress), state)
            params = {key: leaf + updates[key] for key, leaf in params.items()}
        return params

    together = after(())
    for place in ((0, 0), (1, 2), (1,)):
        for key, leaf in after(place).items():
            assert leaf.dtype == dtype
            torch.testing.assert_close(together[key][place], leaf)


def test_the_grids() -> None:
    assert OPPONENTS["adamw_default"].learning_rates == (1e-3,)
    ends = {"sgdm_cosine": (1e-6, 10.0), "lion_cosine": (1e-8, 0.1)}
    for name, opponent in TUNED.items():
        rates = opponent.learning_rates
        assert (rates[0], rates[-1]) == pytest.approx(ends.get(name, (1e-7, 1.0)))
        assert len(rates) == 15
        assert [later / rate for rate, later in pairwise(rates)] == pytest.approx([10**0.5] * 14)


FAMILY = families("digits_mlp")[0]


@pytest.mark.parametrize("name", TUNED)
def test_all_learning_rates_and_seeds_run_as_one_batch(name: str) -> None:
    """The lowest learning rate leaves the loss where it was, the best lowers it, and none leaves the range."""
    opponent = OPPONENTS[name]
    found = runs.run(opponent.optimizer, {"lr": torch.tensor(opponent.learning_rates)[:, None]},
                     Setup(FAMILY, 40, "meta", (0, 1), "hand-made"))
    assert found.train.shape == found.measured.shape == (40, 30)
    for curves in (found.train, found.measured):
        assert curves.isfinite().all()
        assert curves.max() <= FAMILY.loss_cap
    by_rate = found.measured.view(40, 15, 2)
    torch.testing.assert_close(by_rate[0, 0], by_rate[-1, 0], rtol=1e-2, atol=0)
    assert by_rate[-1].mean(-1).min() < 0.5 * by_rate[0, 0].mean()


class JudgedAtZero:
    """Takes no step, and is judged where all params are 0."""

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        return {}

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        return {name: torch.zeros_like(leaf) for name, leaf in observation.params.items()}, state

    def evaluated(self, params: Tree, state: Tree) -> Tree:
        return {name: torch.zeros_like(leaf) for name, leaf in params.items()}


def test_measurements_are_taken_where_the_optimizer_wants_to_be_judged() -> None:
    found = runs.run(JudgedAtZero(), {}, Setup(FAMILY, 5, "meta", (0, 1), "hand-made"))
    torch.testing.assert_close(found.measured, torch.full((5, 2), log(10)))
    assert (found.train - log(10)).abs().max() > 0.01
