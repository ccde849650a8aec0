"""The card of a learned optimizer: what it was learned on, how good it is, what it costs and where it fails."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from optsearch.errors import FileError
from optsearch.evaluation import BASELINE, LEARNED
from optsearch.evaluation.metrics import interquartile_mean
from optsearch.export import Artifact
from optsearch.optimizers.words import line
from optsearch.report.worth import trainings_in_steps
from optsearch.report.yardstick import title
from optsearch.tables import Table

# Families on which it ends so much above tuned AdamW count as failures; so many of the worst are named.
FAILS, NUM_NAMED = 1.05, 8
Content = Mapping[str, Any]


def card(name: str, artifact: Artifact, evaluation: Content, large: Content | None = None,
         lengths: Sequence[Content] = ()) -> list[str]:
    """Markdown, from what `optsearch evaluate --output` wrote as `evaluation.json`; `name` is what `load` is given.

    `large` is another such, of models far larger than those learned on; `lengths` are of all or some of the same
    families and seeds, over runs of other lengths.
    """
    costs = artifact.design.costs()
    evaluation = {**evaluation, "results": [result for each in (evaluation, *lengths) for result in each["results"]]}
    return [f"# {name}", "", _in_a_sentence(evaluation), "", "```python",
            f'optimizer = optsearch.load("{name}")(model.parameters(), num_steps={evaluation["horizon"]})', "```", "",
            "## What it is", "", *_learned_on(artifact), "",
            *_scores(evaluation, "How good it is").markdown(), "",
            *(text for each in lengths
              for text in (*_scores(each, f"Runs of {each['horizon']:,} steps").markdown(), "")),
            *_horizons(evaluation), *(_on_large(large) if large else ()),
            "## What it costs", "",
            f"{costs.num_weights:,} weights; a step makes {costs.flops_per_parameter:.0f} FLOPs of matrix products and "
            f"keeps {costs.state_bytes_per_parameter:.0f} bytes of state a parameter. A training step, model included, "
            f"takes {evaluation['seconds_ratio']:.2f} times that with AdamW (median over these small models).", "",
            "## When not to use it", "", *_failures(evaluation, large), "",
            "## A better one for your models", "",
            "An optimizer found for your kind of model is better than one for all kinds."
            + _payback(artifact, evaluation), "",
            "    optsearch study create mine --task ./my_tasks.py:mine", "    optsearch study run mine",
            "    optsearch export mine -o mine.safetensors"]


def read(path: Path) -> Content:
    """An `evaluation.json`; raises `FileError` where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["results"], content["duels"], content["horizon"]
        [found["num_parameters"] for found in content["families"].values()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is no evaluation.json ({error!r}); expected one that `optsearch evaluate --output` "
                        "wrote.") from error
    return content


def _in_a_sentence(evaluation: Content) -> str:
    ends = [f"{_interval(found['relative_loss'])} times that of {title(name)}"
            for name, found in evaluation["duels"].items() if name in (BASELINE, "adamw_default")]
    return (f"On {len(evaluation['families'])} families, {evaluation['horizon']} steps each and not tuned, its final "
            f"loss is {' and '.join(ends)}.")


def _learned_on(artifact: Artifact) -> Iterator[str]:
    design = line(artifact.design).strip("<>").removeprefix("LearnedOptimizer: ").partition(";")[0]
    yield f"Its parts: {design}."
    parts = artifact.provenance.get("averaged", [])
    if parts:
        yield f"The mean of the weights of {len(parts)} of one design, each learned by itself:"
    for part in parts or [artifact.provenance]:
        yield from _history(part)


def _history(source: Content | None) -> Iterator[str]:
    """What it was learned on, and before that what it began with."""
    while source and source.get("tasks"):
        minutes = max(1, round(source.get("seconds", 0) / 60))
        took = f" in {minutes:,} minute{'s' * (minutes > 1)} of one core" if "seconds" in source else ""
        best = f"; the best of {source['num_trials']} trials" if (source.get("num_trials") or 0) > 1 else ""
        settings = source.get("meta_training", {})
        yield (f"Meta-trained for {source['inner_steps']:,} inner steps{took}, of runs of up to "
               f"{settings.get('horizon', source.get('horizon'))} steps, on {', '.join(source['tasks'])}{best}.")
        source = source.get("initial")
        if source:
            yield "Before that:"


def _scores(evaluation: Content, heading: str) -> Table:
    rows = [(title(name), _interval(found["relative_loss"]), _interval(found["speedup"]),
             _interval(found["train_speedup"]), f"{found['num_better']} of {found['num_families']}",
             f"{found['worst']:.2f} on {found['worst_family']}")
            for name, found in evaluation["duels"].items()]
    count, horizon = len(evaluation["families"]), evaluation["horizon"]
    return Table(heading,
                 f"On {count} families, {horizon:,} steps each, not tuned; the others' learning rates are tuned on "
                 "each family but where it says default. Interquartile means with 95 % intervals: final loss ÷ theirs "
                 "(below 1 is better), and how many times sooner it reaches theirs.",
                 ("over", "relative loss", "speedup", "train speedup", "better", "worst"), rows)


