"""Search for the learned optimizer that trains your kind of model fastest.

    optimizer = optsearch.load("best.safetensors")(model.parameters(), num_steps=10_000)
"""

from typing import TYPE_CHECKING, Any

from optsearch.errors import OptsearchError

if TYPE_CHECKING:
    from optsearch.adaptation import OnlineOptimizer
    from optsearch.export import load
    from optsearch.notebook import Study, evaluate, list_studies

__version__ = "0.1.0"
__all__ = ["OnlineOptimizer", "OptsearchError", "Study", "__version__", "evaluate", "list_studies", "load"]
# torch takes seconds to import, which a command such as `optsearch spaces` does without.
_MODULES = {"OnlineOptimizer": "adaptation", "load": "export", "Study": "notebook", "evaluate": "notebook",
            "list_studies": "notebook"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(f"optsearch.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'optsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
