"""Which design to learn next: search spaces, studies, and the workers that run their trials."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optsearch.search.forecasting.predictor import PerformancePredictor
    from optsearch.search.forecasting.pruner import PredictorPruner
    from optsearch.search.gp_sampler import ConditionalGPSampler
    from optsearch.search.surrogate.tree import TreeSpace

__all__ = ["ConditionalGPSampler", "PerformancePredictor", "PredictorPruner", "TreeSpace"]
# They bring Optuna and BoTorch, which commands that search nothing do without.
_MODULES = {"ConditionalGPSampler": "gp_sampler", "PerformancePredictor": "forecasting.predictor",
            "PredictorPruner": "forecasting.pruner", "TreeSpace": "surrogate.tree"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(f"optsearch.search.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'optsearch.search' has no attribute {name!r}")
