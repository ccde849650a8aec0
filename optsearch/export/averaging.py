"""Several learned optimizers of one design as one: the mean of their weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from optsearch.errors import DesignError
from optsearch.export.artifact import Artifact, history

Provenance = dict[str, Any]
# Where the mean stands for each of them; of the first, how it may go on learning.
COSTS, GOES_ON = ("inner_steps", "study_inner_steps", "seconds"), ("meta_training", "versions")


def average(artifacts: Sequence[Artifact]) -> Artifact:
    """The mean of the weights of two or more of one design, as in model soups (Wortsman et al. 2022).

    arxiv.org/abs/2203.05482. It makes one optimizer of several that were learned on different tasks, horizons or seeds,
    and pays where they still lie close together: linear controllers do, all of which begin with zeros. Raises
    `DesignError` where designs differ, and for optimizers with adapters, whose weights mean something only with these.
    """
    first = artifacts[0]
    if len(artifacts) < 2:
        raise DesignError("there is one learned optimizer, expected two or more to average.")
    for other in artifacts[1:]:
        if other.design.fingerprint != first.design.fingerprint:
            raise DesignError(f"a mean of weights needs one design, not {first.design!r} and {other.design!r}. "
                              "Learn both from one space that gives the design, such as soap_linear.")
    if any(artifact.adapters for artifact in artifacts):
        raise DesignError("learned optimizers with adapters can't be averaged: their weights go with these.")
    weights = {name: torch.stack([artifact.weights[name] for artifact in artifacts]).mean(0) for name in first.weights}
    return Artifact(first.design, weights, _provenance([artifact.provenance for artifact in artifacts]))


def _provenance(sources: Sequence[Provenance]) -> Provenance:
    behind = [source for latest in sources for source in history(latest)]
    tasks = _all(source.get("tasks", []) for source in behind)
    families = [source.get("families", {}) for source in behind]
    found = {name: sum(source.get(name, 0) for source in sources) for name in COSTS}
    found |= {name: sources[0][name] for name in GOES_ON if name in sources[0]}
    horizons = [source["horizon"] for source in sources if "horizon" in source]
    return found | ({"horizon": max(horizons)} if horizons else {}) | {
        "averaged": list(sources),
        "study": " and ".join(str(source.get("study", "?")) for source in sources),
        "tasks": tasks,
        "held_out": [name for name in _all(source.get("held_out", []) for source in sources) if name not in tasks],
        "families": {split: _all(each.get(split, []) for each in families) for split in ("tasks", "validation")}}


def _all(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
