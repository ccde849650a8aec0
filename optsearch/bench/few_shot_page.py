"""The results of a few-shot comparison for a person: tables and a page."""

from collections.abc import Sequence
from pathlib import Path

import torch

from optsearch.bench.few_shot import (
    ADAPTING,
    ADAPTING_PART,
    FROM_SCRATCH,
    LEARNING_RATE,
    LONGER,
    METHODS,
    NUM_STEPS,
    NUM_TASKS,
    PLAIN,
    SCRATCH_PART,
    UNITS,
    Comparison,
    Row,
)
from optsearch.bench.files import write_whole
from optsearch.evaluation.metrics import Interval, bootstrap
from optsearch.tables import Table

ALL = "all"
CHOSEN_ON = ("digits_autoencoder/32-6", "patches_autoencoder/48-16-48", "keywords_cnn/16x16")


def reaching(rows: Sequence[Row], method: str, scratch: str) -> list[str]:
    """The families on which adapting the method's start gets at least as low as learning from scratch does."""
    return [family for family in dict.fromkeys(row["family"] for row in rows)
            if interval(_chosen(rows, method), family).value <= interval(_chosen(rows, scratch), family).value]


def winner(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Of `methods` the one whose starts, adapted, have the lowest value over all families."""
    return min(methods, key=lambda method: interval(_chosen(rows, method)).value)


def interval(rows: Sequence[Row], family: str = ALL) -> Interval:
    """Interquartile mean over seeds, of one family or of the mean over all that there are."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if family in (ALL, row["family"]):
            by_seed.setdefault(row["seed"], []).append(row["value"])
    return bootstrap([torch.tensor([sum(values) / len(values) for values in by_seed.values()])], 0)


def tables(rows: Sequence[Row]) -> list[Table]:
    """What is reached, and from where."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    head = ("learned", *families, "all")
    scratch, adapted, untouched = (
        [(method, _chosen(rows, method)) for method in FROM_SCRATCH],
        [(method, _chosen(rows, method)) for method in (*METHODS, *LONGER)],
        [(method, _chosen(rows, method, untouched=True)) for method in (*METHODS, *LONGER)])
    ways = [*((f"from {method}, {some[0]['inner_steps']:,}", some) for method, some in scratch),
            *((f"{method} start, {some[0]['inner_steps']:,}", some) for method, some in adapted)]
    counts = [(method, *(_count(reaching(rows, method, scratch), len(families)) for scratch in FROM_SCRATCH),
               str(interval(some))) for method, some in adapted]
    return [
        Table("What is reached", "Values (below), by how it was learned and for how many inner steps.", head,
              [_line(label, some, families) for label, some in ways]),
        Table("How often adapting reaches what learning from scratch does", "Families on which the adapted start's "
              "value is at most that of learning from scratch.",
              ("start", *(f"from {way}" for way in FROM_SCRATCH), "value over all"), counts),
        Table("Before adapting", "Values of the starts as they are.", head,
              [_line(f"{method} start", some, families) for method, some in untouched])]


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the tables come to, in plain words."""
    best, few_shot = winner(rows, METHODS), winner(rows, [method for method in METHODS if method != PLAIN])
    num_families = len({row["family"] for row in rows})
    default, better = (len(reaching(rows, best, way)) for way in FROM_SCRATCH)
    longer = [" and ".join(str(len(reaching(rows, method, way))) for way in FROM_SCRATCH) for method in LONGER]
    return [f"Adapting the {best} start with {ADAPTING_PART:.0%} of the budget, the lowest over all families, reaches "
            f"what learning from scratch does with {SCRATCH_PART:.0%} on {default} of {num_families} families where "
            f"that has the default settings, and on {better} where it has those of adapting; "
            f"starts that took longer on {', then on '.join(longer)}. "
            f"Lowest of the methods that learn a start for adapting is {few_shot}."]


def write(rows: Sequence[Row], comparison: Comparison, directory: Path) -> list[Path]:
    """`few_shot.md`; returns what was written."""
    share = f"{ADAPTING_PART:.0%} of a family's budget of {comparison.budget:,} inner steps"
    settings = ", ".join(f"{name} {value:g}" for name, value in ADAPTING.items())
    lines = ["# Few-shot adaptation, measured", "",
             f"Made by `optsearch bench few-shot`. Starts of `{comparison.design}` are meta-trained on "
             f"{', '.join(comparison.learned_on)} in units up to {UNITS:.0f} times as large or small, for "
             f"{comparison.start_budget:,} inner steps by each method, others by plain meta-training for "
             f"{' and '.join(f'{budget:,}' for budget in comparison.longer_start_budgets)}, and then go on "
             f"with plain meta-training on one family of another domain at a time for {share}. "
             f"Few-shot methods look {NUM_STEPS} steps at the rate "
             f"{LEARNING_RATE} ahead, on {NUM_TASKS} tasks at a time. Values are log(relative loss) to AdamW + cosine "
             f"tuned on the family, on test rows after {comparison.horizon} steps, 10 inner seeds each: 0 ties, lower "
             f"is better. Interquartile means over {comparison.num_seeds} meta-seeds (95 % bootstrap intervals). What "
             f"starts are learned on, their units and the methods' steps were chosen on {', '.join(CHOSEN_ON)} "
             f"alone, and so were the settings of adapting ({settings}), after the default ones had fallen short on "
             "the families below. Learning from scratch has the default settings, and once more those of adapting.", "",
             *sentences(rows)]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    page = directory / "few_shot.md"
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page]


def _chosen(rows: Sequence[Row], method: str, *, untouched: bool = False) -> list[Row]:
    return [row for row in rows if row["method"] == method and (row["inner_steps"] == 0) == untouched]


def _count(reached: Sequence[str], num_families: int) -> str:
    return f"{len(reached)} of {num_families}" + (f" ({', '.join(reached)})" if reached else "")


def _line(label: str, rows: Sequence[Row], families: Sequence[str]) -> tuple[str, ...]:
    return (label, *(str(interval(rows, family)) for family in [*families, ALL]))
