"""Named designs whose tensors don't hear of each other: each may be stepped alone."""

from optsearch.optimizers import DESIGNS, History, NoController

DEAF = [name for name, (design, _) in DESIGNS.items()
        if isinstance(design.controller, NoController | History) or getattr(design.controller, "mix", "") == "none"]
