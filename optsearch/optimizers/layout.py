"""How the tensors of a model lie side by side in one vector."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor

from optsearch import trees
from optsearch.trees import Tree


@dataclass(frozen=True)
class Segment:
    """One tensor's place: among all parameters, and among the rows and columns of all tensors.

    Tensors of two and more dimensions are seen as matrices `rows x columns`, the first dimension against all
    others; vectors and scalars have one row a parameter and no columns (`is_matrix` is false).
    """

    parameters: slice
    rows: slice
    columns: slice
    is_matrix: bool

    @property
    def matrix(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Layout:
    """The shapes of a tree of params, and the segments of the vector `[*batch, num_parameters]` that holds it."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @staticmethod
    def of(params: Tree, batch_dims: int = 0) -> "Layout":
        """The layout of `params` whose leaves are `[*batch, *shape]`; equal shapes give the same object."""
        return _layout(tuple((name, tuple(leaf.shape[batch_dims:])) for name, leaf in params.items()))

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        segments, starts = [], (0, 0, 0)
        for _, shape in self.shapes:
            size = prod(shape)
            rows, columns = (shape[0], size // max(shape[0], 1)) if len(shape) > 1 else (size, 0)
            ends = (starts[0] + size, starts[1] + rows, starts[2] + columns)
            parameters, of_rows, of_columns = (slice(start, end) for start, end in zip(starts, ends, strict=True))
            segments.append(Segment(parameters, of_rows, of_columns, is_matrix=len(shape) > 1))
            starts = ends
        return tuple(segments)

    @property
    def num_parameters(self) -> int:
        return self.segments[-1].parameters.stop

    @property
    def num_rows(self) -> int:
        return self.segments[-1].rows.stop

    @property
    def num_columns(self) -> int:
        return self.segments[-1].columns.stop

    @staticmethod
    def flatten(tree: Tree, batch_dims: int) -> Tensor:
        return trees.ravel(tree, batch_dims)

    def unflatten(self, vector: Tensor) -> Tree:
        return trees.unravel(vector, dict(self.shapes))

    def per_tensor(self, vector: Tensor) -> Iterator[Tensor]:
        """The parts of `[..., num_parameters]` that belong to each tensor."""
        return (vector[..., segment.parameters] for segment in self.segments)

    def scaled(self, vector: Tensor, scale: Callable[[Tensor], Tensor], of: Tensor | None = None) -> Tensor:
        """`vector` with each tensor's part multiplied by `scale(part)`, computed from `of` where given."""
        sources = self.per_tensor(vector if of is None else of)
        return torch.cat([part * scale(source) for part, source
                          in zip(self.per_tensor(vector), sources, strict=True)], dim=-1)


@lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Layout:
    return Layout(shapes)
