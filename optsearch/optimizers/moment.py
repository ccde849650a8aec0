"""One step as all parts of an optimizer see it."""

from dataclasses import dataclass

from torch import Tensor

from optsearch.optimizers.layout import Layout
from optsearch.optimizers.model_graph import ModelGraph


@dataclass(frozen=True)
class Moment:
    """Everything that is known at one step, vectors of all parameters `[..., n]`.

    `step` `[..., 1]` counts from 1, `progress` `[..., 1]` is in 0..1; `loss` and `num_steps` `[..., 1]` are None where
    nobody told them, and so is `graph`. Where it is `in_place`, nobody needs the state before it any more.
    """

    layout: Layout
    gradient: Tensor
    params: Tensor
    step: Tensor
    progress: Tensor
    loss: Tensor | None = None
    num_steps: Tensor | None = None
    graph: ModelGraph | None = None
    in_place: bool = False

    @property
    def model(self) -> ModelGraph:
        """The graph, or what names and shapes let one guess of it."""
        return self.graph or ModelGraph.of_names(self.layout.shapes)

    def for_all(self, values: Tensor) -> Tensor:
        """`[..., k]` as the same for all tensors, `[..., k, tensors]`."""
        return values[..., None].expand(*values.shape, self.layout.num_tensors)
