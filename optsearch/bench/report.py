"""Writing a benchmark down: figures, tables, picture."""

import json
from pathlib import Path
from typing import Any

from optsearch import pictures
from optsearch.bench.tables import sentences, tables
from optsearch.errors import FileError


def write(content: dict[str, Any], directory: Path) -> list[Path]:
    """`engine.json`, `engine.md` and, where scaling was measured, `engine.png`; returns what was written."""
    panels = [pictures.Panel(**panel) for panel in content.get("scaling", [])]
    figures, text, picture = (directory / f"engine.{kind}" for kind in ("json", "md", "png"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        text.write_text("\n".join(_page(content, picture.name if panels else None)) + "\n")
        if panels:
            pictures.scaling(picture, panels)
    except OSError as error:
        raise FileError(f"{directory} could not be written to: {error.strerror or error}. "
                        "Choose another place with --output.") from error
    return [figures, text, *([picture] if panels else [])]


def _page(content: dict[str, Any], picture: str | None) -> list[str]:
    lines = ["# The engine, measured", "",
             "Made by `optsearch bench engine`, in the environment that workers have; what is compared took turns.", "",
             *sentences(content)]
    for table in tables(content):
        lines += ["", *table.markdown()]
    return [*lines, *(["", "## Scaling", "", f"![Cost over sizes]({picture})"] if picture else [])]
