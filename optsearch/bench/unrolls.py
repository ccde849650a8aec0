"""Meta-training: what is measured, and what runs one meta-step of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from optsearch import trees
from optsearch.bench import naive
from optsearch.bench.loops import Loop
from optsearch.bench.timing import Contender
from optsearch.meta_training import MetaTraining
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.settings import EstimatorName
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.optimizers import DESIGNS, Controls, controllers
from optsearch.optimizers.features import Features
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.rules import LSTM, MLP
from optsearch.seeds import generator
from optsearch.tasks import TaskFamily, families

EAGER, COMPILED = "eager", "compiled"
# A loop over tasks costs the same a task however many there are.
NAIVE_TASKS = 2


@dataclass(frozen=True)
class Unroll:
    """One configuration: which design is meta-trained how, and the plain rule of the same maths if there is one."""

    name: str
    design: LearnedOptimizer
    estimator: EstimatorName = "pes"
    num_tasks: int = 8
    rule: naive.Rule | None = None

    @property
    def settings(self) -> MetaTraining:
        """Truncations of 20 inner steps; the meta-loss is each one's training loss."""
        return MetaTraining(estimator=self.estimator, num_tasks=self.num_tasks, truncation=20, meta_loss="train",
                            num_meta_losses=20)

    @property
    def inner_steps(self) -> int:
        return ESTIMATORS[self.estimator].inner_steps(self.settings)

    def loop(self, family: TaskFamily) -> tuple[Loop, int]:
        """The naive contender, and how many inner steps one of its calls makes."""
        assert self.rule is not None
        fewer = replace(self, num_tasks=min(self.num_tasks, NAIVE_TASKS))
        weights = self.design.init_weights(generator(0, "weights"))
        return Loop(self.rule, weights, family, fewer.settings), fewer.inner_steps


class MetaStep:
    """One meta-step a call, each going on from the one before; the weights stay as they are."""

    def __init__(self, unroll: Unroll, family: TaskFamily, *, is_compiled: bool) -> None:
        weights = unroll.design.init_weights(generator(0, "weights"))
        self._estimator = ESTIMATORS[unroll.estimator]
        self.steps = Steps(unroll.design, family, is_compiled=is_compiled)
        self._problem = Problem(self.steps, unroll.settings, trees.shapes_of(weights))
        self._weights = trees.ravel(weights).to(next(iter(family.data.inner.values())).device)
        self._state = self._estimator.start(self._problem, len(self._weights), generator(0, "start"))
        self._meta_step = 0

    @torch.no_grad()
    def __call__(self) -> None:
        self._meta_step += 1
        found = self._estimator.meta_gradient(self._problem, self._state, self._weights,
                                              generator(0, "meta_step", self._meta_step))
        self._state = found.state

    @property
    def is_compiled(self) -> bool:
        """False also where this machine turned out to have no compiler."""
        return self.steps.is_compiled


def engines(unroll: Unroll, family: TaskFamily, forms: Sequence[str]) -> dict[str, Contender]:
    """Our contenders by form, without "compiled" where this machine can't compile."""
    made = {form: MetaStep(unroll, family, is_compiled=form == COMPILED) for form in forms}
    for step in made.values():
        step()
    return {form: step for form, step in made.items() if step.is_compiled == (form == COMPILED)}


def digits() -> TaskFamily:
    """Handwritten digits, MLP 64-32-10, batches of 32."""
    return families("digits_mlp")[0]


def small_fc(hidden_size: int) -> LearnedOptimizer:
    return replace(DESIGNS["small_fc"][0], rule=MLP(hidden_size))


def lean_lstm() -> LearnedOptimizer:
    """A coordinate-wise LSTM of 8 units over 7 features."""
    return replace(DESIGNS["small_fc"][0], features=Features(groups=("lean",)), rule=LSTM(hidden_size=8))


def tensor_lstm() -> LearnedOptimizer:
    """small_fc under an LSTM of 64 units a tensor that tells it 16 numbers."""
    return replace(small_fc(32), controller=controllers.LSTM(hidden_size=64), controls=Controls(context_size=16))


UNROLLS = (
    Unroll("small_fc 4, PES, 8 tasks", small_fc(4), rule=naive.small_fc),
    Unroll("small_fc 4, PES, 32 tasks", small_fc(4), num_tasks=32, rule=naive.small_fc),
    Unroll("small_fc 32, PES, 8 tasks", small_fc(32), rule=naive.small_fc),
    Unroll("adamw_mlp, NRES, 8 tasks", DESIGNS["adamw_mlp"][0], "nres", rule=naive.adamw_mlp),
    Unroll("LSTM 8 a parameter, PES, 8 tasks", lean_lstm()),
    Unroll("LSTM 64 a tensor, MLP 32, PES, 8 tasks", tensor_lstm()),
    Unroll("small_fc 4, backprop, 8 tasks", small_fc(4), "backprop", rule=naive.small_fc),
)
