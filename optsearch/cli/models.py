"""`optsearch models`: the learned optimizers that come with the package, and cards."""

from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli.options import JsonOption, emit

models = typer.Typer(help="The learned optimizers that come with optsearch, and their cards.")


@models.callback(invoke_without_command=True)
def listing(context: typer.Context, as_json: JsonOption = False) -> None:
    """The learned optimizers that come with optsearch, a line each; `show` prints the card of one.

    Example: optsearch models
    """
    if context.invoked_subcommand is not None:
        return
    from optsearch import models as shipped
    from optsearch.tables import columns

    found = {name: _first_sentence(shipped.card(name)) for name in shipped.names()}
    emit(found, as_json, [*columns(list(found.items())), "",
                          'use one: optsearch.load("NAME")(model.parameters(), num_steps=...)'])


@models.command("show")
def show(name: Annotated[str, typer.Argument(help="A name that `optsearch models` lists.")]) -> None:
    """The card of one: what it was learned on, how good it is, what it costs, where it fails.

    Example: optsearch models show vision
    """
    from optsearch import models as shipped

    print(shipped.card(name), end="")


@models.command("card")
def card(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`.")],
         evaluation: Annotated[Path, typer.Argument(help="evaluation.json of `optsearch evaluate --output`.")],
         large: Annotated[Path | None, typer.Option(help="Another evaluation.json, of far larger models.")] = None,
         length: Annotated[list[Path] | None, typer.Option(
             help="Another evaluation.json, of some of its families, of longer or shorter runs; repeatable.")] = None,
         output: Annotated[Path | None, typer.Option("--output", "-o", help="By default beside the file, .md.")] = None,
         ) -> None:
    """Write the card of your own, from what `optsearch evaluate --suite` measured.

    Example: optsearch models card best.safetensors reports/best/evaluation.json
    """
    from optsearch.export import Artifact
    from optsearch.report.card import card as written
    from optsearch.report.card import read

    place = output or file.with_suffix(".md")
    lines = written(file.stem, Artifact.load(file), read(evaluation), read(large) if large else None,
                    [read(each) for each in length or ()])
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {place}")


def _first_sentence(text: str) -> str:
    """Of a card, below its title."""
    body = next(line for line in text.splitlines()[1:] if line)
    return body.partition(". ")[0].rstrip(".")
