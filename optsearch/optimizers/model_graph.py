"""The tensors of a model as a graph: what layer each belongs to, and which layer feeds which."""

from dataclasses import dataclass
from functools import lru_cache

KINDS = ("linear", "conv", "attention", "embedding", "norm", "bias", "other")
# "layer" joins the tensors of one layer, "feeds" leads from a layer's tensors to those of the next.
RELATIONS = ("layer", "feeds")
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """Tensors by name: their kind (one of `KINDS`), their depth in 0..1, and edges (from, to, one of `RELATIONS`)."""

    kinds: dict[str, str]
    depths: dict[str, float]
    edges: tuple[tuple[str, str, str], ...]

    @staticmethod
    def of_names(shapes: Shapes) -> "ModelGraph":
        """What names and shapes let one guess; equal shapes give the same object."""
        return _of_names(shapes)


@lru_cache(maxsize=256)
def _of_names(shapes: Shapes) -> ModelGraph:
    return ModelGraph({name: "other" for name, _ in shapes}, {name: 0.0 for name, _ in shapes}, ())
