"""Pages of the documentation: their Python is run as it stands there."""

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

from optsearch.export import Artifact
from optsearch.optimizers import named_design
from optsearch.seeds import generator

DOCS = Path(__file__).parent.parent / "docs"
BEST = "best.safetensors"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_best(folder: Path, name: str = "adamw_mlp") -> Path:
    """A small artifact of a design of the library, with weights near its start: it trains about as AdamW does."""
    design = named_design(name)
    weights = {key: leaf + 0.02 * torch.randn(leaf.shape, generator=generator(0, key))
               for key, leaf in design.init_weights(generator(0, "weights")).items()}
    Artifact(design, weights, {}).save(folder / BEST)
    return folder / BEST


def run_page(path: str | Path, folder: Path) -> dict[str, Any]:
    """Run all ```python blocks of a page, one after the other as one program, in a folder; gives its variables.

    `path` is relative to `docs`. The folder gets a `best.safetensors` unless it has one. Line numbers of errors are
    those of the page.
    """
    page = DOCS / path
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{page} has no ```python block"
    if not (folder / BEST).exists():
        write_best(folder)
    variables: dict[str, Any] = {"__name__": "__main__"}
    with chdir(folder):
        for block in blocks:
            before = text.count("\n", 0, block.start(1))
            exec(compile("\n" * before + block[1], str(page), "exec"), variables)
    return variables
