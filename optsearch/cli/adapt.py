"""`optsearch adapt`: a learned optimizer goes on learning on your tasks."""

from math import exp
from pathlib import Path
from typing import Annotated, Any

import typer

from optsearch.cli.options import DeviceOption, JsonOption, QuietOption, StorageOption, emit
from optsearch.errors import UsageError

SUFFIXES = {"k": 1_000, "m": 1_000_000}


def count(text: str) -> int:
    """A number of inner steps: 50000, 50_000 or 50k."""
    digits, factor = (text[:-1], SUFFIXES[text[-1].lower()]) if text[-1:].lower() in SUFFIXES else (text, 1)
    try:
        found = round(float(digits) * factor)
    except ValueError:
        found = 0
    if found < 1:
        raise UsageError(f"--budget: {text!r} is no number of inner steps. Expected something like 50k.")
    return found


def adapt(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`.")],
          task: Annotated[list[str] | None, typer.Option(
              help="A task to learn on, or ./my_tasks.py:NAME. Several times.")] = None,
          domain: Annotated[list[str] | None, typer.Option(
              help="A domain's tasks for meta-training. Several times.")] = None,
          budget: Annotated[str, typer.Option(help="Inner steps to spend: 50k, or 50000.")] = "50k",
          output: Annotated[Path, typer.Option("--output", "-o", help="The new file.")] = Path("mine.safetensors"),
          horizon: Annotated[int | None, typer.Option(help="Inner steps of a training; by default as before.")] = None,
          few_shot: Annotated[str | None, typer.Option(
              help="Learn a start for later adaptations: maml, first_order_maml, anil or reptile.")] = None,
          keep: Annotated[str | None, typer.Option(
              help="Don't forget what it was learned on: ewc (best where measured), replay or progressive.")] = None,
          adapters: Annotated[bool, typer.Option("--adapters", help="Let each domain differ a little.")] = False,
          meta_lr: Annotated[float | None, typer.Option(help="Meta-learning rate; by default as before.")] = None,
          seed: Annotated[int, typer.Option(help="Seed of the meta-training.")] = 0, device: DeviceOption = "cpu",
          storage: StorageOption = None, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Let a learned optimizer go on learning on your tasks, with a small part of what a study spends.

    Example: optsearch adapt best.safetensors --task ./my_tasks.py:resnet_small --budget 50k -o mine.safetensors
    """
    from optsearch.adaptation import FewShot, Keeping
    from optsearch.search.adapting import Adapting
    from optsearch.search.adapting import adapt as run
    from optsearch.search.study import Store
    from optsearch.tasks import suites

    tasks = [*(task or []), *(name for each in domain or [] for name in suites.roles(each).meta_training)]
    if not tasks:
        raise UsageError("there is nothing to adapt to. Name a task (--task) or a domain (--domain).")
    changes: dict[str, Any] = {name: value for name, value in (("horizon", horizon), ("meta_lr", meta_lr))
                               if value is not None}
    asked = Adapting(path=file, tasks=tasks, budget=count(budget), changes=changes, seed=seed,
                     few_shot=FewShot(few_shot) if few_shot else None,  # type: ignore[arg-type]
                     keep=Keeping(keep) if keep else None, adapters=adapters)  # type: ignore[arg-type]
    found = run(Store.at(storage), asked, output, device, quiet=quiet or as_json)
    steps, kept = (found.artifact.provenance.get(name) for name in ("inner_steps", "keep"))
    compared = [*tasks, *(kept["tasks"] if kept else [])]
    worse = [f"that is no better than before: keep {file}, or try a larger --budget or a smaller --meta-lr"]
    emit({"path": str(output)} | found.to_config(), as_json, [
        f"{output}: loss {exp(found.after):.3f} x tuned AdamW's after {steps:,} inner steps, {exp(found.before):.3f} x "
        f"before (values {found.after:.4f} and {found.before:.4f})",
        *(worse if found.after >= found.before and few_shot is None else []),
        f"compare on fresh seeds: optsearch evaluate {output} {' '.join(f'--task {name}' for name in compared)}"])
