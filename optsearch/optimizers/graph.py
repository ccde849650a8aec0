"""A design as a directed graph: parts and layers as nodes, what flows between them as edges."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from optsearch.optimizers.feature_groups import (
    DECAYS,
    FACTORED_LINE_GROUPS,
    LINE_USE,
    PARAMETER_GROUPS,
    ROOTED_GROUPS,
    RSQRT_EPS,
    SHARED_GROUPS,
)
from optsearch.optimizers.part import Config
from optsearch.optimizers.tensors import KEPT
from optsearch.trees import Tree, within

if TYPE_CHECKING:
    import networkx

    from optsearch.optimizers.optimizer import LearnedOptimizer

SOURCE, SINK, READOUT = "observation", "step", "output"
# What fields of `Features` the averages that tensor features are made from hang on.
DECAYS_OF_KEPT = {"momentum": "momentum_decays", "second_moment": "second_moment_decay"}


@dataclass(frozen=True)
class Structure:
    """The nodes of a design by name, each with its attributes, and edges (from, to).

    Only what takes part is there: a field that changes neither weights nor steps is in no attribute, a part that
    nobody reads is no node. All nodes have `slot` and `kind`; those with weights have `num_weights`, and layers of
    the rule have `flops_per_parameter`, two for each multiply-add of their matrix products with one parameter's values.
    """

    nodes: dict[str, Config] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)

    def graph(self) -> "networkx.DiGraph[str]":
        # Takes most of a second to import, which who only trains with a design does without.
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from(self.nodes.items())
        graph.add_edges_from(sorted(self.edges))
        return graph

    @cached_property
    def fingerprint(self) -> str:
        """A hash of nodes and edges: as names are unique and canonical, graphs are isomorphic where this is equal."""
        content = [sorted(self.nodes.items()), sorted(self.edges)]
        return hashlib.sha256(json.dumps(_plain(content), sort_keys=True).encode()).hexdigest()[:16]

    def add(self, name: str, before: Iterable[str], slot: str, attributes: Config) -> str:
        self.nodes[name] = {"slot": slot, **attributes}
        self.edges.update((other, name) for other in before)
        return name

    def read(self) -> "Structure":
        """What of it leads to the step."""
        kept, reached = {SINK}, {SINK}
        while reached:
            reached = {start for start, end in self.edges if end in reached} - kept
            kept |= reached
        return Structure({name: attributes for name, attributes in self.nodes.items() if name in kept},
                         {edge for edge in self.edges if edge[1] in kept})


def _plain(value: Any) -> Any:
    """With equal numbers written alike: 1 and 1.0."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, str)) else float(value) + 0.0


def structure_of(design: "LearnedOptimizer") -> Structure:
    """What takes part in a design."""
    return _Draft(design).whole()


@dataclass(frozen=True)
class Stack:
    """The layers of a network, told from the names of its weights: which of them each stage's layers hold.

    `hidden0.weight` and `recurrent0` belong to layer 0. What has no number stands before the layers where its weights
    come first, with all others of its kind, and else after them.
    """

    stages: tuple[dict[str, list[str]], ...]

    @staticmethod
    def of(weights: Iterable[str]) -> "Stack":
        front: dict[str, list[str]] = {}
        rest: dict[str, list[str]] = {}
        for name in weights:
            stem, is_map, _ = name.partition(".")
            number = re.search(r"\d+$", stem)
            layer = f"layer{number[0]}" if number else stem if is_map else "layer0"
            (rest if number or rest or not is_map else front).setdefault(layer, []).append(name)
        return Stack(tuple(stage for stage in (front, *({name: held} for name, held in rest.items())) if stage))


