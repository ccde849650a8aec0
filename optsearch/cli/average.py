"""`optsearch average`: several learned optimizers of one design as one."""

from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, emit


def average(files: Annotated[list[Path], typer.Argument(help="Files made by `optsearch export`, or names that "
                                                             "`optsearch models` lists, all of one design.")],
            output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path("mean.safetensors"),
            as_json: JsonOption = False) -> None:
    """Make one learned optimizer of several of one design: the mean of their weights.

    Of one learned on many domains and one learned on few, it can be safer than the second and end lower than the
    first. Measure it: where weights began far apart, their mean may be worth nothing.

    Example: optsearch average general.safetensors speech.safetensors -o both.safetensors
    """
    from optsearch.export import Artifact
    from optsearch.export import average as mean

    found = mean([Artifact.load(file) for file in files])
    found.save(output)
    emit({"file": str(output), "study": found.provenance["study"], "num_averaged": len(files)}, as_json,
         [f"wrote {output}: the mean of {len(files)}, from {found.provenance['study']}",
          f"next: optsearch evaluate {output} --suite standard"])
