"""Processes fitted anew as trials come in, from where the last fit ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.history import History

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

    from optsearch.search.surrogate.process import Observations

REFIT_PART = 20


@dataclass(frozen=True)
class LastFit:
    """Hyperparameters, the space that they are of, and how many trials they were fitted on."""

    names: tuple[str, ...]
    num_trials: int
    hyperparameters: Mapping[str, torch.Tensor]


@dataclass
class Fits:
    """The last fit of every objective, by its number."""

    _last: dict[int, LastFit] = field(default_factory=dict)

    def process(self, encoding: Encoding, observations: "Observations", num_trials: int,
                objective: int = 0) -> "SingleTaskGP":
        """Of all observations; hyperparameters are learned with every twentieth more of the study's own trials."""
        from optsearch.search.surrogate.process import fit, hyperparameters

        last = self._last.get(objective)
        last = last if last and last.names == encoding.names else None
        is_due = last is None or num_trials - last.num_trials >= max(1, num_trials // REFIT_PART)
        process = fit(encoding, observations, last.hyperparameters if last else None, is_due)
        if is_due:
            self._last[objective] = LastFit(encoding.names, num_trials, hyperparameters(process))
        return process


def observed(encoding: Encoding, known: History) -> "Observations":
    """What a study's trials tell, as a process takes it."""
    from optsearch.search.surrogate.process import Observations

    return Observations(encoding.encode(known.points), torch.tensor(known.values, dtype=torch.float64),
                        torch.tensor(known.deviations, dtype=torch.float64))
