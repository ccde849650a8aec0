"""`optsearch embeddings`: what a learned optimizer's controller knows of a training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optsearch.cli.options import JsonOption, QuietOption, emit
from optsearch.errors import UsageError

if TYPE_CHECKING:
    from optsearch.evaluation.diversity import Diversity
    from optsearch.evaluation.probes import Probe

DEFAULT_HORIZON = 200
TOLD = {"progress"}


def embeddings(file: Annotated[Path, typer.Argument(help="A file made by `optsearch export`, with a controller.")],
               task: Annotated[list[str] | None, typer.Option(
                   help="A task, or ./my_tasks.py:NAME; several times. By default those learned on.")] = None,
               horizon: Annotated[int | None, typer.Option(min=20, help="Inner steps; by default as learned.")] = None,
               runs: Annotated[int, typer.Option(min=2, help="Trainings a family; probes see half of them.")] = 16,
               output: Annotated[Path, typer.Option("--output", "-o", help="The picture.")] = Path("embeddings.png"),
               quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Probe what a controller's embeddings tell of phase and loss trend, whether they have collapsed, and draw them.

    Example: optsearch embeddings best.safetensors --task digits_mlp -o embeddings.png
    """
    from optsearch import progress
    from optsearch.evaluation import diversity, probes
    from optsearch.evaluation.embeddings import LABELS, collect
    from optsearch.export import Artifact
    from optsearch.tasks import families_of

    artifact = Artifact.load(file)
    names = task or artifact.provenance.get("tasks")
    if not names:
        raise UsageError(f"{file} does not say what it was meta-trained on. Give --task.")
    horizon = horizon or int(artifact.provenance.get("horizon", DEFAULT_HORIZON))
    found = []
    families = families_of(names)
    with progress.meter("trainings", len(families) * runs, quiet=quiet or as_json) as meter:
        for family in families:
            found.append(collect(artifact.design, artifact.weights_in(family.domain), family, horizon, runs))
            meter.update(len(found) * runs, family.name)
    train, test = ([each.of(part) for each in found] for part in (slice(runs // 2), slice(runs // 2, runs)))
    told = {label: probes.probe(label, train, test) for label in LABELS}
    spread = diversity.diversity(found)
    diversity.draw(output, found)
    groups = artifact.design.tensors.groups
    content = {"tasks": list(names), "horizon": horizon, "runs": runs, "inputs": list(groups), "picture": str(output),
               "probes": {label: each.to_config() for label, each in told.items()}, "diversity": spread.to_config()}
    emit(content, as_json, [
        f"{spread.size} numbers a tensor, made from: {', '.join(groups)}; the controller is "
        f"{'told' if TOLD & set(groups) else 'not told'} how far a run is",
        f"{runs} runs of {horizon} steps on each of {', '.join(each.family for each in found)}; "
        f"probes see half of the runs and are tested on the others", "",
        *(_tells(label, each) for label, each in told.items()), "", *_in_words(spread), "", f"wrote {output}"])


def _tells(label: str, found: "Probe") -> str:
    return (f"{label + ':':<12}told in {found.accuracy:.1%} of cases (balanced), by chance {found.chance:.1%}, from "
            f"shuffled labels {found.shuffled:.1%}, from what the controller sees {found.inputs:.1%}")


def _in_words(found: "Diversity") -> list[str]:
    verdict = ("collapsed: next to one number or none" if found.is_collapsed else "not collapsed")
    return [f"diversity:  {found.directions:.2f} of {found.size} directions are used ({verdict}); "
            f"{found.directions_between_tensors:.2f} between tensors at a step, "
            f"{found.directions_along_time:.2f} along a run; effective rank {found.effective_rank:.2f}",
            f"            {found.varying:.1%} of the mean square varies; of that, tensors explain "
            f"{found.tensor_share:.0%} (families {found.family_share:.0%}) and steps {found.step_share:.0%}"]
