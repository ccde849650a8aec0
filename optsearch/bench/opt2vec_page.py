"""The results of Opt2Vec from several meta-seeds for a person: tables, a page and a picture."""

from collections.abc import Sequence
from math import exp
from pathlib import Path

import torch

from optsearch.bench.files import write_whole
from optsearch.bench.opt2vec import (
    ACROSS,
    BY_HAND,
    DESIGN,
    FRESH,
    KNOWN,
    OTHER,
    Row,
    Stability,
    collected,
    learned,
    plan_of,
)
from optsearch.evaluation import diversity
from optsearch.evaluation.embeddings import LABELS
from optsearch.evaluation.metrics import bootstrap
from optsearch.optimizers import named_design
from optsearch.tables import Table


def tables(rows: Sequence[Row]) -> list[Table]:
    """Losses, probes and diversity."""
    return [_losses(rows), _probes(rows), _diversity(rows)]


def write(rows: Sequence[Row], stability: Stability, directory: Path) -> list[Path]:
    """`opt2vec.md` and, of the first meta-seed's embeddings on families never seen, `opt2vec.png`."""
    page, picture = directory / "opt2vec.md", directory / "opt2vec.png"
    weights = learned(stability, directory, 0).weights
    diversity.draw(picture, collected(stability, weights, stability.families[OTHER]))
    lines = ["# Opt2Vec: stability, generality and what its embeddings tell", "", _introduction(stability)]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    lines += ["", *_verdict(rows), "", "![Embeddings of the first meta-seed on the families never seen, by phase, "
              "loss trend and layer](opt2vec.png)"]
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page, picture]


def _introduction(stability: Stability) -> str:
    return (f"Made by `optsearch bench opt2vec`: `{DESIGN}`, meta-trained for {stability.budget:,} inner steps "
            f"({plan_of(stability, 0).num_meta_steps:,} meta-steps) on "
            f"{', '.join(stability.learned_on)} from {stability.num_seeds} meta-seeds, with "
            f"`{stability.settings.estimator}` over whole trainings of {stability.horizon} steps. The last "
            f"weights are measured on test rows with {stability.num_inner_seeds} inner seeds a family. Their learning "
            "rate is never tuned; that of AdamW + cosine is, for every family.")


def _learned(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["optimizer"] == DESIGN]


def _means(rows: Sequence[Row], names: Sequence[str]) -> torch.Tensor:
    """Values `[rows]`, the mean over families."""
    return torch.tensor([[row["values"][name] for name in names] for row in rows]).mean(1)


def _losses(rows: Sequence[Row]) -> Table:
    families = rows[0]["families"]
    lines = [*((name, where) for where, names in families.items() for name in names), *((where, "all") for where in
             families)]
    named = {name: [name] for names in families.values() for name in names} | families
    seeds, (by_hand,), (fresh,) = _learned(rows), _of(rows, BY_HAND), _of(rows, FRESH)
    found = []
    for name, where in lines:
        values = _means(seeds, named[name])
        others = [exp(float(_means([row], named[name]))) for row in (fresh, by_hand)]
        found.append((f"**{name}**" if where == "all" else name, where, f"{exp(float(values.mean())):.3f}",
                      f"{float(values.std()):.3f}", f"{exp(float(values.max())):.3f}",
                      *(f"{other:.3f}" for other in others)))
    return Table("Loss against tuned AdamW", "Final test loss ÷ that of AdamW + cosine with its learning rate tuned on "
                 "the family: below 1 is better. Geometric means over inner seeds and meta-seeds, the standard "
                 "deviation of log(relative loss) over meta-seeds, and the worst meta-seed; beside them the design "
                 "before meta-training, which is AdamW at a constant 0.01, and AdamW as it comes, at 0.001.",
                 ("family", "", "Opt2Vec", "deviation", "worst", "before", "AdamW as it comes"), found)


