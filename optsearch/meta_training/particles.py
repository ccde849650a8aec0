"""Antithetic pairs of inner trainings, and the meta-gradient that their losses give."""

from dataclasses import dataclass, replace
from math import exp, log

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training import inner
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.settings import MetaTraining
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.seeds import seed_for
from optsearch.tasks.family import TaskFamily
from optsearch.trees import Shapes, Tree

# Below this a loss is as good as 0 and its logarithm says nothing more.
MIN_LOSS = 1e-6


@dataclass(frozen=True)
class Problem:
    """What stays the same over a whole meta-training of one family."""

    optimizer: LearnedOptimizer
    family: TaskFamily
    settings: MetaTraining
    shapes: Shapes


@dataclass(frozen=True)
class Particles:
    """`num_tasks` pairs; the first half of `trainings` runs at weights + perturbation, the second at -.

    `perturbation` `[num_tasks, num_weights]` is the pair's current one, `memory` what PES has summed since the
    inner training began (for NRES both are the same), `windows_left` `[num_tasks]` counts truncations.
    """

    trainings: Trainings
    perturbation: Tensor
    memory: Tensor
    windows_left: Tensor

    def to_tree(self) -> Tree:
        return self.trainings.to_tree() | {"perturbation": self.perturbation, "memory": self.memory,
                                           "windows_left": self.windows_left}

    @staticmethod
    def from_tree(tree: Tree) -> "Particles":
        return Particles(Trainings.from_tree(tree), tree["perturbation"], tree["memory"], tree["windows_left"])


def start(problem: Problem, num_weights: int, generator: torch.Generator) -> Particles:
    """Fresh pairs whose first inner trainings are cut at random, so that they don't all restart together."""
    num_tasks = problem.settings.num_tasks
    horizons = [_horizon(problem.settings, generator) for _ in range(num_tasks)]
    trainings = _fresh(problem, horizons, generator)
    nothing = torch.zeros(num_tasks, num_weights, device=trainings.step.device)
    cuts = [int(torch.randint(1, horizon // problem.settings.truncation + 1, (), generator=generator))
            for horizon in horizons]
    particles = Particles(trainings, nothing, nothing, torch.tensor(cuts))
    return _perturbed(problem, particles, torch.ones(num_tasks, dtype=torch.bool), generator)


def meta_gradient(problem: Problem, particles: Particles, weights: Tensor,
                  generator: torch.Generator) -> tuple[Tensor, Tensor, Particles]:
    """One truncation of every pair: the meta-gradient `[num_weights]`, the meta-losses `[2, num_tasks]`, what follows.

    PES (Vicol et al. 2021, arxiv.org/abs/2112.13835) draws a perturbation a truncation and weighs losses with
    the sum of all since the inner training began; NRES (Li et al. 2023, arxiv.org/abs/2304.12180) keeps one
    perturbation for a whole inner training.
    """
    settings = problem.settings
    perturbed = torch.cat([weights + particles.perturbation, weights - particles.perturbation])
    losses, trainings = _run_window(problem, particles.trainings, trees.unravel(perturbed, problem.shapes), generator)
    losses = losses.unflatten(0, (2, settings.num_tasks))
    difference = (losses[0] - losses[1])[:, None]
    gradient = (particles.memory * difference).mean(0) / (2 * settings.sigma**2)
    return gradient, losses, _next(problem, replace(particles, trainings=trainings), generator)


def _run_window(problem: Problem, trainings: Trainings, weights: Tree,
                generator: torch.Generator) -> tuple[Tensor, Trainings]:
    """Meta-losses `[2 · num_tasks]` of one truncation; the halves of a pair see the same batches."""
    settings, family = problem.settings, problem.family
    shape = (settings.truncation, settings.num_tasks)
    inner_rows = inner.draw(family, "inner", shape, generator)
    meta_rows = inner.draw(family, "meta", shape, generator)
    every = settings.truncation // settings.num_meta_losses
    losses = []
    for index in range(settings.truncation):
        batch = inner.rows_at(family, "inner", inner_rows[index].repeat(2, 1))
        loss, trainings = inner.step(problem.optimizer, family, weights, trainings, batch)
        if (index + 1) % every == 0:
            if settings.meta_loss == "validation":
                loss = inner.losses_on(family, trainings,
                                       inner.rows_at(family, "meta", meta_rows[index].repeat(2, 1)))
            losses.append(_meta_loss(problem, inner.capped(loss, family), trainings))
    return torch.stack(losses).mean(0), trainings


def _meta_loss(problem: Problem, losses: Tensor, trainings: Trainings) -> Tensor:
    """log loss · (1 + e) progress^e, with e the late emphasis: ratios of losses count, above all at the end."""
    emphasis = problem.settings.late_emphasis
    progress = (trainings.step / trainings.horizon).squeeze(-1)
    return losses.clamp(min=MIN_LOSS).log() * (1 + emphasis) * progress**emphasis


def _next(problem: Problem, particles: Particles, generator: torch.Generator) -> Particles:
    windows_left = particles.windows_left - 1
    done = windows_left == 0
    if done.any():
        particles, windows_left = _restarted(problem, particles, windows_left, generator)
    return _perturbed(problem, replace(particles, windows_left=windows_left), done, generator)


def _restarted(problem: Problem, particles: Particles, windows_left: Tensor,
               generator: torch.Generator) -> tuple[Particles, Tensor]:
    rows = (windows_left == 0).nonzero().squeeze(-1)
    horizons = [_horizon(problem.settings, generator) for _ in rows]
    fresh = _fresh(problem, horizons, generator)
    pairs = torch.cat([rows, rows + problem.settings.num_tasks]).to(particles.memory.device)
    windows = torch.tensor(horizons) // problem.settings.truncation
    return (replace(particles, trainings=particles.trainings.with_rows(pairs, fresh)),
            windows_left.index_copy(0, rows, windows))


def _perturbed(problem: Problem, particles: Particles, fresh: Tensor, generator: torch.Generator) -> Particles:
    noise = problem.settings.sigma * torch.randn(particles.memory.shape, generator=generator)
    noise, fresh = noise.to(particles.memory.device), fresh.to(particles.memory.device)[:, None]
    if problem.settings.estimator == "nres":
        noise = torch.where(fresh, noise, particles.perturbation)
        return replace(particles, perturbation=noise, memory=noise)
    return replace(particles, perturbation=noise, memory=torch.where(fresh, noise, particles.memory + noise))


def _horizon(settings: MetaTraining, generator: torch.Generator) -> int:
    low, high = log(settings.horizon * settings.min_horizon_ratio), log(settings.horizon)
    drawn = exp(low + (high - low) * float(torch.rand((), generator=generator)))
    return max(1, round(drawn / settings.truncation)) * settings.truncation


def _fresh(problem: Problem, horizons: list[int], generator: torch.Generator) -> Trainings:
    """Two equal trainings a horizon: all of the first halves, then all of the second."""
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in horizons]
    generators = [torch.Generator().manual_seed(seed_for(seed, "training")) for seed in seeds]
    half = inner.start(problem.optimizer, problem.family, generators, horizons)
    return half.map(lambda leaf: torch.cat([leaf, leaf]))
