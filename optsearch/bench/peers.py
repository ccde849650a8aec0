"""Other people's learned optimizers, each run as its authors ship it, where it is installed.

PyLO is the repository Belilovsky-Lab/pylo (the `pylo` of package indexes is a microscope's): its plain torch path,
with random weights instead of a download. google/learned_optimization is in `jax_peer`.
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from torch.nn import Parameter
from torch.optim import Optimizer

from optsearch.bench import jax_peer
from optsearch.bench.timing import Contender
from optsearch.bench.unrolls import Unroll
from optsearch.tasks import TaskFamily

PYLO, LEARNED_OPTIMIZATION = "PyLO", "learned_optimization"
# What must be there for a library to count as here.
MODULES = {PYLO: ("pylo.optim",),
           LEARNED_OPTIMIZATION: ("learned_optimization.outer_trainers", "absl", "flax", "gin", "haiku", "jax")}


def absent() -> list[str]:
    """The libraries that are not here."""
    return [name for name, modules in MODULES.items() if not all(map(_has, modules))]


def meta_step(unroll: Unroll, family: TaskFamily) -> Contender | None:
    """A meta-step of google/learned_optimization, or None where it has no such thing or is not here."""
    if LEARNED_OPTIMIZATION in absent() or not jax_peer.can_run(unroll):
        return None
    return jax_peer.meta_step(unroll, family)


def optimizers() -> dict[str, tuple[str, Callable[[list[Parameter]], Optimizer]]]:
    """Optimizers by name: the design of ours that each corresponds to, and how it is made."""
    if PYLO in absent():
        return {}
    return {f"{PYLO} AdafacLO": ("small_fc", _adafac), f"{PYLO} CELO2": ("celo2", _celo2)}


def _has(module: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            return find_spec(module) is not None
    except ImportError:
        return False


def _adafac(params: list[Parameter]) -> Any:
    """39-32-32-2."""
    from pylo.models.Meta_MLP import MetaMLP
    from pylo.optim.AdafacLO_naive import AdafacLO_naive

    with patch.object(MetaMLP, "from_pretrained", lambda key: MetaMLP(39, 32, 1)):
        return AdafacLO_naive(params)


def _celo2(params: list[Parameter]) -> Any:
    """30-8-8-3 in the base form; vectors are AdamW's, as its authors have it."""
    from pylo.optim.CELO2_naive import CELO2_naive

    return CELO2_naive(params, hf_key=None, orthogonalize=False)
