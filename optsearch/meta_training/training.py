"""Meta-training as a generator of points on the learning curve; the caller owns the loop."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

import torch

from optsearch import trees
from optsearch.meta_training import inner
from optsearch.meta_training.meta_losses import MetaLosses
from optsearch.meta_training.outcome import Outcome
from optsearch.meta_training.plan import Plan, Snapshot
from optsearch.meta_training.points import Gathered, Point
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator
from optsearch.tasks import (
    FewerRows,
    LowPrecision,
    NoisyGradients,
    Reparametrized,
    TaskDistribution,
    TaskFamily,
)
from optsearch.trees import Shapes

# A meta-training whose inner trainings still get nowhere after this part of its budget is given up.
PATIENCE = 0.5
# Getting nowhere: surely ending less than 5 % below the loss of untrained params.
LEAST_GAIN = 0.05
NUM_UNTRAINED = 32
SURELY = 3.0


def meta_train(plan: Plan, resume: Snapshot | None = None) -> Iterator[Point]:
    """Yield the points of `plan`, or fewer when it diverges or collapses; go on from `resume` where given.

    Everything random follows from `plan.seed` and the number of the meta-step, so that a resumed run and an
    unbroken one give the same bits. Families have turns as their distribution says.
    """
    run = _Run.of(plan)
    now = resume or run.start()
    for index in range(1, plan.num_early + plan.num_points + 1):
        end = plan.last_meta_step(index)
        if now.meta_step >= end:
            continue
        steps = run.plain if index == 1 else run.compiled
        gathered, started, first = Gathered(), time.monotonic(), now.meta_step
        while now.meta_step < end:
            now = run.meta_step(steps, now, gathered)
        seconds = time.monotonic() - started
        now = replace(now, seconds=now.seconds + seconds)
        outcome = run.outcome(now, gathered)
        yield Point(index, now.meta_step * plan.steps_per_meta_step, gathered.meta_loss, gathered.failed_share,
                    gathered.signal_to_noise, (now.meta_step - first) * plan.steps_per_meta_step / seconds,
                    any(each.is_compiled for each in steps), outcome, trees.unravel(now.weights, run.shapes), now)
        if outcome is not None:
            return


@dataclass(frozen=True)
class _Run:
    """A plan with the inner steps of its families, as they are and compiled."""

    plan: Plan
    distribution: TaskDistribution
    shapes: Shapes
    plain: Sequence[Steps]
    compiled: Sequence[Steps]

    @staticmethod
    def of(plan: Plan) -> "_Run":
        distribution = plan.distribution
        families = [_changed(family, plan.settings) for family in distribution.families]
        plain = [Steps(plan.optimizer, family) for family in families]
        shares = distribution.shares(distribution.start()).tolist()
        compiled = [Steps(plan.optimizer, family, is_compiled=True) if plan.compiles(family, share) else steps
                    for family, share, steps in zip(families, shares, plain, strict=True)]
        return _Run(plan, distribution, trees.shapes_of(plan.first_weights()), plain, compiled)

    def start(self) -> Snapshot:
        device = next(iter(self.distribution.families[0].data.inner.values())).device
        weights = trees.ravel(self.plan.first_weights()).to(device)
        groups = tuple(self.plan.chosen_estimator.start(self._problem(steps, 0), len(weights),
                                                        generator(self.plan.seed, "start", index))
                       for index, steps in enumerate(self.plain))
        moments = self._optimizer.init(Layout.of({"weights": weights}), weights)
        return Snapshot(weights, moments, groups, self.distribution.start(), 0, 0.0)

    @torch.no_grad()
    def meta_step(self, steps: Sequence[Steps], now: Snapshot, gathered: Gathered) -> Snapshot:
        plan, turn = self.plan, self.distribution.turn(now.turns)
        found = plan.chosen_estimator.meta_gradient(
            self._problem(steps[turn], now.meta_step), now.groups[turn], now.weights,
            generator(plan.seed, "meta_step", now.meta_step))
        gathered.add(turn, found)
        gradient = _limited(found.gradient, plan.settings.max_meta_gradient)
        step = torch.full((1,), now.meta_step + 1.0, device=now.weights.device)
        moment = Moment(Layout.of({"weights": now.weights}), gradient, now.weights, step, torch.zeros_like(step))
        direction, moments = self._optimizer.direction(moment, now.moments)
        weights = now.weights - plan.meta_lr(now.meta_step) * direction
        groups = (*now.groups[:turn], found.state, *now.groups[turn + 1:])
        turns = self.distribution.after(now.turns, turn, found.meta_losses.logs.mean())
        return Snapshot(weights, moments, groups, turns, now.meta_step + 1, now.seconds)

    def outcome(self, now: Snapshot, gathered: Gathered) -> Outcome | None:
        if not bool(now.weights.isfinite().all()):
            return Outcome.DIVERGED
        if now.meta_step == self.plan.num_meta_steps:
            return Outcome.COMPLETED
        is_patient = now.meta_step < PATIENCE * self.plan.num_meta_steps
        return None if is_patient or not self._gets_nowhere(gathered) else Outcome.COLLAPSED

    def _gets_nowhere(self, gathered: Gathered) -> bool:
        """Whether no family's late losses can well be lower than `LEAST_GAIN` says."""
        for turn in range(len(self.plain)):
            late, untrained = gathered.late_logs(turn), self._untrained_logs(turn)
            if len(late) < 2:
                return False
            error = (late.var() / len(late) + untrained.var() / len(untrained)).sqrt()
            if late.mean() - untrained.mean() - SURELY * error < log(1 - LEAST_GAIN):
                return False
        return True

    @torch.no_grad()
    def _untrained_logs(self, turn: int) -> torch.Tensor:
        """Log losses of params as they are before their first inner step."""
        family, stream = self.plain[turn].family, generator(self.plan.seed, "untrained", turn)
        trainings = inner.start(self.plan.optimizer, family, [stream] * NUM_UNTRAINED, [1] * NUM_UNTRAINED)
        rows = inner.rows_at(family, "meta", inner.draw(family, "meta", (NUM_UNTRAINED,), stream))
        losses = self.plain[turn].losses(trainings, rows)[None]
        return MetaLosses(losses, torch.ones_like(losses), family.loss_cap, 0.0).values

    def _problem(self, steps: Steps, meta_step: int) -> Problem:
        return Problem(steps, self.plan.settings.at(meta_step / self.plan.num_meta_steps), self.shapes)

    @property
    def _optimizer(self) -> AdamW:
        return AdamW(beta1=0.9, beta2=0.99, weight_decay=self.plan.settings.meta_weight_decay)


def _changed(family: TaskFamily, settings: MetaTraining) -> TaskFamily:
    """The family as it is meta-trained on."""
    if settings.reparametrization > 1:
        family = Reparametrized.of(family, most=settings.reparametrization, level=settings.reparametrization_level)
    if settings.gradient_noise > 0:
        family = NoisyGradients.of(family, most=settings.gradient_noise)
    if settings.min_batch_share < 1:
        family = FewerRows.of(family, least=settings.min_batch_share)
    return LowPrecision.of(family) if settings.precision == "bfloat16" else family


def _limited(gradient: torch.Tensor, norm: float) -> torch.Tensor:
    """The gradient, scaled down to `norm` where it is longer; 0 is no limit."""
    return gradient * (norm / gradient.norm()).clamp(max=1.0) if norm else gradient
