"""One step as all parts of an optimizer see it."""

from dataclasses import dataclass

from torch import Tensor

from optsearch.optimizers.layout import Layout
from optsearch.optimizers.model_graph import ModelGraph
from optsearch.trees import Tree


@dataclass(frozen=True)
class Observation:
    """What an optimizer sees at one step; leaves are `[*batch, *shape]`.

    `progress` `[*batch, 1]` is the part of the run that lies behind, None where the horizon is unknown.
    `weight_decay`, one number or `[tensors]`, is decoupled, on top of what the design has itself. `loss` `[*batch, 1]`
    is that of the batch, and `num_steps` `[*batch, 1]` the length of the run, None where nobody told them; `graph` is
    that of the model, None where names and shapes must do. Only controllers and some mixings look at these three.
    """

    gradients: Tree
    params: Tree
    progress: Tensor | None = None
    weight_decay: float | Tensor = 0.0
    loss: Tensor | None = None
    num_steps: Tensor | None = None
    graph: ModelGraph | None = None


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

    def decayed(self, direction: Tensor, weight_decay: float | Tensor) -> Tensor:
        """`direction` with decoupled weight decay, one number or `[tensors]`."""
        if isinstance(weight_decay, Tensor):
            return direction + self.layout.times(self.params, weight_decay)
        return direction + weight_decay * self.params if weight_decay else direction

    def for_all(self, values: Tensor) -> Tensor:
        """`[..., k]` as the same for all tensors, `[..., k, tensors]`."""
        return values[..., None].expand(*values.shape, self.layout.num_tensors)