def _horizons(evaluation: Content) -> list[str]:
    """A table, where there are several."""
    rows = []
    for horizon, found in _by_horizon(evaluation, LEARNED).items():
        trainings = found.values()
        means = (_mean(trainings, quantity) for quantity in ("relative_losses", "speedups", "train_speedups"))
        failed = sum(each["num_failed"] for each in trainings)
        total = sum(len(each["relative_losses"]) for each in trainings)
        rows.append((f"{horizon}", *(f"{value:.3f}" for value in means), f"{failed} of {total}",
                     f"{_itself(evaluation, horizon):.3f}"))
    table = Table("Shorter and longer runs",
                  f"Over {title(BASELINE)}, tuned anew at each length. Itself: its final losses ÷ its own after "
                  f"{evaluation['horizon']} steps, which is what more steps are worth.",
                  ("steps", "relative loss", "speedup", "train speedup", "failed", "AdamW itself"), rows)
    return [*table.markdown(), ""] if len(rows) > 1 else []


def _itself(evaluation: Content, horizon: int) -> float:
    """Of the tuned baseline, as in `yardstick.baseline_itself`, where there are both."""
    found = _by_horizon(evaluation, BASELINE)
    references = found[evaluation["horizon"]]
    # Seeds are counted from the first, so that fewer are the same.
    ratios = [now / then for family, at in found[horizon].items() if family in references
              for now, then in zip(at["final_losses"], references[family]["final_losses"], strict=False)]
    return float(interquartile_mean(torch.tensor(ratios)))


def _by_horizon(evaluation: Content, contender: str) -> dict[int, dict[str, Content]]:
    """What was measured of one of them, by family, the shortest runs first."""
    found: dict[int, dict[str, Content]] = {}
    for result in sorted(evaluation["results"], key=lambda result: (result["horizon"], result["family"])):
        found.setdefault(result["horizon"], {})[result["family"]] = result["contenders"][contender]
    return found


def _mean(trainings: Iterable[Content], quantity: str) -> float:
    return float(interquartile_mean(torch.tensor([value for each in trainings for value in each[quantity]])))


def _on_large(evaluation: Content) -> list[str]:
    duel = evaluation["duels"][BASELINE]
    rows = [(family, f"{found['num_parameters']:,}", f"{found['relative_loss']:.3f}", f"{found['seconds_ratio']:.2f}")
            for family, found in evaluation["families"].items()]
    found = Table("Far larger models", f"Over {title(BASELINE)}, tuned, {evaluation['horizon']} steps: relative loss "
                  f"{_interval(duel['relative_loss'])}, speedup {_interval(duel['speedup'])}, train speedup "
                  f"{_interval(duel['train_speedup'])}. Time: of a training step, ÷ AdamW's.",
                  ("family", "parameters", "relative loss", "time"), rows)
    return [*found.markdown(), ""]


def _failures(evaluation: Content, large: Content | None) -> Iterator[str]:
    losses = {family: found["relative_loss"] for family, found in evaluation["families"].items()}
    worst = sorted((family for family, loss in losses.items() if loss > FAILS), key=losses.__getitem__, reverse=True)
    if worst:
        named = ", ".join(f"{family} ({losses[family]:.2f})" for family in worst[:NUM_NAMED])
        yield (f"It ended more than 5 % above tuned {title(BASELINE)} on {len(worst)} of {len(losses)} families: "
               f"{named}{', ...' if len(worst) > NUM_NAMED else ''}.")
    else:
        yield f"It ended at most 5 % above tuned {title(BASELINE)} on all of {len(losses)} families."
    means = {horizon: _mean(found.values(), "relative_losses")
             for horizon, found in _by_horizon(evaluation, LEARNED).items()}
    for horizon, mean in means.items():
        if mean > FAILS and horizon != evaluation["horizon"]:
            yield f"On runs of {horizon:,} steps it ended at {mean:.2f} times the loss of {title(BASELINE)}."
    for family, found in large["families"].items() if large else ():
        if found["relative_loss"] > FAILS:
            yield f"On {family}, of {found['num_parameters']:,} parameters, at {found['relative_loss']:.2f} times."
    largest = max(found["num_parameters"] for found in (large or evaluation)["families"].values())
    yield (f"Nothing here was measured on runs of more than {max(means):,} steps, or on models of more than "
           f"{largest:,} parameters.")


def _payback(artifact: Artifact, evaluation: Content) -> str:
    """A sentence, where it is known what the search has cost."""
    spent, horizon = artifact.provenance.get("study_inner_steps"), evaluation["horizon"]
    if not spent:
        return ""
    speedup = evaluation["duels"][BASELINE]["train_speedup"]["value"]
    trainings = trainings_in_steps(spent, horizon, speedup)
    worth = (f"to be earned back, in inner steps, by {trainings:,.0f} runs of {horizon:,} steps" if isfinite(trainings)
             else "not to be earned back in inner steps")
    return (f" The search for this one took {spent:,} inner steps on its small models: at a train speedup of "
            f"{speedup:.2f} {worth} on models of that size.")


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
