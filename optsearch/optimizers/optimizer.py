"""The learned optimizer: a frozen design with three pure methods over whole trees."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optsearch.errors import DesignError
from optsearch.optimizers.bases import BASES, AdamW, Base
from optsearch.optimizers.features import Features, Moment
from optsearch.optimizers.graph import graph_of
from optsearch.optimizers.heads import HEADS, ExpMagnitude, Head
from optsearch.optimizers.inputs import Inputs
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.mixings import MIXINGS, Mixing, Residual
from optsearch.optimizers.part import Config, part_from_config, part_to_config
from optsearch.optimizers.rules import MLP, RULES, Rule
from optsearch.optimizers.schedules import SCHEDULES, Progress, Schedule
from optsearch.trees import Tree, prefixed, within

if TYPE_CHECKING:
    import networkx

# Raised whenever the same weights would see other features or mean another step.
CONTRACT = 1
GRADIENT_CLIP = 1000.0
# Where a schedule is held when nobody knows how long the run will be: past any warm-up, before any decay.
UNKNOWN_PROGRESS = 0.25

FEATURE_SETS: dict[str, type[Features]] = {"groups": Features}
PARTS: dict[str, Mapping[str, type]] = {
    "features": FEATURE_SETS, "rule": RULES, "head": HEADS, "schedule": SCHEDULES, "mixing": MIXINGS, "base": BASES}


@dataclass(frozen=True)
class Observation:
    """What an optimizer sees at one step; leaves are `[*batch, *shape]`.

    `progress` `[*batch, 1]` is the part of the run that lies behind, None where the horizon is unknown.
    `weight_decay` is decoupled, on top of what the design has itself.
    """

    gradients: Tree
    params: Tree
    progress: Tensor | None = None
    weight_decay: float = 0.0


@dataclass(frozen=True)
class LearnedOptimizer:
    """A design, composed of parts. Weights are an argument, state is returned; nothing in here changes.

    Weights and state may have leading batch dimensions: a batch of trainings, each with weights of its own,
    is one call.
    """

    features: Features = field(default_factory=Features)
    rule: Rule = field(default_factory=MLP)
    head: Head = field(default_factory=ExpMagnitude)
    schedule: Schedule = field(default_factory=Progress)
    mixing: Mixing = field(default_factory=Residual)
    base: Base | None = field(default_factory=AdamW)

    def __post_init__(self) -> None:
        if self.mixing.has_base != (self.base is not None):
            raise DesignError("mixing: `none` takes no base, every other kind needs one; "
                              f"got mixing {self.mixing} with base {self.base}.")

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Weights to start from: random, with a zero readout where a base carries the first steps."""
        num_outputs = self.head.num_outputs + self.mixing.num_outputs
        rule = self.rule.init_weights(generator, self.features.num_inputs, num_outputs)
        if self.base is not None:
            rule |= {name: torch.zeros_like(leaf) for name, leaf in rule.items() if name.startswith("output.")}
        return (prefixed("features", self.features.init_weights()) | prefixed("rule", rule)
                | prefixed("schedule", self.schedule.init_weights()))

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        """The state before the first step."""
        layout = Layout.of(params, batch_dims)
        like = Layout.flatten(params, batch_dims)
        return ({"step": like.new_zeros(*like.shape[:-1], 1)}
                | prefixed("features", self.features.init(layout, like))
                | prefixed("rule", self.rule.init(like))
                | (prefixed("base", self.base.init(like)) if self.base is not None else {}))

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        """What to add to the params, and the next state."""
        batch_dims = state["step"].dim() - 1
        layout = Layout.of(observation.params, batch_dims)
        params = Layout.flatten(observation.params, batch_dims)
        gradient = Layout.flatten(observation.gradients, batch_dims).clamp(-GRADIENT_CLIP, GRADIENT_CLIP)
        step = state["step"] + 1
        progress = (torch.full_like(step, UNKNOWN_PROGRESS) if observation.progress is None
                    else observation.progress)
        moment = Moment(layout, gradient, params, step, progress)
        direction, next_state = self._direction(weights, moment, state)
        if observation.weight_decay:
            direction = direction + observation.weight_decay * params
        rate = self.schedule.learning_rate(within("schedule", weights), progress)
        return layout.unflatten(-rate * direction), {"step": step} | next_state

    def _direction(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Tensor, Tree]:
        inputs, averages = self.features.observe(within("features", weights), moment, within("features", state))
        outputs, memory = self._apply_rule(within("rule", weights), inputs, within("rule", state))
        learned = self.head.direction(moment.layout, outputs, moment.params)
        next_state = prefixed("features", averages) | prefixed("rule", memory)
        if self.base is None:
            return learned, next_state
        base, base_state = self.base.direction(moment.gradient, moment.params, moment.step, within("base", state))
        direction = self.mixing.mix(learned, base, outputs[..., self.head.num_outputs:, :])
        return direction, next_state | prefixed("base", base_state)

    def _apply_rule(self, weights: Tree, inputs: Inputs, state: Tree) -> tuple[Tensor, Tree]:
        outputs, memories = [], []
        for part in inputs.blocks():
            memory = {name: leaf[..., part.block.parameters] for name, leaf in state.items()}
            output, after = self.rule.update(weights, part, memory)
            outputs.append(output)
            memories.append(after)
        if len(outputs) == 1:
            return outputs[0], memories[0]
        return torch.cat(outputs, -1), {name: torch.cat([memory[name] for memory in memories], -1) for name in state}

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
