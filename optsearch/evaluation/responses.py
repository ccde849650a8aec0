"""How an optimizer answers made-up gradients of one tensor: to their scale, and to noise in them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from optsearch.evaluation.behaviour import PURPOSE
from optsearch.meta_training.inner import InnerOptimizer
from optsearch.optimizers.moment import Observation
from optsearch.seeds import generator
from optsearch.trees import Tree

SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "matrix 32 x 16": ("weight", (32, 16)), "kernel 8 x 8 x 3 x 3": ("weight", (8, 8, 3, 3)),
    "vector 256": ("bias", (256,))}
SCALES = tuple(10.0**power for power in range(-3, 4))
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
NUM_STEPS, NUM_SEEDS = 60, 2
# Of gradients and params, as in a small network.
GRADIENT, PARAMETER = 0.02, 0.1
NOISE_WHERE_SCALES_DIFFER = 1.0


@dataclass(frozen=True)
class Responses:
    """Root mean squares of the steps in the second half of a stream, for each of `SHAPES`.

    `by_scale` `[shapes, scales]`; `by_noise` `[shapes, noises]`, and there `alignment`, the cosine between steps and
    the gradient without its noise.
    """

    by_scale: Tensor
    by_noise: Tensor
    alignment: Tensor

    @property
    def slopes(self) -> Tensor:
        """Of log(step size) over log(scale), least squares, `[shapes]`: 0 where scale does not matter, 1 for SGD."""
        scales = torch.tensor(SCALES).log()
        centred = scales - scales.mean()
        return self.by_scale.log() @ centred / centred.square().sum()


def respond(optimizer: InnerOptimizer, weights: Tree) -> Responses:
    """With one set of weights. Params stay where they are, the loss that is told is 1 all along."""
    found = [_respond(optimizer, weights, name, shape) for name, shape in SHAPES.values()]
    sizes, cosines = (torch.stack(each) for each in zip(*found, strict=True))
    return Responses(sizes[:, :len(SCALES)], sizes[:, len(SCALES):], cosines[:, len(SCALES):])


@torch.no_grad()
def _respond(optimizer: InnerOptimizer, weights: Tree, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Step sizes and alignments, one a scale and then one a noise."""
    scales = torch.tensor(SCALES + (1.0,) * len(NOISES)).repeat_interleave(NUM_SEEDS)
    noises = torch.tensor((NOISE_WHERE_SCALES_DIFFER,) * len(SCALES) + NOISES).repeat_interleave(NUM_SEEDS)
    num_kinds, rows = len(SCALES) + len(NOISES), (-1, *[1] * len(shape))
    stream = generator(0, PURPOSE, *shape)
    # Signs alone, so that without noise Adam's direction is the gradient's too.
    signs = torch.randn(NUM_SEEDS, *shape, generator=stream).sign().repeat(num_kinds, *[1] * len(shape))
    params = {name: PARAMETER * torch.randn(NUM_SEEDS, *shape, generator=stream).repeat(
        num_kinds, *[1] * len(shape))}
    weights = {key: leaf.expand(len(scales), *leaf.shape) for key, leaf in weights.items()}
    state, ones, sizes, cosines = optimizer.init(params, batch_dims=1), torch.ones(len(scales), 1), [], []
    for step in range(NUM_STEPS):
        noise = torch.randn(NUM_SEEDS, *shape, generator=stream).repeat(num_kinds, *[1] * len(shape))
        gradient = GRADIENT * scales.view(rows) * (signs + noises.view(rows) * noise)
        observation = Observation({name: gradient}, params, step / NUM_STEPS * ones, loss=ones,
                                  num_steps=NUM_STEPS * ones)
        updates, state = optimizer.update(weights, observation, state)
        sizes.append(updates[name].flatten(1).square().mean(1))
        cosines.append(functional.cosine_similarity(-updates[name].flatten(1), signs.flatten(1)))
    kept = slice(NUM_STEPS // 2, None)
    return (torch.stack(sizes)[kept].mean(0).view(num_kinds, -1).mean(1).sqrt(),
            torch.stack(cosines)[kept].mean(0).view(num_kinds, -1).mean(1))
