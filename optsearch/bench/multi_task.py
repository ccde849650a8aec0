"""One optimizer for several domains, with and without adapters, against one for each."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from optsearch.adaptation.adapters import is_adapted, with_adapters
from optsearch.adaptation.examples import of_family
from optsearch.adaptation.recognising import learned_recogniser
from optsearch.bench.files import write_whole
from optsearch.bench.judging import Judge, Results
from optsearch.evaluation.metrics import bootstrap
from optsearch.export.adapters import effective
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.seeds import seed_for
from optsearch.tables import Table
from optsearch.tasks import TaskDistribution, TaskFamily, families_of, suites, tasks_of

Row = dict[str, Any]
DESIGN, HORIZON, BUDGET, NUM_POINTS = "adamw_mlp", 100, 40_000, 8
# What is learned on in each domain, and another network that is only measured.
LEARNED = {"vision": "digits_mlp", "speech": "keywords_mlp", "tabular": "tabular_mlp", "scientific": "siren_image"}
MEASURED = {"vision": "patches_cnn", "speech": "keywords_gru", "tabular": "regression_mlp",
            "scientific": "pinn_poisson"}
ADAPTERS, SHARED, SPECIALIST, RECOGNISER = "adapters", "shared", "specialist", "recogniser"
ASKED_SHARE = 0.9
# Which tasks a recogniser has for examples: all that are for meta-training, or those of `LEARNED`.
ALL, SOME = "meta-training tasks", "tasks learned on"
WAYS = {ADAPTERS: "one with adapters", SHARED: "one without", SPECIALIST: "one for each"}


def _is_example(domain: str, task: str) -> bool:
    return task in suites.roles(domain).meta_training


def _is_reserved(domain: str, task: str) -> bool:
    """Whether nothing is learned on it, ever."""
    return task in suites.roles(domain).validation + suites.roles(domain).held_out


GROUPS: dict[str, dict[str, Callable[[str, str], bool]]] = {
    ALL: {"meta-training": _is_example, "validation and held out": _is_reserved},
    SOME: {"learned on": lambda domain, task: task == LEARNED[domain],
           "validation and held out": _is_reserved, "all others": lambda domain, task: task != LEARNED[domain]}}


@dataclass(frozen=True)
class Comparison:
    """Meta-trainings of one design on the domains of `LEARNED`, `budget` inner steps a domain.

    Domains are recognised in `num_runs` fresh runs of every family.
    """

    budget: int = BUDGET
    num_seeds: int = 3
    num_runs: int = 20

    def asked(self) -> list[Row]:
        """What is quick comes first, then one seed after the other, so that one that is stopped has all ways."""
        shared = [{"way": way, "domains": list(LEARNED)} for way in (ADAPTERS, SHARED)]
        alone = [{"way": SPECIALIST, "domains": [domain]} for domain in LEARNED]
        recognised = [{"way": RECOGNISER, "domains": list(LEARNED), "runs": self.num_runs, "seed": seed,
                       "examples": examples} for examples in (ALL, SOME) for seed in range(self.num_seeds)]
        same = {"design": DESIGN, "horizon": HORIZON}
        return recognised + [same | {"budget": self.budget * len(row["domains"]), "seed": seed} | row
                             for seed in range(self.num_seeds) for row in (*shared, *alone)]


def run(row: Row) -> Row:
    """One of `Comparison.asked`."""
    return _recognised(row) if row["way"] == RECOGNISER else _meta_trained(row)


def _meta_trained(row: Row) -> Row:
    """Measured on what was learned on, and on other networks."""
    design = named_design(row["design"])
    groups: dict[Sequence[TaskFamily], float] = {families_of([LEARNED[domain]]): 1.0 for domain in row["domains"]}
    plan = Plan(design, TaskDistribution.by_group(groups), MetaTraining(horizon=row["horizon"]), row["budget"],
                NUM_POINTS, row["seed"])
    for point in meta_train(with_adapters(plan) if row["way"] == ADAPTERS else plan):
        weights, outcome = point.weights, point.outcome
    judge, found = _judge(row["horizon"]), {}
    for domain in row["domains"]:
        names = (LEARNED[domain], MEASURED[domain])
        found[domain] = judge.log_losses(design, effective(weights, domain), names)
    return {"outcome": outcome.name if outcome else "", "values": found}


def _recognised(row: Row) -> Row:
    """How often runs of each family were taken for which domain."""
    domains, seed, guesses = row["domains"], row["seed"], {}
    tasks = [task for domain in domains for task in
             (suites.roles(domain).meta_training if row["examples"] == ALL else [LEARNED[domain]])]
    recogniser = learned_recogniser(domains, families_of(tasks), seed)
    for family in families_of([task for domain in domains for task in tasks_of(domain)]):
        runs = (of_family(family, seed_for(seed, "fresh", index)) for index in range(row["runs"]))
        guesses[family.name] = Counter(domains[recogniser.recognise(each.params, each.gradients)] for each in runs)
    return {"guesses": guesses}


def hold(comparison: Comparison, path: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """All meta-trainings; what `path` has already is not run again."""
    return Results(path).hold(comparison.asked(), run, num_workers, quiet=quiet)


@cache
def _judge(horizon: int) -> Judge:
    """One a process, since it tunes an opponent for every family."""
    return Judge(horizon)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Values, and what adapters change."""
    parts = [(f"{where}, {what}", domains, tasks) for what, tasks in (("learned on", LEARNED), ("new", MEASURED))
             for where, domains in (*((domain, [domain]) for domain in LEARNED), ("all", list(LEARNED)))]
    values = [(name, *(_interval([strata[way] for strata in _values(rows, domains, tasks)]) for way in WAYS))
              for name, domains, tasks in parts]
    differences = [(name, *(_interval([strata[ADAPTERS] - strata[way] for strata in _values(rows, domains, tasks)])
                            for way in (SHARED, SPECIALIST))) for name, domains, tasks in parts]
    note = "interquartile means over families and seeds (95 % bootstrap intervals). Lower is better"
    return [Table("Values", f"log(relative loss), 0 ties with tuned AdamW: {note}.",
                  ("tasks", *WAYS.values()), values),
            Table("What adapters change", f"Value of {WAYS[ADAPTERS]}, minus that of the other from the same seed: "
                  f"{note}.", ("tasks", f"against {WAYS[SHARED]}", f"against {WAYS[SPECIALIST]}"), differences),
            *(_recognitions(rows, examples) for examples in (ALL, SOME))]


