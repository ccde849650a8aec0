"""The learned optimizer: a frozen design with three pure methods over whole trees."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optsearch.errors import DesignError
from optsearch.optimizers import tensors
from optsearch.optimizers.bases import BASES, AdamW, Base
from optsearch.optimizers.controllers import CONTROLLERS, Controller, Controls, NoController
from optsearch.optimizers.features import Features, Moment
from optsearch.optimizers.graph import graph_of
from optsearch.optimizers.heads import HEADS, ExpMagnitude, Head
from optsearch.optimizers.inputs import CONTEXT, Inputs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.mixings import MIXINGS, Mixing, Residual
from optsearch.optimizers.part import Config, part_from_config, part_to_config
from optsearch.optimizers.rules import MLP, RULES, NoRule, Rule
from optsearch.optimizers.schedules import SCHEDULES, Progress, Schedule
from optsearch.optimizers.tensors import Scene
from optsearch.trees import Tree, prefixed, within

if TYPE_CHECKING:
    import networkx

# Raised whenever the same weights would see other features or mean another step.
CONTRACT = 1
GRADIENT_CLIP = 1000.0
# What is kept of a rule's outputs, beside the names of its state.
LEARNED, MIXED = "learned", "mixed"
# Where a schedule is held when nobody knows how long the run will be: past any warm-up, before any decay.
UNKNOWN_PROGRESS = 0.25

FEATURE_SETS: dict[str, type[Features]] = {"groups": Features}
PARTS: dict[str, Mapping[str, type]] = {
    "features": FEATURE_SETS, "rule": RULES, "head": HEADS, "schedule": SCHEDULES, "mixing": MIXINGS, "base": BASES,
    "controller": CONTROLLERS}


@dataclass(frozen=True)
class Observation:
    """What an optimizer sees at one step; leaves are `[*batch, *shape]`.

    `progress` `[*batch, 1]` is the part of the run that lies behind, None where the horizon is unknown.
    `weight_decay` is decoupled, on top of what the design has itself. `loss` `[*batch, 1]` is that of the batch, None
    where nobody told it; only controllers look at it.
    """

    gradients: Tree
    params: Tree
    progress: Tensor | None = None
    weight_decay: float = 0.0
    loss: Tensor | None = None


@dataclass(frozen=True)
class LearnedOptimizer:
    """A design, composed of parts. Weights are an argument, state is returned; nothing in here changes.

    Weights and state may have leading batch dimensions: a batch of trainings, each with weights of its own,
    is one call.
    """

    features: Features = field(default_factory=Features)
    rule: Rule | NoRule = field(default_factory=MLP)
    head: Head = field(default_factory=ExpMagnitude)
    schedule: Schedule = field(default_factory=Progress)
    mixing: Mixing = field(default_factory=Residual)
    base: Base | None = field(default_factory=AdamW)
    controller: Controller = field(default_factory=NoController)

    def __post_init__(self) -> None:
        if self.mixing.has_base != (self.base is not None):
            raise DesignError("mixing: `none` takes no base, every other kind needs one; "
                              f"got mixing {self.mixing} with base {self.base}.")
        if not self.has_rule and (self.base is None or self.mixing.num_outputs > 0):
            raise DesignError("rule: `none` leaves the base's direction alone, so it needs a base, and a mixing that "
                              f"asks no rule; got mixing {self.mixing} with base {self.base}.")
        if not self.has_rule and self.controller.needs_averages():
            raise DesignError("controller: groups `momentum` and `second_moment` are averages that a rule's features "
                              f"keep, and there is no rule; got {self.controller}.")

    @property
    def has_rule(self) -> bool:
        """Whether anything is learned a parameter."""
        return not isinstance(self.rule, NoRule)

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Weights to start from: random, with a zero readout where a base carries the first steps."""
        num_outputs = self.head.num_outputs + self.mixing.num_outputs + self.head.num_spare
        num_inputs = self.features.num_inputs + self.controller.context_size
        rule = self.rule.init_weights(generator, num_inputs, num_outputs)
        if self.base is not None:
            rule |= {name: torch.zeros_like(leaf) for name, leaf in rule.items() if name.startswith("output.")}
        features = self.features.init_weights() if self.has_rule else {}
        controller = self.controller.init_weights(generator, len(self.features.momentum_decays))
        return (prefixed("features", features) | prefixed("rule", rule)
                | prefixed("schedule", self.schedule.init_weights()) | prefixed("controller", controller))

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        """The state before the first step."""
        layout = Layout.of(params, batch_dims)
        like = Layout.flatten(params, batch_dims)
        return ({"step": like.new_zeros(*like.shape[:-1], 1)}
                | prefixed("features", self.features.init(layout, like) if self.has_rule else {})
                | prefixed("rule", self.rule.init(like))
                | prefixed("controller", self._init_controller(layout, like))
                | (prefixed("base", self.base.init(like)) if self.base is not None else {}))

    def update(self, weights: Tree, observation: Observation, state: Tree, *,
               in_place: bool = False) -> tuple[Tree, Tree]:
        """What to add to the params, and the next state; `in_place` may write it where the last one stood."""
        batch_dims = state["step"].dim() - 1
        layout = Layout.of(observation.params, batch_dims)
        params = Layout.flatten(observation.params, batch_dims)
        gradient = Layout.flatten(observation.gradients, batch_dims).clamp(-GRADIENT_CLIP, GRADIENT_CLIP)
        step = state["step"] + 1
        progress = (torch.full_like(step, UNKNOWN_PROGRESS) if observation.progress is None
                    else observation.progress)
        moment = Moment(layout, gradient, params, step, progress, in_place)
        inputs, averages = self._observe(weights, moment, state)
        controls, controlled = self._control(weights, moment, observation.loss, averages, state)
        if controls is not None and inputs is not None and self.controller.context_size:
            inputs = replace(inputs, tensors={CONTEXT: controls.context})
        direction, next_state = self._direction(weights, moment, inputs, state)
        if observation.weight_decay:
            direction = direction + observation.weight_decay * params
        rate = self.schedule.learning_rate(within("schedule", weights), progress)
        update = (-rate * direction if controls is None
                  else layout.times(direction, -rate * controls.log_rates.exp()))
        return layout.unflatten(update), (
            {"step": step} | prefixed("features", averages) | next_state | prefixed("controller", controlled))

    def _init_controller(self, layout: Layout, like: Tensor) -> Tree:
        if isinstance(self.controller, NoController):
            return {}
        return (self.controller.init(like, layout.num_tensors)
                | prefixed("trend", tensors.fresh_trend(like, layout.num_tensors)))

    def _observe(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Inputs | None, Tree]:
        if not self.has_rule:
            return None, {}
        return self.features.observe(within("features", weights), moment, within("features", state))

    def _control(self, weights: Tree, moment: Moment, loss: Tensor | None, averages: Tree,
                 state: Tree) -> tuple[Controls | None, Tree]:
        if isinstance(self.controller, NoController):
            return None, {}
        own = within("controller", state)
        seen, trend = tensors.trend(within("trend", own), loss, moment.step)
        scene = Scene(moment.layout, moment.gradient, moment.params, moment.step, moment.progress, loss, seen, averages)
        controls, memory = self.controller.update(within("controller", weights), scene, own)
        return controls, memory | prefixed("trend", trend)

    def _direction(self, weights: Tree, moment: Moment, inputs: Inputs | None, state: Tree) -> tuple[Tensor, Tree]:
        direction, next_state = moment.gradient, {}
        if self.base is not None:
            direction, after = self.base.direction(moment.gradient, moment.params, moment.step, within("base", state),
                                                   in_place=moment.in_place)
            next_state = prefixed("base", after)
        if inputs is None or isinstance(self.rule, NoRule):
            return direction, next_state
        found = self._apply_rule(self.rule, within("rule", weights), inputs, within("rule", state))
        learned = self.head.direction(moment.layout, found.pop(LEARNED), moment.params)
        outputs = found.pop(MIXED)
        next_state |= prefixed("rule", found)
        return learned if self.base is None else self.mixing.mix(learned, direction, outputs), next_state

    def _apply_rule(self, rule: Rule, weights: Tree, inputs: Inputs, state: Tree) -> Tree:
        """The rule's next state, and with it `LEARNED` `[..., n]` and `MIXED` `[..., mixing's outputs, n]`."""
        whole: Tree = {}
        for block in inputs.blocks():
            place = block.block.parameters
            outputs, found = rule.update(weights, block, {name: leaf[..., place] for name, leaf in state.items()})
            read, mixed = self.head.num_outputs, self.mixing.num_outputs
            found |= {LEARNED: self.head.joined(outputs[..., :read, :]), MIXED: outputs[..., read:read + mixed, :]}
            if len(inputs.layout.blocks) == 1:
                return found
            whole = whole or {name: leaf.new_empty(*leaf.shape[:-1], inputs.layout.num_parameters)
                              for name, leaf in found.items()}
            for name, leaf in found.items():
                whole[name][..., place] = leaf
        return whole

    def graph(self) -> "networkx.DiGraph[str]":
        """The parts and what flows between them, as a directed acyclic graph."""
        return graph_of(self.features, self.to_config())

    def to_config(self) -> dict[str, Config]:
        """The design as plain data; `from_config` is the inverse."""
        parts = {slot: getattr(self, slot) for slot in PARTS}
        return {slot: part_to_config(PARTS[slot], part) for slot, part in parts.items() if part is not None}

    @staticmethod
    def from_config(config: Mapping[str, Config]) -> "LearnedOptimizer":
        """The design that a config describes; parts and fields left out keep their defaults."""
        unknown = set(config) - set(PARTS)
        if unknown:
            raise DesignError(f"there is no part `{min(unknown)}`. Parts: {', '.join(PARTS)}.")
        parts: dict[str, Any] = {slot: part_from_config(slot, PARTS[slot], part) for slot, part in config.items()}
        mixing = parts.get("mixing", Residual())
        if not mixing.has_base:
            parts["base"] = None
        return LearnedOptimizer(**parts)


def num_weights(design: LearnedOptimizer) -> int:
    """How many numbers are meta-learned."""
    return sum(leaf.numel() for leaf in design.init_weights(torch.Generator().manual_seed(0)).values())
