"""What every entry of a design's weights stands for, so that another design can take over what means the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from optsearch import trees
from optsearch.optimizers.feature_groups import LINE_GROUPS, SHARED_GROUPS
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.optimizers.rules import MLP, Recurrent

Labels = tuple[str, ...]


def labels_of(design: LearnedOptimizer) -> dict[str, tuple[Labels, ...]]:
    """For each leaf of the design's weights the labels along each of its axes.

    Entries of two designs with the same labels in leaves of the same name mean the same.
    """
    names = _Names(design)
    shapes = trees.shapes_of(design.init_weights(torch.Generator()))
    return {name: names.axes(name, shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class _Names:
    design: LearnedOptimizer

    def axes(self, name: str, shape: tuple[int, ...]) -> tuple[Labels, ...]:
        slot, _, rest = name.partition(".")
        layer, _, kind = rest.partition(".")
        if slot == "features":
            return (_numbers(getattr(self.design.features, rest)),)
        if slot == "rule":
            rows, columns = self._rule(layer)
        elif slot == "film":
            layer, kind = slot, rest
            rows, columns = (*_each("scale", self._first), *_each("shift", self._first)), self._context
        elif slot == "controls":
            rows, columns = self._settings[:shape[0]], _count(f"embedding by {self._steering}", shape[-1])
        else:
            signature = repr(self.design.schedule) if slot == "schedule" else self._steering
            return tuple(_count(signature, length) for length in shape)
        return (rows,) if kind == "bias" or len(shape) == 1 else (rows, columns)

    def _rule(self, layer: str) -> tuple[Labels, Labels]:
        """Outputs and inputs of one layer of the rule."""
        rule, units = self.design.rule, self._units
        if layer == "output":
            return self._outputs, units
        if isinstance(rule, MLP):
            return units, self._inputs if layer == "hidden0" else units
        assert isinstance(rule, Recurrent)
        if layer == "input":
            return self._first, self._inputs
        if layer.startswith("recalled"):
            return units, units
        below = (self._first if rule.input_size else self._inputs) if layer == "gates0" else units
        return self._gates, units if layer.startswith("recurrent") else below

    @cached_property
    def _units(self) -> Labels:
        return _count(f"unit of {type(self.design.rule).__name__}", getattr(self.design.rule, "hidden_size", 0))

    @cached_property
    def _gates(self) -> Labels:
        return tuple(label for gate in range(getattr(self.design.rule, "num_gates", 0))
                     for label in _each(f"gate {gate}", self._units))

    @cached_property
    def _first(self) -> Labels:
        """What the first map over the features gives."""
        rule = self.design.rule
        if isinstance(rule, Recurrent):
            return _count("unit before", rule.input_size) if rule.input_size else self._gates
        return self._units

    @cached_property
    def _inputs(self) -> Labels:
        """What the rule sees, in the order of the columns of its first map."""
        features = self.design.features
        own, shared = ([name for name in features.names if name not in LINE_GROUPS and (name in SHARED_GROUPS) is of]
                       for of in (False, True))
        lines = [f"{name} of {line}" for line in ("rows", "columns") for name in features.names if name in LINE_GROUPS]
        widths = {name: features.width(name.split(" ")[0]) // (2 if " of " in name else 1)
                  for name in (*own, *lines, *shared)}
        seen = tuple(label for name, width in widths.items() for label in _count(name, width))
        return seen if self.design.controls.film else (*seen, *self._context)

    @cached_property
    def _context(self) -> Labels:
        return _count(f"context by {self._steering}", self.design.context_size)

    @cached_property
    def _outputs(self) -> Labels:
        head = self.design.head
        gates = int(self.design.mixing.has_gate and not self.design.has_controller)
        return (*_count(repr(head), head.num_outputs), *_count("gate", gates), *_count("spare", head.num_spare))

    @cached_property
    def _settings(self) -> Labels:
        steering = self.design.steering
        how = f"gain {steering.controls.gain} accumulates {steering.controls.accumulates}"
        how += " over the run" if steering.controls.accumulates and steering.controls.over_run else ""
        sets = ("rate", *steering.knobs)
        momentary = _each(f"gain {steering.controls.gain} at once", sets if steering.sets_at_once else ())
        return (*_each(how, sets), *momentary, *_count("gate", int(steering.has_gate)),
                *_count("context", self.design.controls.context_size))

    @cached_property
    def _steering(self) -> str:
        """All that decides what a controller's numbers mean."""
        steering = self.design.steering
        return repr((steering.controller, steering.memory, steering.tensors, sorted(steering.kept.items())))


def _count(word: str, length: int) -> Labels:
    return tuple(f"{word} {index}" for index in range(length))


def _each(word: str, labels: Sequence[str]) -> Labels:
    return tuple(f"{word} {label}" for label in labels)


def _numbers(values: float | Sequence[float]) -> Labels:
    return tuple(f"{value:g}" for value in (values if isinstance(values, Sequence) else (values,)))
