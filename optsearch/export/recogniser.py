"""Which domain a model is of, told from the tensors that an optimizer sees at its first step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import log

import torch
from torch import Tensor

from optsearch.trees import Tree

# Whoever changes what a feature means must raise `optimizer.CONTRACT`: saved recognisers know the old ones.
NUM_FEATURES = 37
# Rows and columns of a gradient that are looked at.
MOST_LINES = 1024
# Features this many deviations from the mean say no more than nearer ones.
FARTHEST = 3.0


@dataclass(frozen=True)
class Recogniser:
    """A network of one hidden layer over standardised `features`, one output a domain.

    `center` and `scale` are `[features]`, `inner` is `[hidden, features + 1]` and `outer` `[domains, hidden + 1]`, with
    biases in the last column.
    """

    center: Tensor
    scale: Tensor
    inner: Tensor
    outer: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the shapes of its parts fit each other and the features of this version."""
        num_hidden = len(self.inner)
        return (self.center.shape == self.scale.shape == (NUM_FEATURES,) and self.outer.dim() == 2
                and self.inner.shape == (num_hidden, NUM_FEATURES + 1) and self.outer.shape[1] == num_hidden + 1)

    def logits(self, found: Tensor) -> Tensor:
        """`[*batch, domains]` for features `[*batch, features]`."""
        inputs = ((found - self.center) / self.scale).clamp(-FARTHEST, FARTHEST)
        hidden = (inputs @ self.inner[:, :-1].T + self.inner[:, -1]).tanh()
        return hidden @ self.outer[:, :-1].T + self.outer[:, -1]

    def recognise(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> int:
        """The number of the likeliest domain."""
        return int(self.logits(features(params, gradients)).argmax())

    def to_tree(self) -> Tree:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def features(params: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """What params and their first gradients show of a model, `[NUM_FEATURES]`; they come in the order of its layers.

    Shapes, how gradients of the first layer vary along its inputs (neighbouring pixels are alike, columns of a table
    are not, a word that did not occur has none), and what the last ones say of the loss. All but the shares of equal
    params are the same in whatever unit gradients and params are.
    """
    seen = [_seen(gradient) for gradient in gradients]
    return torch.tensor([*_counts(params), *_shapes(params), *_first_layer(seen),
                         *_all_layers(seen)]).nan_to_num(0.0, 0.0, 0.0)


def _seen(gradient: Tensor) -> Tensor:
    """What is looked at of a gradient, on the CPU, with a largest entry of 1."""
    part = gradient.detach().flatten(1)[:MOST_LINES, :MOST_LINES] if gradient.dim() > 1 else gradient.detach().flatten()
    part = part.cpu().float()
    return part / part.abs().max().clamp(min=torch.finfo(part.dtype).tiny)


def _matrix(leaf: Tensor) -> Tensor:
    """Outputs times inputs; vectors are one row."""
    return leaf.detach().flatten(1) if leaf.dim() > 1 else leaf.detach().reshape(1, -1)


def _matrices(leaves: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of at least two dimensions, or where there are none all."""
    return [_matrix(leaf) for leaf in leaves if leaf.dim() > 1] or [_matrix(leaf) for leaf in leaves]


def _share(conditions: Sequence[bool]) -> float:
    return sum(conditions) / max(1, len(conditions))


def _counts(params: Sequence[Tensor]) -> list[float]:
    """How many tensors of which ranks."""
    vectors = [param for param in params if param.dim() < 2 and param.numel() > 1]
    kernels = [param[0, 0].numel() for param in params if param.dim() > 2]
    return [log(len(params)), log(sum(param.numel() for param in params)),
            *(_share([min(4, param.dim()) == rank for param in params]) for rank in (1, 3, 4)),
            *(float(any(min(4, param.dim()) == rank for param in params)) for rank in (2, 3, 4)),
            log(sum(kernels) / len(kernels)) if kernels else 0.0,
            # Those of normalisation, which begin with ones.
            _share([bool(vector.eq(vector[0]).all()) for vector in vectors])]


def _shapes(params: Sequence[Tensor]) -> list[float]:
    """Widths of the first and last layers, and proportions that gates, attention and embeddings have."""
    sizes = [(len(matrix), matrix.shape[1]) for matrix in _matrices(params)]
    (first, inputs), (outputs, last) = sizes[0], sizes[-1]
    aspects = [log(rows / columns) for rows, columns in sizes]
    return [log(first), log(inputs), log(outputs), log(last), float(outputs == inputs), float(len(sizes) == 1),
            max(aspects), min(aspects), aspects[0],
            *(_share([rows == times * columns for rows, columns in sizes]) for times in (1, 2, 3, 4))]


def _first_layer(gradients: Sequence[Tensor]) -> list[float]:
    """How the gradient of the first layer varies along its inputs and its units."""
    index = next((index for index, gradient in enumerate(gradients) if gradient.dim() > 1), 0)
    matrix = _matrix(gradients[index])[:, :MOST_LINES]
    rows, columns = matrix.square().sum(1), matrix.square().sum(0)
    spectrum = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    total = matrix.square().sum()
    bias = gradients[index + 1][:MOST_LINES] if index + 1 < len(gradients) else torch.zeros(0)
    # The part of the gradient that is there because inputs are not 0 in the mean.
    explained = ((bias @ matrix).square().sum() / bias.square().sum() / total
                 if bias.shape == matrix.shape[:1] else torch.zeros(()))
    return [float(columns.eq(0).float().mean()), float(rows.eq(0).float().mean()), _spread(columns), _spread(rows),
            float((total.square() / spectrum.square().sum()).log()), float(explained), *_likeness(matrix)]


def _spread(squares: Tensor) -> float:
    """Deviation of the logarithms of what is not 0."""
    logs = squares[squares > 0].log()
    return float(logs.std()) if len(logs) > 1 else 0.0


def _likeness(matrix: Tensor) -> list[float]:
    """Autocorrelation along the inputs: of neighbours, of those two apart, and the largest beyond, with its distance.

    Columns count alike, however large their gradients.
    """
    count = matrix.shape[1]
    if count < 4:
        return [0.0, 0.0, 0.0, 0.0]
    matrix = matrix / matrix.norm(dim=0).clamp(min=torch.finfo(matrix.dtype).tiny)
    products = matrix.T @ matrix
    likeness = torch.stack([products.diagonal(lag).mean() for lag in range(1, count // 2 + 1)])
    signed = likeness - products.mean()
    far = signed[2:] if len(signed) > 2 else signed[-1:]
    return [float(signed[0]), float(signed[1]), float(far.max()), log(3 + int(far.argmax()))]


def _all_layers(gradients: Sequence[Tensor]) -> list[float]:
    """Lines without a gradient anywhere, and whether outputs compete, as classes do: their gradients then sum to 0."""
    matrices, last = _matrices(gradients), gradients[-1].flatten()
    return [max(float(matrix.eq(0).all(1).float().mean()) for matrix in matrices),
            max(float(matrix.eq(0).all(0).float().mean()) for matrix in matrices),
            float(last.sum().abs() / last.abs().sum()), float(len(last) == 1)]
