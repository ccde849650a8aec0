"""Search for the learned optimizer that trains your kind of model fastest.

    optimizer = optsearch.load("best.safetensors")(model.parameters(), num_steps=10_000)
"""

from typing import TYPE_CHECKING, Any

from optsearch.errors import OptsearchError

if TYPE_CHECKING:
    from optsearch.adaptation import OnlineOptimizer
    from optsearch.export import load

__version__ = "0.1.0"
__all__ = ["OnlineOptimizer", "OptsearchError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, which a command such as `optsearch spaces` does without.
    if name == "load":
        from optsearch.export import load

        return load
    if name == "OnlineOptimizer":
        from optsearch.adaptation import OnlineOptimizer

        return OnlineOptimizer
    raise AttributeError(f"module 'optsearch' has no attribute {name!r}")
