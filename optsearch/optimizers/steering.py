"""Steering: what a controller sets for each tensor, and the way from what it sees to that."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optsearch.optimizers import rules
from optsearch.optimizers.controllers import Controller, NoController
from optsearch.optimizers.gnn import GNN
from optsearch.optimizers.knobs import Knobs
from optsearch.optimizers.losses import run_length
from optsearch.optimizers.memory import Memory
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.part import require
from optsearch.optimizers.tensors import READ_GRAPH, Scene, TensorFeatures
from optsearch.trees import Tree, prefixed, within

# How far, in natural logarithms, settings may stray from where they start.
FARTHEST = 20.0
# Where the state keeps what the controller last set, and what it made of each tensor, `[..., k, tensors]`.
SETTINGS, EMBEDDING = "controls.settings", "controls.embedding"


@dataclass(frozen=True)
class Controls:
    """What a controller sets of each tensor, beside the logarithm of its learning rate.

    `context_size` numbers go to the rule, as inputs or, where it is `film`, as a scale and a shift of its first layer
    (Perez et al. 2018, arxiv.org/abs/1709.07871). `tunes_base` lets it turn the knobs of the base, decays above all.
    `gain` is how strongly an output of 1 moves a logarithm; where it `accumulates`, outputs move settings on from where
    they are, as in NNAdam: by that much a step or, where that is to be the same for runs of any length, `over_run`.
    `at_once`, as many outputs again are added to what has accumulated, for this step only.
    """

    context_size: int = 0
    film: bool = False
    tunes_base: bool = False
    accumulates: bool = False
    over_run: bool = False
    at_once: bool = False
    gain: float = 1.0

    def __post_init__(self) -> None:
        require("controls", self.context_size >= 0, f"context_size must be at least 0, not {self.context_size}.")
        require("controls", self.gain > 0, f"gain must be above 0, not {self.gain}.")


@dataclass(frozen=True)
class Settings:
    """What was set at one step: `log_rates` `[..., tensors]`, and numbers `[..., k, tensors]`."""

    log_rates: Tensor
    knobs: Knobs | None
    gate: Tensor | None
    context: Tensor | None
    embedding: Tensor


@dataclass(frozen=True)
class Steering:
    """Tensor features, memory and controller of a design, with the outputs that its other parts ask for.

    `knobs` are the names of the base's that are turned; `num_momenta` and `num_second_moments` are averages that the
    design keeps a parameter.
    """

    tensors: TensorFeatures
    memory: Memory
    controller: Controller
    controls: Controls
    knobs: tuple[str, ...]
    has_gate: bool
    num_momenta: int
    num_second_moments: int

    @property
    def is_idle(self) -> bool:
        return isinstance(self.controller, NoController)

    @property
    def reads_graph(self) -> bool:
        """Whether it matters what is known of the model beside the shapes of its tensors."""
        return isinstance(self.controller, GNN) or (not self.is_idle and not READ_GRAPH.isdisjoint(self.tensors.groups))

    @property
    def num_settings(self) -> int:
        """Logarithms that are set a tensor: of the learning rate and of the knobs."""
        return 1 + len(self.knobs)

    @property
    def kept(self) -> dict[str, int]:
        """The widths of what tensor features may be made from."""
        return {"momentum": self.num_momenta, "second_moment": self.num_second_moments, "settings": self.num_settings}

    @property
    def num_inputs(self) -> int:
        """What the controller sees of each tensor."""
        return self.tensors.num_inputs(self.kept) + self.memory.num_read

    @property
    def width(self) -> int:
        """The numbers in the embedding of each tensor."""
        return self.controller.width(self.num_inputs)

    @property
    def sets_at_once(self) -> bool:
        return self.controls.accumulates and self.controls.at_once

    @property
    def num_outputs(self) -> int:
        return self.num_settings * (1 + self.sets_at_once) + self.has_gate + self.controls.context_size

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Random, but for a readout of zeros: a fresh controller sets nothing."""
        if self.is_idle:
            return {}
        readout = rules.init_layer(generator, "output", self.width, self.num_outputs)
        controls = {name: torch.zeros_like(leaf) for name, leaf in readout.items()}
        if self.controls.accumulates:
            controls["start"] = torch.zeros(self.num_settings)
        return (prefixed("memory", self.memory.init_weights(generator, self.tensors.num_inputs(self.kept)))
                | prefixed("controller", self.controller.init_weights(generator, self.num_inputs))
                | prefixed("controls", controls))

    def init(self, like: Tensor, num_tensors: int) -> Tree:
        if self.is_idle:
            return {}
        batch = like.shape[:-1]
        controls = {SETTINGS: like.new_zeros(*batch, self.num_settings, num_tensors),
                    EMBEDDING: like.new_zeros(*batch, self.width, num_tensors)}
        return (prefixed("tensors", self.tensors.init(like, num_tensors))
                | prefixed("memory", self.memory.init(like, num_tensors))
                | prefixed("controller", self.controller.init(like, num_tensors, self.num_inputs)) | controls)

    def update(self, weights: Tree, moment: Moment, averages: Tree, state: Tree) -> tuple[Settings | None, Tree]:
        """What is set at this step, None where nothing ever is, and the next state."""
        if self.is_idle:
            return None, {}
        scene = Scene(moment, averages, state[SETTINGS], within("tensors", state))
        seen, trends = self.tensors.observe(scene, self.kept)
        read, memory = self.memory.update(within("memory", weights), seen, within("memory", state))
        values = torch.cat([seen, read], -2) if self.memory.num_read else seen
        embedding, hidden = self.controller.update(within("controller", weights), values, moment,
                                                   within("controller", state))
        settings, logs = self._settings(within("controls", weights), moment, embedding, state[SETTINGS])
        return settings, (prefixed("tensors", trends) | prefixed("memory", memory) | prefixed("controller", hidden)
                          | {SETTINGS: logs, EMBEDDING: embedding})

    def _settings(self, weights: Tree, moment: Moment, embedding: Tensor, before: Tensor) -> tuple[Settings, Tensor]:
        outputs = rules.linear(weights, "output", embedding)
        turned, rest = outputs.tensor_split([self.num_outputs - self.has_gate - self.controls.context_size], -2)
        lasting, *momentary = (self.controls.gain * turned).split(self.num_settings, -2)
        if self.controls.accumulates:
            start = self.controls.gain * weights["start"][..., None]
            if self.controls.over_run:
                lasting = lasting / run_length(moment)[..., None]
            lasting = lasting + torch.where(moment.step[..., None] > 1, before, start)
        lasting = lasting.clamp(-FARTHEST, FARTHEST)
        logs = (lasting + momentary[0]).clamp(-FARTHEST, FARTHEST) if momentary else lasting
        knobs = {name: logs[..., index + 1, :] for index, name in enumerate(self.knobs)}
        return Settings(logs[..., 0, :], Knobs(moment.layout, knobs) if knobs else None,
                        rest[..., 0, :] if self.has_gate else None,
                        rest[..., int(self.has_gate):, :] if self.controls.context_size else None, embedding), lasting