class _Draft:
    """Nodes and edges as they are found, slot by slot."""

    def __init__(self, design: "LearnedOptimizer") -> None:
        self.design = design
        self.config = {slot: _read_fields(getattr(design, slot), part) for slot, part in design.to_config().items()}
        self.weights = design.init_weights(torch.Generator().manual_seed(0))
        self.found = Structure()

    def whole(self) -> Structure:
        self._add(SOURCE, (), "observation", {"kind": "observation"})
        averages = self._averages() if self.design.has_rule else {}
        controls = self._controls(averages) if self.design.has_controller else []
        base = [self._part("base", SOURCE, *(controls if self.design.steering.knobs else []))] if (
            self.design.base is not None) else []
        direction = self._learned(averages, controls, base) if self.design.has_rule else base
        self._part("schedule", SOURCE)
        self._add(SINK, (*direction, "schedule", *controls), "step", {"kind": "step"})
        return self.found.read()

    def _add(self, name: str, before: Iterable[str], slot: str, attributes: Config,
             held: Tree | None = None) -> str:
        """A node with the weights that it holds, by default those whose names begin with its own."""
        if held is None:
            held = {leaf: value for leaf, value in self.weights.items() if f"{leaf}.".startswith(f"{name}.")}
        count = sum(leaf.numel() for leaf in held.values())
        return self.found.add(name, before, slot, attributes | ({"num_weights": count} if count else {}))

    def _part(self, slot: str, *before: str) -> str:
        return self._add(slot, before, slot, self.config[slot])

    def _averages(self) -> dict[str, str]:
        """The running averages of the features, by the name of their decays."""
        features, found = self.config["features"], {}
        for name in ("momentum_decays", "second_moment_decay", "factored_decays"):
            node = f"features.{name}"
            attributes = {"kind": "average", "decays": features[name], "is_learned": node in self.weights}
            found[name] = self._add(node, [SOURCE], "features", attributes)
        return found

    def _features(self, averages: dict[str, str]) -> list[str]:
        features, nodes = self.design.features, []
        for name in features.names:
            attributes = {"kind": name, "width": features.width(name)}
            if features.normalize and name not in (*SHARED_GROUPS, LINE_USE):
                attributes["normalize_eps"] = features.normalize_eps
            # Left out where they are as always, so that older designs keep their fingerprints.
            if name in ROOTED_GROUPS and features.rsqrt_eps != RSQRT_EPS:
                attributes["rsqrt_eps"] = features.rsqrt_eps
            if name in FACTORED_LINE_GROUPS and features.short_rows:
                attributes["short_rows"] = True
            before = [averages[decay] for decay in DECAYS.get(name, ())]
            sees_gradient = name.endswith("gradient") or not before
            nodes.append(self._add(f"features.{name}", [*before, *([SOURCE] if sees_gradient else [])], "features",
                                   attributes))
        return nodes

    def _tensors(self, averages: dict[str, str]) -> list[str]:
        steering, nodes = self.design.steering, []
        for name in sorted(set(steering.tensors.groups)):
            width = steering.tensors.width(name, steering.kept) * steering.tensors.groups.count(name)
            average = averages.get(DECAYS_OF_KEPT.get(KEPT.get(name, ""), ""))
            if width:
                nodes.append(self._add(f"tensors.{name}", [SOURCE if average is None else average], "tensors",
                                       {"kind": name, "width": width}))
        return nodes

    def _controls(self, averages: dict[str, str]) -> list[str]:
        """What sets the settings, on top of controller, memory and tensor features."""
        seen, steering = self._tensors(averages), self.design.steering
        if steering.memory.num_read:
            seen.append(self._part("memory", *seen))
        fields = {name: self.config["controls"][name] for name in ("kind", "gain", "accumulates")}
        if fields["accumulates"]:
            fields |= {name: True for name in ("over_run", "at_once") if getattr(self.design.controls, name)}
        sets = ["rate", *steering.knobs, *(["gate"] if steering.has_gate else [])]
        context = {"context_size": steering.controls.context_size} if self.design.context_size else {}
        return [self._add("controls", self._stack("controller", seen), "controls", fields | {"sets": sets} | context)]

    def _learned(self, averages: dict[str, str], controls: Sequence[str], base: list[str]) -> list[str]:
        """Features, rule, head and mixing; what the learned direction is in the end."""
        is_told, has_gate = self.design.context_size, self.design.mixing.has_gate
        told = list(controls) if is_told else []
        if is_told and self.design.controls.film:
            told = [self._add("film", controls, "controls", {"kind": "film"})]
        last = self._stack("rule", [*self._features(averages), *told])
        direction = self._part("head", *last)
        if not base:
            return [direction]
        gate = (controls or last) if has_gate else []
        return [self._part("mixing", direction, *base, *gate)]

    def _stack(self, slot: str, before: list[str]) -> list[str]:
        """The layers of rule or controller; returns the last."""
        weights = within(slot, self.weights)
        stages: Sequence[dict[str, list[str]]] = Stack.of(weights).stages or ({"": []},)
        for index, stage in enumerate(stages):
            last = []
            for layer, names in stage.items():
                held = {name: weights[name] for name in names}
                # A readout is all there is to know of it with its number of weights.
                fields = {"kind": self.config[slot]["kind"]} if layer == READOUT else self.config[slot]
                flops = {"flops_per_parameter": self._rule_flops(held, is_first=index == 0)} if slot == "rule" else {}
                last.append(self._add(f"{slot}.{layer}".rstrip("."), before, slot, fields | flops, held))
            before = last
        return before

    def _rule_flops(self, held: Tree, is_first: bool) -> int:
        """Of the maps over features, only columns of the parameters' own are multiplied once a parameter."""
        features = self.design.features
        num_own = sum(features.width(name) for name in features.names if name in PARAMETER_GROUPS)
        return sum(2 * leaf.shape[0] * (num_own if is_first and "." in name else leaf.shape[1])
                   for name, leaf in held.items() if leaf.dim() == 2)


def _read_fields(part: Any, config: Config) -> Config:
    """Without the fields that the part says it does not read as it is set."""
    return {name: value for name, value in config.items() if name not in getattr(part, "idle_fields", ())}