def _probes(rows: Sequence[Row]) -> Table:
    seeds, (fresh,) = _learned(rows), _of(rows, FRESH)
    lines = []
    for label in LABELS:
        for where in (KNOWN, OTHER, ACROSS):
            each = [row["probes"][label][where] for row in seeds]
            lines.append((label, where, _spread([one["accuracy"] for one in each], "{:.1%}"),
                          f"{min(one['accuracy'] for one in each):.1%}", f"{each[0]['chance']:.1%}",
                          f"{_mean([one['shuffled'] for one in each]):.1%}",
                          f"{_mean([one['inputs'] for one in each]):.1%}",
                          f"{fresh['probes'][label][where]['accuracy']:.1%}"))
    return Table("What a linear probe reads from embeddings", "Balanced accuracy on runs that the probe was not fitted "
                 "to, mean ± deviation over meta-seeds and the lowest. Phase is the third of the run, loss trend what "
                 f"the last tenth of losses did ({', '.join(LABELS['loss trend'])}). The controller sees "
                 f"{', '.join(named_design(DESIGN).tensors.groups)} of the last steps, and never how far a run is. "
                 "`inputs` is a probe on just that, `before` one on embeddings before meta-training.",
                 ("label", "families", "accuracy", "lowest", "chance", "shuffled labels", "inputs", "before"), lines)


def _diversity(rows: Sequence[Row]) -> Table:
    lines = [(str(row["seed"]) if row["optimizer"] == DESIGN else "before", where,
              *(f"{found[name]:.2f}" for name in ("directions", "directions_between_tensors", "directions_along_time",
                                                  "effective_rank")),
              *(f"{found[name]:.0%}" for name in ("varying", "tensor_share", "step_share")),
              "yes" if found["is_collapsed"] else "no")
             for row in [*_learned(rows), *_of(rows, FRESH)] for where, found in row["diversity"].items()]
    size = _learned(rows)[0]["diversity"][KNOWN]["size"]
    return Table("Diversity of embeddings", f"Directions in use, of {size} (participation ratio of the covariance): of "
                 "all embeddings, between tensors at a step, along a run; effective rank; the part of the mean square "
                 "that varies, and how much of that which tensor it is, and which step, explain. Collapsed is below "
                 f"{diversity.LEAST_DIRECTIONS} directions, or next to nothing that varies.",
                 ("meta-seed", "families", "directions", "between tensors", "along a run", "effective rank", "varies",
                  "by tensor", "by step", "collapsed"), lines)


def _verdict(rows: Sequence[Row]) -> list[str]:
    """What holds and what does not, in sentences."""
    seeds, families = _learned(rows), rows[0]["families"]
    lines = ["## What holds and what does not", ""]
    for where, names in families.items():
        strata = [torch.tensor([row["values"][name] for row in seeds]) for name in names]
        found = bootstrap(strata, 0)
        num_better = int((_means(seeds, names) < 0).sum())
        beaten = sum(float(stratum.mean()) < 0 for stratum in strata)
        by_hand, before = (_wins(seeds, _of(rows, other)[0], names) for other in (BY_HAND, FRESH))
        lines.append(f"- Families {where}: interquartile mean of the relative loss {exp(found.value):.3f} "
                     f"({exp(found.low):.3f} to {exp(found.high):.3f}); better than tuned AdamW on {beaten} of "
                     f"{len(names)}, and from {num_better} of {len(seeds)} meta-seeds on the mean of all. Better than "
                     f"AdamW as it comes on {by_hand} of {len(names)}, than itself before meta-training on {before}.")
    for label in LABELS:
        each = [row["probes"][label][ACROSS] for row in seeds]
        above = {name: 100 * _mean([one["accuracy"] - one[name] for one in each]) for name in ("chance", "inputs")}
        lines.append(f"- Fitted to families learned on and tested on those never seen, a probe for {label} is "
                     f"{above['chance']:+.1f} points from chance, and {above['inputs']:+.1f} from one that sees "
                     "what the controller sees.")
    collapsed = {where: sum(row["diversity"][where]["is_collapsed"] for row in seeds) for where in families}
    lines.append("- Embeddings are collapsed from " + " and ".join(
        f"{count} of {len(seeds)} meta-seeds on families {where}" for where, count in collapsed.items()) + ".")
    return lines


def _wins(seeds: Sequence[Row], other: Row, names: Sequence[str]) -> int:
    """On how many families the mean over meta-seeds is below the other's value."""
    return sum(_mean([row["values"][name] for row in seeds]) < other["values"][name] for name in names)


def _of(rows: Sequence[Row], optimizer: str) -> list[Row]:
    return [row for row in rows if row["optimizer"] == optimizer]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float], shown: str) -> str:
    return f"{shown.format(_mean(values))} ± {shown.format(float(torch.tensor(values).std()))}"
