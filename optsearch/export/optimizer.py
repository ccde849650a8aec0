"""A learned optimizer as a `torch.optim.Optimizer`: a thin shell around the same pure update."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from optsearch.compiling import Kernels
from optsearch.errors import UsageError
from optsearch.export.adapters import Adapters
from optsearch.export.bundle import STEP, Bundle, Group
from optsearch.export.fused_steps import FusedSteps
from optsearch.export.known_model import KnownModel
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.model_graph import ModelGraph
from optsearch.optimizers.moment import Observation
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.steering import EMBEDDING
from optsearch.trees import Tree

# A graph of more segments or blocks takes long to compile and is no faster: then kernels work on one block at a time.
MOST_SEGMENTS, MOST_BLOCKS = 16, 4
# What an observation may hold as tensors, beside params and gradients.
TOLD = ("progress", "weight_decay", "loss", "num_steps")


class LearnedTorchOptimizer(Optimizer):
    """Trains params in place; made by calling what `optsearch.load` returns.

    Param groups have `lr`, a factor on the learned step (1 as it was meta-trained, free for LR schedulers),
    `weight_decay`, decoupled and in the units of AdamW's, and `num_steps`, the length of the run if it is known.
    Groups at the same point of runs of the same length are stepped together, and a controller that looks from one
    tensor to others sees all of theirs; `model` tells it how they are wired.
    A step whose gradients are not all finite is skipped and counted in `num_skipped_steps`.
    With `adapters` it makes the steps of `domain`, or of the one recognised at its first step from the params in
    their order and their gradients. State is kept in float32, whatever the params' type. `compile` fuses the whole step
    of small models, of at most 16 different shapes and some 100,000 parameters, and of larger ones what a rule does
    with a block of them, where there are few kinds of blocks.
    """

    def __init__(self, params: Iterable[Any], design: LearnedOptimizer, weights: Tree, *,
                 model: nn.Module | None = None, compile: bool = False, adapters: Adapters | None = None,
                 domain: str | None = None, **defaults: Any) -> None:
        self.design = design
        self.num_skipped_steps = 0
        self._kernels, self.fused = Kernels(is_asked=True) if compile else None, FusedSteps(design)
        self._bundles: list[Bundle] = []
        self._model = KnownModel.of_module(model) if model is not None and design.steering.reads_graph else None
        self._weights = {torch.device("cpu"): {name: leaf.detach().to("cpu", torch.float32, copy=True)
                                               for name, leaf in weights.items()}}
        self._shared, self._adapters = self._weights[torch.device("cpu")], adapters
        self.domain: str | None = None
        if domain is not None:
            self._enter(domain)
        super().__init__(params, defaults | {"step": 0})
        if self._model is not None and not any(param in self._model.names for group in self.param_groups
                                               for param in group["params"]):
            raise UsageError("none of these params is one of `model`'s; give the module that they are of.")
        if design.steering.reads_graph and self._model is None and not KnownModel.of_groups(self.param_groups):
            warnings.warn("this design looks at how the layers of a model are wired, and params came without names: it "
                          "takes them as unconnected. Give it `model=model`, or `model.named_parameters()`.",
                          stacklevel=5)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        num_steps = group["num_steps"]
        problem = None
        if group["lr"] < 0 or group["weight_decay"] < 0:
            problem = f"lr and weight_decay must be at least 0, not {group['lr']} and {group['weight_decay']}"
        elif num_steps is not None and not 1 <= num_steps < inf:
            problem = f"num_steps must be finite and at least 1, or None, not {num_steps}"
        elif any(param.is_complex() for param in group["params"]):
            problem = "complex parameters are not supported; give torch.view_as_real of them"
        if problem is not None:
            self.param_groups.pop()
            raise UsageError(f"{problem}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | Tensor | float | None = None, *,
             loss: Tensor | float | None = None) -> Any:
        """One step; `closure` computes the loss anew, as in torch, or is the loss of the batch itself.

        Designs with a controller look at the loss. Told it, they give back their embeddings; see `embeddings`.
        """
        is_told = loss is not None
        if isinstance(closure, (Tensor, float, int)):
            loss, is_told = closure, True
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._is_finite():
            self._step_params(None if loss is None else torch.as_tensor(loss).detach().float().reshape(1))
        else:
            self._skip()
        for group in self.param_groups:
            group["step"] += 1
        return self.embeddings() if is_told and self.design.has_controller else loss

    def embeddings(self) -> Tensor:
        """What the controller made of each param at the last step, `[params, size]`; zeros for those never stepped.

        Raises `UsageError` for designs without a controller.
        """
        if not self.design.has_controller:
            raise UsageError("this design has no controller, and only controllers embed; "
                             "`design.controller` says what it has.")
        params = [param for group in self.param_groups for param in group["params"]]
        size = self.design.steering.width
        return torch.stack([self.state[param][EMBEDDING][:, 0].cpu() if self.state.get(param) else torch.zeros(size)
                            for param in params])

    def _is_finite(self) -> bool:
        gradients = [param.grad for group in self.param_groups for param in group["params"]
                     if param.grad is not None and param.numel()]
        if any(gradient.is_sparse for gradient in gradients):
            raise UsageError("sparse gradients are not supported by learned optimizers; "
                             "use dense ones (nn.Embedding(..., sparse=False)).")
        # One number, and with it one wait for the device instead of one a tensor. Only squares that overflow need the
        # largest magnitude, which takes twenty times as long.
        return bool(get_total_norm(gradients).isfinite()) or bool(get_total_norm(gradients, torch.inf).isfinite())

    def _skip(self) -> None:
        if self.num_skipped_steps == 0:
            warnings.warn("a gradient is not finite: this step is skipped, and later ones like it are too, "
                          "silently; `num_skipped_steps` counts them.", stacklevel=5)
        self.num_skipped_steps += 1

    def _enter(self, domain: str) -> None:
        """Make the steps of a domain from now on."""
        if self._adapters is None:
            raise UsageError(f"this optimizer has no adapters, and so no domain {domain!r}. Leave `domain` away.")
        self._weights = {torch.device("cpu"): self._adapters.weights(self._shared, domain)}
        self.domain = domain

    def _step_params(self, loss: Tensor | None) -> None:
        bundles = self._current_bundles()
        if bundles and self._adapters is not None and self.domain is None:
            self._enter(self._adapters.recognise([param for group in self.param_groups for param in group["params"]]))
        for bundle in bundles:
            device, progress, num_steps = bundle.params[0].device, None, None
            ((count, length),) = bundle.clocks
            if length is not None:
                progress = torch.full((1,), min(count / length, 1.0), device=device, dtype=torch.float32)
                num_steps = torch.full((1,), float(length), device=device, dtype=torch.float32)
            values = {str(index): param.float() for index, param in enumerate(bundle.params)}
            gradients = {str(index): param.grad.float() for index, param in enumerate(bundle.params)
                         if param.grad is not None}
            observation = Observation(gradients, values, progress, bundle.weight_decay,
                                      None if loss is None else loss.to(device), num_steps, bundle.graph)
            updates, state = self._update(self._weights_on(device), observation, bundle.state)
            bundle.advance(state)
            for param, group, part, update in zip(bundle.params, bundle.groups, bundle.parts, updates.values(),
                                                  strict=True):
                self.state[param] = part
                # Computed in the wider of the two types: float64 params keep their precision.
                param.add_(update, alpha=self._factor(group))
                self._moved(param, update)

    def _factor(self, group: Group) -> float:
        """What the learned step is multiplied with."""
        return float(group["lr"])

    def _moved(self, param: Tensor, update: Tensor) -> None:
        """Told of every param's learned step once it was taken."""

    def _update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        layout = Layout.of(observation.params)
        if self._kernels is None or len(layout.segments) > MOST_SEGMENTS or len(layout.blocks) > MOST_BLOCKS:
            return self.fused.update(weights, observation, state, self._kernels)

        def update(weights: Tree, gradients: Tree, params: Tree, told: Tree, state: Tree) -> tuple[Tree, Tree]:
            seen = replace(observation, gradients=gradients, params=params, **told)  # type: ignore[arg-type]
            return self.design.update(weights, seen, state)

        told = {name: leaf for name in TOLD if isinstance(leaf := getattr(observation, name), Tensor)}
        decay = None if "weight_decay" in told else observation.weight_decay
        updates, state = self._kernels((layout, observation.graph, tuple(told), decay), update, weights,
                                       observation.gradients, observation.params, told, state)
        return updates, state

    def _current_bundles(self) -> list[Bundle]:
        """All params that have a gradient: those of the last step, or else put together anew."""
        active = [(param, group) for group in self.param_groups for param in group["params"]
                  if param.grad is not None and param.numel()]
        kept = {id(param): id(group) for bundle in self._bundles
                for param, group in zip(bundle.params, bundle.groups, strict=True)}
        is_same = kept == {id(param): id(group) for param, group in active}
        if not is_same or not all(len(bundle.clocks) == 1 and bundle.holds([self.state[param] for param in
                                                                            bundle.params])
                                  for bundle in self._bundles):
            self._bundles = self._bundled(active)
        return self._bundles

    def _bundled(self, active: list[tuple[Tensor, Group]]) -> list[Bundle]:
        together: dict[tuple[Any, ...], list[tuple[Tensor, Group]]] = {}
        # Neighbours of one shape are worked on as one.
        for param, group in sorted(active, key=lambda member: tuple(member[0].shape)):
            if not self.state[param]:
                self.state[param] = self.design.init({"param": param.float()})
            # Params that missed a step have a count of their own, and with it another bias correction.
            kind = (param.device, float(self.state[param][STEP]), group["step"], group["num_steps"])
            together.setdefault(kind, []).append((param, group))
        return [Bundle.of(members, self._graph_of([param for param, _ in members]),
                          [self.state[param] for param, _ in members]) for members in together.values()]

    def _graph_of(self, params: list[Tensor]) -> ModelGraph | None:
        if not self.design.steering.reads_graph:
            return None
        known = self._model or KnownModel.of_groups(self.param_groups)
        if known is not None:
            return known.graph_of(params)
        return ModelGraph.unconnected(tuple((str(index), tuple(param.shape)) for index, param in enumerate(params)))

    def _weights_on(self, device: torch.device) -> Tree:
        if device not in self._weights:
            self._weights[device] = {name: leaf.to(device) for name, leaf in
                                     self._weights[torch.device("cpu")].items()}
        return self._weights[device]

    def __getstate__(self) -> dict[str, Any]:
        # torch copies and pickles only what every optimizer has.
        own = ("design", "num_skipped_steps", "domain", "_weights", "_shared", "_adapters", "_model")
        return super().__getstate__() | {name: getattr(self, name) for name in own} | {
            "_bundles": [], "fused": FusedSteps(self.design), "_kernels": self._kernels and Kernels(is_asked=True)}

    def state_dict(self) -> dict[str, Any]:
        """As in torch, with `num_skipped_steps` and the `domain`."""
        return super().state_dict() | {"num_skipped_steps": self.num_skipped_steps, "domain": self.domain}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but exact."""
        if state_dict.get("domain") is not None:
            self._enter(state_dict["domain"])
        super().load_state_dict(state_dict)
        self._bundles = []
        self.num_skipped_steps = state_dict.get("num_skipped_steps", 0)
        # torch casts state to the parameter's type (pytorch/pytorch#43706); ours stays float32.
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved_ids, params, strict=True):
            if index in state_dict["state"]:
                self.state[param] = {name: leaf.to(param.device, copy=True) if isinstance(leaf, Tensor) else leaf
                                     for name, leaf in state_dict["state"][index].items()}
