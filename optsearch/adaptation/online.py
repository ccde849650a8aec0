"""A learned optimizer that adapts while it trains."""

from collections.abc import Callable, Iterable
from math import exp, isfinite
from typing import Any

import torch
from torch import Tensor

from optsearch.adaptation.behaviours import Behaviours
from optsearch.errors import UsageError
from optsearch.export import LearnedTorchOptimizer, OptimizerModule

# How far the log of a group's multiplier may go, and the part of it that is left after each step: it forgets within
# some twenty steps, so that what one phase of a run taught is not held against the next.
LOWEST, HIGHEST = -0.7, 1.4
KEPT = 0.95
# Behaviours: by how much hypergradients count. The usual one stands in the middle.
STRENGTHS = (0.0, 1.0, 3.0)
USUAL = 1


class OnlineOptimizer(LearnedTorchOptimizer):
    """A `LearnedTorchOptimizer` whose steps are made longer or shorter by what the run shows.

    Each param group has a multiplier between 0.5 and 4 beside its `lr`. Where gradients go on pointing the way of the
    last step it grows, where they turn against it it shrinks (hypergradients, Baydin et al. 2018,
    arxiv.org/abs/1703.04782, of cosines instead of products, so that `adaptation_rate` has no unit), and without either
    it goes back to 1. How strongly, not at all or more than usual, is chosen every ten steps by how the loss fell after
    such choices before: of the last `memory_size`, with one of 1 / `exploration_rate` drawn at random from `seed`. That
    needs to be told the loss, `step(loss=loss)`, or better `feedback`.

    Other options are those of the module's call. Keeps one more copy of the params, and waits for the device once a
    step.
    """

    def __init__(self, module: OptimizerModule, params: Iterable[Any], *, adaptation_rate: float = 1.0,
                 memory_size: int = 200, exploration_rate: float = 0.05, seed: int = 0, **options: Any) -> None:
        if not adaptation_rate >= 0 or memory_size < 1 or not 0 <= exploration_rate <= 1:
            raise UsageError("adaptation_rate must be at least 0, memory_size at least 1 and exploration_rate between "
                             f"0 and 1, not {adaptation_rate}, {memory_size} and {exploration_rate}.")
        self.adaptation_rate = adaptation_rate
        self.behaviours = Behaviours(len(STRENGTHS), USUAL, memory_size, exploration_rate, seed)
        self._steps: dict[Tensor, Tensor] = {}
        self._has_feedback = False
        defaults: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "num_steps": None}
        super().__init__(params, module.design, module.weights, adapters=module.adapters, **defaults | options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group.setdefault("log_multiplier", 0.0)
        super().add_param_group(param_group)

    @property
    def multipliers(self) -> list[float]:
        """What the steps of each group are multiplied with at the moment, beside its `lr`."""
        return [exp(group["log_multiplier"]) for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | Tensor | float | None = None, *,
             loss: Tensor | float | None = None) -> Any:
        """As without adaptation; a closure is called before the multipliers change."""
        told = loss
        if isinstance(closure, (Tensor, float, int)):
            told = closure
        elif closure is not None:
            with torch.enable_grad():
                told = closure()
        if told is not None and not self._has_feedback:
            self.behaviours.tell(float(torch.as_tensor(told).detach()))
        self._turn()
        found = super().step(loss=told)
        return told if callable(closure) else found

    def feedback(self, value: float | Tensor) -> None:
        """A validation loss; from the first one on, choices are judged by them instead of by training losses."""
        if not self._has_feedback:
            self._has_feedback = True
            self.behaviours.spell, self.behaviours.before = [], None
        self.behaviours.tell(float(value))

    def _turn(self) -> None:
        """Move the multipliers by how the gradients here lie to the steps that led here."""
        rate = self.adaptation_rate * STRENGTHS[self.behaviours.choice]
        for group, cosine in zip(self.param_groups, self._cosines(), strict=True):
            moved = KEPT * group["log_multiplier"] + rate * cosine
            group["log_multiplier"] = min(HIGHEST, max(LOWEST, moved))

    def _cosines(self) -> list[float]:
        """Between each group's gradients and minus its last steps; 0 where there is nothing to compare."""
        rows = []
        for group in self.param_groups:
            pairs = [(param.grad.float(), self._steps[param]) for param in group["params"]
                     if param.grad is not None and param in self._steps]
            rows.append(torch.stack([torch.stack(products).sum() for products in (
                [(gradient * step).sum() for gradient, step in pairs],
                [gradient.square().sum() for gradient, _ in pairs],
                [step.square().sum() for _, step in pairs])]).cpu() if pairs else torch.zeros(3))
        self._steps = {}
        cosines = (-product / (one * other)**0.5 if one * other > 0 else 0.0
                   for product, one, other in torch.stack(rows).double().tolist())
        return [cosine if isfinite(cosine) else 0.0 for cosine in cosines]

    def _factor(self, group: dict[str, Any]) -> float:
        return super()._factor(group) * exp(group["log_multiplier"])

    def _moved(self, param: Tensor, update: Tensor) -> None:
        self._steps[param] = update.detach().clone()

    def __getstate__(self) -> dict[str, Any]:
        own = ("adaptation_rate", "behaviours", "_has_feedback")
        return super().__getstate__() | {name: getattr(self, name) for name in own} | {"_steps": {}}

    def state_dict(self) -> dict[str, Any]:
        """As without adaptation, and what was learned: multipliers stand in the groups, outcomes in `online`."""
        params = [param for group in self.param_groups for param in group["params"]]
        steps = {index: self._steps[param].clone() for index, param in enumerate(params) if param in self._steps}
        return super().state_dict() | {"online": {
            "behaviours": self.behaviours.to_state(), "has_feedback": self._has_feedback, "steps": steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A state without adaptation is one in which nothing was learned."""
        state_dict = dict(state_dict)
        online = state_dict.pop("online", None)
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.setdefault("log_multiplier", 0.0)
        params = [param for group in self.param_groups for param in group["params"]]
        self._steps = {}
        if online is not None:
            self.behaviours.load(online["behaviours"])
            self._has_feedback = online["has_feedback"]
            self._steps = {params[index]: step.to(params[index].device, copy=True)
                           for index, step in online["steps"].items()}
