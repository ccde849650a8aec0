"""The learned optimizer: a frozen design with three pure methods over whole trees."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optsearch import compiling
from optsearch.compiling import Kernels
from optsearch.errors import DesignError
from optsearch.optimizers import kinds
from optsearch.optimizers.adam import AdamW
from optsearch.optimizers.bases import Base
from optsearch.optimizers.candidates import Candidates
from optsearch.optimizers.controllers import Controller, NoController
from optsearch.optimizers.costs import ONE_LAYER, Costs, costs_of
from optsearch.optimizers.features import Features
from optsearch.optimizers.graph import Structure, structure_of
from optsearch.optimizers.heads import ExpMagnitude, Head
from optsearch.optimizers.inputs import CONTEXT, FILM, BlockInputs, Inputs
from optsearch.optimizers.layout import Layout, joined
from optsearch.optimizers.memory import Memory, NoMemory
from optsearch.optimizers.mixings import Mixing, Residual
from optsearch.optimizers.moment import Moment, Observation
from optsearch.optimizers.part import Config
from optsearch.optimizers.products import NARROW
from optsearch.optimizers.rules import MLP, NoRule, Rule, init_layer, linear
from optsearch.optimizers.schedules import Progress, Schedule
from optsearch.optimizers.steering import Controls, Settings, Steering
from optsearch.optimizers.tensors import TensorFeatures
from optsearch.optimizers.words import html, line
from optsearch.trees import Tree, prefixed, within

if TYPE_CHECKING:
    import networkx

# Raised whenever the same weights would see other features or mean another step.
CONTRACT = 2
GRADIENT_CLIP = 1000.0
ONE_NUMBER = Layout((("number", (1,)),))
# What is kept of a rule's outputs, beside the names of its state.
LEARNED, GATE = "learned", "gate"
# Where a schedule is held when nobody knows how long the run will be: past any warm-up, before any decay.
UNKNOWN_PROGRESS = 0.25


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
    tensors: TensorFeatures = field(default_factory=TensorFeatures)
    memory: Memory = field(default_factory=NoMemory)
    controls: Controls = field(default_factory=Controls)

    __repr__, _repr_html_ = line, html

    def __post_init__(self) -> None:
        if self.mixing.has_base != (self.base is not None):
            raise DesignError("mixing: `none` takes no base, every other kind needs one; "
                              f"got mixing {self.mixing} with base {self.base}.")
        if not self.has_rule and not isinstance(self.mixing, Residual):
            raise DesignError("rule: `none` leaves the base's direction alone, so it needs a base and the mixing "
                              f"`residual`; got mixing {self.mixing} with base {self.base}.")
        if not self.has_controller and not isinstance(self.memory, NoMemory):
            raise DesignError(f"memory: only a controller reads it, and there is none; got {self.memory}.")

    @property
    def has_rule(self) -> bool:
        """Whether anything is learned a parameter."""
        return not isinstance(self.rule, NoRule)

    @property
    def has_controller(self) -> bool:
        """Whether anything is learned a tensor."""
        return not isinstance(self.controller, NoController)

    @cached_property
    def steering(self) -> Steering:
        """The way from what is known of each tensor to what is set for it."""
        kept = self.base.averages(self.base.init(ONE_NUMBER, torch.zeros(1))) if self.base is not None else {}
        num_momenta, num_second = ((len(self.features.momentum_decays), 1) if self.has_rule
                                   else (int("momentum" in kept), int("second_moment" in kept)))
        return Steering(self.tensors, self.memory, self.controller, self.controls,
                        self.base.knobs if self.base is not None and self.controls.tunes_base else (),
                        self.mixing.has_gate, num_momenta, num_second)

    @property
    def _num_gates(self) -> int:
        """Outputs of the rule that the mixing reads."""
        return int(self.mixing.has_gate and not self.has_controller)

    @property
    def context_size(self) -> int:
        """Numbers a tensor that the controller tells the rule."""
        return self.controls.context_size if self.has_controller and self.has_rule else 0

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Weights to start from: random, with a zero readout where a base carries the first steps."""
        num_outputs = self.head.num_outputs + self._num_gates + self.head.num_spare
        num_context, film = (0, self.context_size) if self.controls.film else (self.context_size, 0)
        rule = self.rule.init_weights(generator, self.features.num_inputs + num_context, num_outputs)
        if self.base is not None:
            rule |= {name: torch.zeros_like(leaf) for name, leaf in rule.items() if name.startswith("output.")}
        features = self.features.init_weights() if self.has_rule else {}
        return (prefixed("features", features) | prefixed("rule", rule)
                | prefixed("schedule", self.schedule.init_weights()) | self.steering.init_weights(generator)
                | (init_layer(generator, "film", film, 2 * self.rule.width) if film else {}))

    def init(self, params: Tree, batch_dims: int = 0) -> Tree:
        """The state before the first step."""
        layout = Layout.of(params, batch_dims)
        like = Layout.flatten(params, batch_dims)
        num_tuned = layout.num_tensors if self.has_controller and self.steering.knobs else 0
        return ({"step": like.new_zeros(*like.shape[:-1], 1)}
                | prefixed("features", self.features.init(layout, like) if self.has_rule else {})
                | prefixed("rule", self.rule.init(like)) | self.steering.init(like, layout.num_tensors)
                | prefixed("mixing", self.mixing.init(like, layout.num_tensors) if self.has_rule else {})
                | (prefixed("base", self.base.init(layout, like, num_tuned)) if self.base is not None else {}))

    def update(self, weights: Tree, observation: Observation, state: Tree, *, in_place: bool = False,
               kernels: Kernels | None = None) -> tuple[Tree, Tree]:
        """What to add to the params, and the next state.

        `in_place` may write it where the last one stood; `kernels` compile what the rule does with a block.
        """
        moment = self._moment(observation, state, in_place)
        if kernels is not None:
            moment = replace(moment, layout=moment.layout.for_kernels(self.rule.width))
        layout = moment.layout
        inputs, averages = self._observe(weights, moment, state)
        settings, steered = self.steering.update(weights, moment, self._averages(averages, state), state)
        rates = self.schedule.learning_rate(within("schedule", weights), moment.progress)
        if settings is not None:
            rates = rates * settings.log_rates.exp()
            inputs = None if inputs is None else self._told(weights, inputs, settings)
        direction, after = self._base_direction(moment, settings, state)
        if inputs is not None:
            assert not isinstance(self.rule, NoRule)
            found = self._apply_rule(self.rule, within("rule", weights), inputs, within("rule", state), kernels)
            candidates = Candidates(self.head.direction(layout, found.pop(LEARNED), moment.params), direction, rates,
                                    self._gate(layout, settings, found.pop(GATE)))
            direction, mixed = self.mixing.mix(candidates, moment, within("mixing", state))
            after |= prefixed("rule", found) | prefixed("mixing", mixed)
        direction = moment.decayed(direction, observation.weight_decay)
        if settings is not None:
            direction = layout.times(direction, -rates)
        else:
            # What comes of the rule alone, nobody else knows.
            direction = torch.mul(direction, -rates, out=direction if in_place and self.base is None else None)
        return layout.unflatten(direction), {"step": moment.step} | prefixed("features", averages) | after | steered

    def _moment(self, observation: Observation, state: Tree, in_place: bool) -> Moment:
        batch_dims = state["step"].dim() - 1
        layout = Layout.of(observation.params, batch_dims)
        gradient = Layout.flatten(observation.gradients, batch_dims).clamp(-GRADIENT_CLIP, GRADIENT_CLIP)
        step = state["step"] + 1
        progress = (torch.full_like(step, UNKNOWN_PROGRESS) if observation.progress is None
                    else observation.progress)
        return Moment(layout, gradient, Layout.flatten(observation.params, batch_dims), step, progress,
                      observation.loss, observation.num_steps, observation.graph, in_place)

    def _observe(self, weights: Tree, moment: Moment, state: Tree) -> tuple[Inputs | None, Tree]:
        if not self.has_rule:
            return None, {}
        return self.features.observe(within("features", weights), moment, within("features", state))

    def _averages(self, averages: Tree, state: Tree) -> Tree:
        """Those that the controller may see: of the features, or of the base as the last step left them."""
        if self.has_rule or self.base is None:
            return averages
        return self.base.averages(within("base", state))

    def _told(self, weights: Tree, inputs: Inputs, settings: Settings) -> Inputs:
        """The rule's inputs with what the controller has to say to it."""
        if settings.context is None:
            return inputs
        if not self.controls.film:
            return replace(inputs, tensors={CONTEXT: settings.context})
        return replace(inputs, tensors={FILM: linear(weights, "film", settings.context)})

    def _base_direction(self, moment: Moment, settings: Settings | None, state: Tree) -> tuple[Tensor, Tree]:
        if self.base is None:
            return moment.gradient, {}
        direction, after = self.base.direction(moment, within("base", state),
                                               None if settings is None else settings.knobs)
        return direction, prefixed("base", after)

    def _gate(self, layout: Layout, settings: Settings | None, outputs: Tensor) -> Tensor | None:
        if not self.mixing.has_gate:
            return None
        if settings is not None and settings.gate is not None:
            return layout.spread(settings.gate)
        return outputs[..., 0, :]

    def _apply_rule(self, rule: Rule, weights: Tree, inputs: Inputs, state: Tree, kernels: Kernels | None) -> Tree:
        """The rule's next state, and with it `LEARNED` `[..., n]` and `GATE` `[..., gates, n]`."""
        whole: Tree = {}
        parts: list[Tree] = []
        are_single = compiling.is_fusing() and rule.width > NARROW
        for block in inputs.blocks(kernels, are_single=are_single):
            place = block.block.parameters
            found = self._apply_to(rule, weights, block, {name: leaf[..., place] for name, leaf in state.items()},
                                   kernels)
            if len(inputs.layout.blocks) == 1 or are_single:
                parts.append(found)
                continue
            whole = whole or {name: leaf.new_empty(*leaf.shape[:-1], inputs.layout.num_parameters)
                              for name, leaf in found.items()}
            for name, leaf in found.items():
                whole[name][..., place] = leaf
        return whole or {name: joined([part[name] for part in parts]) for name in parts[0]}

    def _apply_to(self, rule: Rule, weights: Tree, block: BlockInputs, state: Tree, kernels: Kernels | None) -> Tree:
        read, gates = self.head.num_outputs, self._num_gates

        def apply(weights: Tree, part: Tree, scales: Tree, state: Tree) -> tuple[Tree]:
            outputs, found = rule.update(weights, replace(block, part=part, scales=scales), state)
            return (found | {LEARNED: self.head.joined(outputs[..., :read, :]),
                             GATE: outputs[..., read:read + gates, :]},)

        arguments = weights, block.part, block.scales, state
        (found,) = apply(*arguments) if kernels is None else kernels(("rule", block.block.kind), apply, *arguments)
        return found

    @cached_property
    def structure(self) -> Structure:
        """The parts and layers that take part, and what flows between them."""
        return structure_of(self)

    def graph(self) -> "networkx.DiGraph[str]":
        """`structure` as a directed acyclic graph from "observation" to "step"."""
        return self.structure.graph()

    @property
    def fingerprint(self) -> str:
        """16 hex digits, the same for designs that compute the same from the same weights."""
        return self.structure.fingerprint

    def costs(self, params: Tree | Layout = ONE_LAYER) -> Costs:
        """What a step of these params costs; by default of one layer with 128 inputs and 128 outputs."""
        return costs_of(self, params if isinstance(params, Layout) else Layout.of(params))

    def to_config(self) -> dict[str, Config]:
        """The design as plain data; `from_config` is the inverse."""
        return kinds.to_config(self)

    @staticmethod
    def from_config(config: Mapping[str, Config]) -> "LearnedOptimizer":
        """The design that a config describes; parts and fields left out keep their defaults."""
        return LearnedOptimizer(**kinds.parts_of(config))
