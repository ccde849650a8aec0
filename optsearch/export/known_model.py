"""What an optimizer was told of the model whose params it trains."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from optsearch.optimizers.model_graph import ModelGraph


@dataclass(frozen=True, eq=False)
class KnownModel:
    """The graph of a model, and the names in it of the params themselves."""

    graph: ModelGraph
    names: dict[Tensor, str]

    @staticmethod
    def of_module(module: nn.Module) -> "KnownModel":
        # torch.compile wraps modules in one that can't be followed.
        module = getattr(module, "_orig_mod", module)
        return KnownModel(ModelGraph.of_module(module), {param: name for name, param in module.named_parameters()})

    @staticmethod
    def of_groups(groups: Iterable[dict[str, Any]]) -> "KnownModel | None":
        """By the names that torch keeps of `named_parameters()`; None where it has none."""
        names = {param: name for group in groups if "param_names" in group
                 for param, name in zip(group["params"], group["param_names"], strict=True)}
        shapes = tuple((name, tuple(param.shape)) for param, name in names.items())
        return KnownModel(ModelGraph.of_names(shapes), names) if names else None

    def graph_of(self, params: Sequence[Tensor]) -> ModelGraph:
        """That of some params, under the names "0", "1", ..."""
        return self.graph.restricted({str(index): self.names[param] for index, param in enumerate(params)
                                      if param in self.names})
