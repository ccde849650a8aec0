"""`optsearch import`: published learned optimizers, read from their authors' files."""

from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, emit

imports = typer.Typer(no_args_is_help=True, help="Learned optimizers that others have published, from their files.")


@imports.callback()
def group() -> None:
    """Learned optimizers that others have published, from their files."""


@imports.command("celo")
def celo(file: Annotated[Path, typer.Argument(help="`algoperf/submissions/celo/theta.state` of Celo's repository, "
                                                   "amoudgl/celo on GitHub.")],
         output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path("celo.safetensors"),
         as_json: JsonOption = False) -> None:
    """Read Celo's published weights into the design `celo`; needs `pip install 'optsearch[celo]'`.

    Example: optsearch import celo theta.state -o celo.safetensors
    """
    from optsearch.export import read_celo

    artifact = read_celo(file)
    artifact.save(output)
    emit({"file": str(output), "source": artifact.provenance["source"]}, as_json,
         [f"wrote {output}: {artifact.provenance['source']}",
          f"next: optsearch evaluate {output} --suite standard"])
