"""Steps by kernels on a GPU, held against the plain ones once before anybody relies on them."""

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

from optsearch.compiling import Kernels
from optsearch.errors import CompileError
from optsearch.export.fused import FusedOptimizer, fits
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Observation
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.trees import Tree

# How far steps and states may be from the plain ones, relative to their length: products have 10 bits.
MOST_OFF, STATE_MOST_OFF = 0.05, 1e-3
# Each kind of block takes some ten seconds to compile.
MOST_KINDS = 16


class FusedSteps:
    """The steps of a design: by kernels where they fit and keep to the plain ones at first, else as it makes them.

    What goes wrong at the first use is a warning, and everything goes on without kernels.
    """

    def __init__(self, design: LearnedOptimizer) -> None:
        self._design = design
        self._fused = FusedOptimizer.of(design) if find_spec("triton") is not None and fits(design) else None
        self._is_trusted = False

    @property
    def is_used(self) -> bool:
        """Whether steps have been made by kernels."""
        return self._fused is not None and self._is_trusted

    def leave(self) -> None:
        """Go on without kernels."""
        self._fused = None

    def update(self, weights: Tree, observation: Observation, state: Tree,
               kernels: Kernels | None = None) -> tuple[Tree, Tree]:
        """As `LearnedOptimizer.update` in place, with `kernels` for blocks of few kinds."""
        if self._fused is None or not is_at_home(next(iter(observation.params.values()))):
            layout = Layout.of(observation.params)
            if kernels is not None and layout.for_kernels(self._design.rule.width).num_kinds > MOST_KINDS:
                kernels = None
            return self._design.update(weights, observation, state, in_place=True, kernels=kernels)
        if self._is_trusted:
            return self._fused.update(weights, observation, state, in_place=True)
        return self._first(self._fused, weights, observation, state)

    def _first(self, fused: FusedOptimizer, weights: Tree, observation: Observation,
               state: Tree) -> tuple[Tree, Tree]:
        """A step both ways, which nothing but time is lost by."""
        plain = self._design.update(weights, observation, state)
        try:
            found = fused.update(weights, observation, state)
            _require_alike(found[0], plain[0], MOST_OFF)
            _require_alike(found[1], plain[1], STATE_MOST_OFF)
        except Exception as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"the kernels of a step can't be used here ({first_line}); it goes on without them, slower.",
                          stacklevel=6)
            self.leave()
            return plain
        self._is_trusted = True
        return found


def is_at_home(param: Tensor) -> bool:
    """Whether kernels run where a param is."""
    return param.is_cuda


def _require_alike(found: Tree, expected: Tree, most: float) -> None:
    for name, leaf in expected.items():
        off = torch.linalg.vector_norm(found[name] - leaf)
        # Written so that what is not a number is too far, too.
        if not bool(off <= most * torch.linalg.vector_norm(leaf) + torch.finfo(leaf.dtype).tiny):
            raise CompileError(f"{name} comes out differently")