def _recognitions(rows: Sequence[Row], examples: str) -> Table:
    """Of recognisers that had these examples."""
    rows = [row for row in rows if row["way"] == RECOGNISER and row["examples"] == examples]
    lines: list[tuple[str, ...]] = []
    for group, belongs in GROUPS[examples].items():
        counts = {domain: sum((_guesses(rows, task) for task in tasks_of(domain) if belongs(domain, task)), Counter())
                  for domain in LEARNED}
        lines += [(f"{domain}, {group}", _share(each[domain], each.total()), *(str(each[other]) for other in LEARNED))
                  for domain, each in counts.items()]
        right, total = (sum(numbers) for numbers in zip(*((each[domain], each.total()) for domain, each in
                                                          counts.items()), strict=True))
        lines.append((f"all, {group}", _share(right, total), *("" for _ in LEARNED)))
    return Table(f"Domains recognised, from networks and {examples}", "Runs whose domain was recognised at their first "
                 f"step, by {len(rows)} recognisers, and what runs were taken for.",
                 ("tasks", "right", *(f"as {domain}" for domain in LEARNED)), lines)


def _guesses(rows: Sequence[Row], name: str) -> Counter[str]:
    """What runs of a family or a task were taken for, by all recognisers."""
    return sum((Counter(row["guesses"][family.name]) for row in rows for family in families_of([name])), Counter())


def _hard(rows: Sequence[Row]) -> str:
    """The families whose domain was recognised in fewer runs than were asked for."""
    found = [row for row in rows if row["way"] == RECOGNISER and row["examples"] == ALL]
    shares = {family.name: counts[domain] / counts.total() for domain in LEARNED for task in tasks_of(domain)
              for family in families_of([task]) for counts in [_guesses(found, family.name)] if counts}
    hard = sorted((share, name) for name, share in shares.items() if share < ASKED_SHARE)
    return ", ".join(f"{name} ({share:.0%})" for share, name in hard) or "none"


def _share(count: int, total: int) -> str:
    return f"{count / max(1, total):.1%} ({count} of {total})"


def _values(rows: Sequence[Row], domains: Sequence[str], tasks: dict[str, str]) -> list[dict[str, torch.Tensor]]:
    """For each family those of every way, `[seeds]`."""
    return [{way: torch.tensor([row["values"][domain][family.name] for row in rows
                                if row["way"] == way and domain in row["domains"]]) for way in WAYS}
            for domain in domains for family in families_of([tasks[domain]])]


def _interval(strata: Sequence[torch.Tensor]) -> str:
    found = bootstrap(strata, 0)
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """`multi_task.md`; returns what was written."""
    trained = [row for row in rows if row["way"] != RECOGNISER]
    budget, num_seeds = min(row["budget"] for row in trained), len({row["seed"] for row in trained})
    weights = named_design(DESIGN).init_weights(torch.Generator())
    num_offsets = sum(leaf.numel() for name, leaf in weights.items() if is_adapted(name))
    lines = ["# One optimizer for several domains, measured", "",
             f"Made by `optsearch bench multi-task`. The design `{DESIGN}` is meta-trained for trainings of {HORIZON} "
             f"steps, {budget:,} inner steps a domain, from {num_seeds} seeds: on {', '.join(LEARNED.values())} "
             f"({', '.join(LEARNED)}) together, with adapters ({num_offsets} offsets a domain to its "
             f"{sum(leaf.numel() for leaf in weights.values())} weights: readout, biases and schedule) and without, "
             f"and on each alone. All are measured on test rows of these tasks, and of one other network a domain "
             f"({', '.join(MEASURED.values())}), where the adapters are those of the task's domain."]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    lines += ["", "A recogniser learns from made-up networks of each domain, and from all meta-training tasks of these "
              "domains (in the last table only from those that the optimizer learned on). It sees shapes and first "
              f"gradients, no names and no data. Families recognised in fewer than {ASKED_SHARE:.0%} of runs: "
              f"{_hard(rows)}."]
    page = directory / "multi_task.md"
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page]
