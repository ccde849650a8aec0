"""How much of their space embeddings use, and how they look from where they are widest."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from optsearch import pictures
from optsearch.evaluation.embeddings import LABELS, UNLABELLED, Embeddings
from optsearch.seeds import generator

LEAST_DIRECTIONS, LEAST_VARYING = 1.5, 1e-4
# Variance below this part of the mean square is rounding, of embeddings in single precision.
ROUNDING = 1e-12
# More points hide each other, more names fill the picture.
MOST_POINTS, MOST_NAMES = 2500, 8


@dataclass(frozen=True)
class Diversity:
    """How differently a controller sees tensors and steps; `directions` are participation ratios, 1 to `size`.

    `directions` are those of all embeddings, `directions_between_tensors` those of what tells tensors apart at the same
    step, `directions_along_time` those of what changes of a tensor in its run; all 0 where nothing varies.
    `effective_rank` counts small directions for more. `varying` is the part of the mean square that is variance, and
    of that variance the `shares` are explained by which family's, by which of its tensors, and by which step it is.
    """

    size: int
    directions: float
    directions_between_tensors: float
    directions_along_time: float
    effective_rank: float
    varying: float
    family_share: float
    tensor_share: float
    step_share: float

    @property
    def is_collapsed(self) -> bool:
        """Whether embeddings are one number or none.

        Below 1.5 directions the second widest has at most 27 % of the variance of the widest: (1 + r)² / (1 + r²) is
        1.5 for r = 0.268, and any third makes that less. Below a ten-thousandth, deviations are a hundredth of the
        length of what is always the same, which is all that a readout sees then.
        """
        return self.directions < LEAST_DIRECTIONS or self.varying < LEAST_VARYING

    def to_config(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()} | {"is_collapsed": self.is_collapsed}


def diversity(found: Sequence[Embeddings]) -> Diversity:
    """Of all runs of all families, which have the same horizon; a run that isn't finite is left out."""
    made = [each.made[each.made.isfinite().flatten(1).all(1)].double() for each in found]
    rows = torch.cat([values.flatten(0, -2) for values in made])
    power = float(rows.square().sum(1).mean())
    between, along = (torch.cat([(values - values.mean(over, keepdim=True)).flatten(0, -2) for values in made])
                      for over in (2, 1))
    spectrum, *parts = (spectrum_of(each).where(each.square().sum(1).mean() > ROUNDING * power, 0.0)
                        for each in (rows, between, along))
    places = [torch.stack(torch.meshgrid(torch.tensor([index]), *map(torch.arange, values.shape[:3]), indexing="ij"))
              .flatten(1) for index, values in enumerate(made)]
    family, _, step, tensor = torch.cat(places, 1)
    return Diversity(
        rows.shape[1], participation_ratio(spectrum), participation_ratio(parts[0]), participation_ratio(parts[1]),
        effective_rank(spectrum), float(spectrum.sum()) / power if power > 0 else 0.0,
        share_explained(rows, family), share_explained(rows, family * (int(tensor.max()) + 1) + tensor),
        share_explained(rows, step))


def spectrum_of(rows: Tensor) -> Tensor:
    """Eigenvalues `[k]` of the covariance of rows `[n, k]`, the largest first."""
    deviations = rows - rows.mean(0)
    return torch.linalg.svdvals(deviations.mT @ deviations / len(rows))


def participation_ratio(spectrum: Tensor) -> float:
    """(Σλ)² / Σλ²: k for k equal eigenvalues, 1 for a single one (Gao et al. 2017, doi.org/10.1101/214262)."""
    power = float(spectrum.square().sum())
    return float(spectrum.sum()) ** 2 / power if power > 0 else 0.0


def effective_rank(spectrum: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares (Roy and Vetterli 2007, ieeexplore.ieee.org/document/7098875)."""
    shares = spectrum / spectrum.sum()
    return float(torch.special.entr(shares).sum().exp()) if float(spectrum.sum()) > 0 else 0.0


def share_explained(rows: Tensor, groups: Tensor) -> float:
    """The part of the variance of rows `[n, k]` that lies between the means of their `groups` `[n]`."""
    groups = groups.unique(return_inverse=True)[1]
    counts = torch.bincount(groups).to(rows)
    deviations = rows - rows.mean(0)
    sums = deviations.new_zeros(len(counts), rows.shape[1]).index_add(0, groups, deviations)
    total = float(deviations.square().sum())
    return float((sums.square().sum(1) / counts).sum()) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Projection:
    """Points `[n, 2]` in the plane where rows are widest, and the `shares` `[2]` of their variance on its axes."""

    points: Tensor
    shares: Tensor


def projection(rows: Tensor) -> Projection:
    """Principal components of rows `[n, k]`, n at least 2; an axis points to where its largest loading is positive."""
    # A second axis even where there is a single number.
    deviations = functional.pad(rows - rows.mean(0), (0, max(0, 2 - rows.shape[1])))
    _, sizes, axes = torch.linalg.svd(deviations, full_matrices=False)
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)).sign()
    powers = sizes.square()
    return Projection(deviations @ axes.mT, powers[:2] / powers.sum().clamp(min=torch.finfo(rows.dtype).tiny))


def draw(path: Path, found: Sequence[Embeddings]) -> None:
    """The projection of embeddings, coloured by phase, by loss trend and by tensor, or by kind where names are many."""
    rows = torch.cat([each.made.flatten(0, -2).double() for each in found])
    labels = {name: torch.cat([each.labels(name)[..., None].expand(each.made.shape[:-1]).flatten() for each in found])
              for name in LABELS}
    is_drawn = rows.isfinite().all(1) & torch.stack([each != UNLABELLED for each in labels.values()]).all(0)
    chosen = is_drawn.nonzero().flatten()
    chosen = chosen[torch.randperm(len(chosen), generator=generator(0, "picture"))[:MOST_POINTS]]
    seen = projection(rows[is_drawn])
    points = seen.points[(is_drawn.cumsum(0) - 1)[chosen]]
    layers, of_layers = _layers(found)
    pictures.clouds(path, (points[:, 0].tolist(), points[:, 1].tolist()),
                    (f"first component ({seen.shares[0]:.0%} of the variance)", f"second ({seen.shares[1]:.0%})"),
                    [*(pictures.Colouring(name, LABELS[name], each[chosen].tolist()) for name, each in labels.items()),
                     pictures.Colouring("layer", layers, of_layers[chosen].tolist())])


def _layers(found: Sequence[Embeddings]) -> tuple[list[str], Tensor]:
    """What to call the tensors of all embeddings, and the index of each embedding's own."""
    names = {name for each in found for name in each.names}
    called = [each.names if len(names) <= MOST_NAMES else each.kinds for each in found]
    order = list(dict.fromkeys(name for every in called for name in every))
    return order, torch.cat([torch.tensor([order.index(name) for name in every]).expand(each.made.shape[:-1]).flatten()
                             for each, every in zip(found, called, strict=True)])
