"""The embeddings of a run: what a controller made of each param, step by step."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optsearch import trees
from optsearch.errors import UsageError
from optsearch.export.optimizer import LearnedTorchOptimizer

EMBEDDINGS, STEPS = "embeddings", "steps"


class EmbeddingLog:
    """Keeps the embeddings of every `every`th step of an exported optimizer, from now on.

        log = EmbeddingLog(optimizer)
        ...                                    # train
        log.save("run.safetensors")

    `names` are those of the params, in the optimizer's order; by default those of `named_parameters()` where it
    was given them, and else their numbers. Raises `UsageError` for designs without a controller.
    """

    def __init__(self, optimizer: LearnedTorchOptimizer, every: int = 1, names: list[str] | None = None) -> None:
        if every < 1:
            raise UsageError(f"every must be at least 1, not {every}.")
        optimizer.embeddings()
        given = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
        num_params = sum(len(group["params"]) for group in optimizer.param_groups)
        self.names = names or given or [str(index) for index in range(num_params)]
        self._every, self._num_steps = every, 0
        self._kept: list[tuple[int, Tensor]] = []
        self._hook = optimizer.register_step_post_hook(self._keep)

    def _keep(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._num_steps += 1
        if self._num_steps % self._every == 0:
            assert isinstance(optimizer, LearnedTorchOptimizer)
            self._kept.append((self._num_steps, optimizer.embeddings()))

    @property
    def embeddings(self) -> Tensor:
        """All that were kept, `[steps, params, size]`."""
        return torch.stack([embedding for _, embedding in self._kept])

    def save(self, path: str | Path) -> None:
        """Write `embeddings` and the numbers of their `steps` as safetensors, with the names as metadata."""
        if not self._kept:
            raise UsageError(f"nothing to save after {self._num_steps} steps, of which every {self._every}th is kept.")
        steps = torch.tensor([number for number, _ in self._kept])
        trees.save(Path(path), {EMBEDDINGS: self.embeddings, STEPS: steps}, {"names": json.dumps(self.names)})

    def close(self) -> None:
        """Keep no more."""
        self._hook.remove()
