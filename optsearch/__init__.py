"""Search for the learned optimizer that trains your kind of model fastest.

    optimizer = optsearch.load("best.safetensors")(model.parameters(), num_steps=10_000)
"""

from optsearch.errors import OptsearchError
from optsearch.export import load

__version__ = "0.1.0"
__all__ = ["OptsearchError", "__version__", "load"]
