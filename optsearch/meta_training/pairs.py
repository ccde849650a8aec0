"""PES and NRES: antithetic pairs of inner trainings that go on from truncation to truncation."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optsearch import trees
from optsearch.meta_training.estimate import Estimate
from optsearch.meta_training.inner import Trainings
from optsearch.meta_training.settings import MetaTraining
from optsearch.meta_training.windows import (
    Problem,
    Window,
    draw_horizon,
    first_windows,
    fresh_trainings,
    restarted,
    twice,
)
from optsearch.seeds import drawing_on
from optsearch.trees import Tree


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


@dataclass(frozen=True)
class Pairs:
    """PES, or NRES where it `reuses_noise`.

    PES (Vicol et al. 2021, arxiv.org/abs/2112.13835) draws a perturbation a truncation and weighs losses with
    the sum of all since the inner training began; NRES (Li et al. 2023, arxiv.org/abs/2304.12180) keeps one
    perturbation for a whole inner training.
    """

    reuses_noise: bool

    def inner_steps(self, settings: MetaTraining) -> int:
        return 2 * settings.num_tasks * settings.truncation

    def start(self, problem: Problem, num_weights: int, generator: torch.Generator) -> Tree:
        """Fresh pairs."""
        settings = problem.settings
        horizons = [draw_horizon(settings, generator) for _ in range(settings.num_tasks)]
        trainings = twice(fresh_trainings(problem, horizons, generator))
        nothing = torch.zeros(settings.num_tasks, num_weights, device=trainings.step.device)
        particles = Particles(trainings, nothing, nothing, first_windows(settings, horizons, generator))
        everyone = torch.ones(settings.num_tasks, dtype=torch.bool)
        return self._perturbed(problem, particles, everyone, generator).to_tree()

    def meta_gradient(self, problem: Problem, state: Tree, weights: Tensor, generator: torch.Generator) -> Estimate:
        particles, settings = Particles.from_tree(state), problem.settings
        perturbed = torch.cat([weights + particles.perturbation, weights - particles.perturbation])
        window = Window(problem, settings.truncation, settings.num_tasks)
        unroll = window.run(particles.trainings, trees.unravel(perturbed, problem.shapes), generator)
        one, other = unroll.meta_losses.values.chunk(2)
        gradient = (particles.memory * (one - other)[:, None]).mean(0) / (2 * settings.sigma**2)
        particles = self._next(problem, replace(particles, trainings=unroll.trainings), generator)
        return Estimate(gradient, unroll.meta_losses, particles.to_tree())

    def _next(self, problem: Problem, particles: Particles, generator: torch.Generator) -> Particles:
        windows_left = particles.windows_left - 1
        done = windows_left == 0
        trainings, windows_left = restarted(problem, particles.trainings, windows_left, generator)
        particles = replace(particles, trainings=trainings, windows_left=windows_left)
        return self._perturbed(problem, particles, done, generator)

    def _perturbed(self, problem: Problem, particles: Particles, fresh: Tensor,
                   generator: torch.Generator) -> Particles:
        device = particles.memory.device
        noise = problem.settings.sigma * torch.randn(particles.memory.shape, device=device,
                                                     generator=drawing_on(device, generator))
        fresh = fresh.to(device)[:, None]
        if self.reuses_noise:
            noise = torch.where(fresh, noise, particles.perturbation)
            return replace(particles, perturbation=noise, memory=noise)
        return replace(particles, perturbation=noise, memory=torch.where(fresh, noise, particles.memory + noise))

