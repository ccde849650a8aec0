"""Whether adapting while a model trains is worth it: on problems that change meanwhile, and on those that don't."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optsearch import progress
from optsearch.adaptation import OnlineOptimizer
from optsearch.bench.files import write_whole
from optsearch.evaluation.metrics import bootstrap
from optsearch.export import Artifact, LearnedTorchOptimizer, OptimizerModule
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.search.parallel import each
from optsearch.seeds import generator
from optsearch.tables import Table
from optsearch.tasks import families_of
from optsearch.trees import Tree

Row = dict[str, Any]
DESIGN, LEARNED_ON, HORIZON, BUDGET = "adamw_mlp", ("digits_mlp", "keywords_mlp", "tabular_mlp"), 400, 200_000
# Two that the optimizer was learned on, two that it never saw.
FAMILIES = ("digits_mlp/64", "keywords_mlp/24x16", "patches_mlp/48x1", "digits_cnn/64")
NUM_CHANGES = 3
LAST_PART = 0.1
MIN_LOSS = 1e-6


@dataclass(frozen=True)
class Change:
    """What happens to a problem: its batches and the scale of its loss in each quarter of a run."""

    description: str
    batch: Callable[[Tree, int, torch.Generator], Tree] = lambda batch, quarter, stream: batch
    scale: Callable[[int], float] = lambda quarter: 1.0


def _other_labels(batch: Tree, quarter: int, stream: torch.Generator) -> Tree:
    """A class is called something else in every quarter."""
    targets = batch["targets"]
    num_classes = int(batch["num_classes"])
    return batch | {"targets": (targets + quarter) % num_classes}


def _other_inputs(batch: Tree, quarter: int, stream: torch.Generator) -> Tree:
    """Half of the inputs have their sign turned, others in every quarter."""
    signs = (torch.rand(batch["inputs"].shape[1:], generator=stream) < 0.5) * 2.0 - 1 if quarter else 1.0
    return batch | {"inputs": batch["inputs"] * signs}


CHANGES: Mapping[str, Change] = {
    "nothing": Change("nothing changes"),
    "labels": Change("classes are renamed", _other_labels),
    "inputs": Change("half of the inputs change their sign", _other_inputs),
    "scale": Change("the loss is 10, 1, 0.1 times as large", scale=lambda quarter: (1.0, 10.0, 1.0, 0.1)[quarter]),
}
Make = Callable[[OptimizerModule, list[Tensor], int], LearnedTorchOptimizer]
METHODS: Mapping[str, Make] = {
    "frozen": lambda module, params, seed: module(params, num_steps=HORIZON),
    "online": lambda module, params, seed: OnlineOptimizer(module, params, num_steps=HORIZON, seed=seed),
    "online, nothing tried": lambda module, params, seed: OnlineOptimizer(module, params, num_steps=HORIZON,
                                                                          exploration_rate=0.0),
}


def meta_trained(path: Path, seed: int = 0, *, quiet: bool = False) -> None:
    """Leave a learned optimizer at `path`, unless there is one."""
    if path.exists():
        return
    settings = MetaTraining(horizon=HORIZON)
    plan = Plan(named_design(DESIGN), families_of(LEARNED_ON), settings, BUDGET, 10, seed)
    with progress.meter(f"meta-training {DESIGN}", BUDGET, quiet=quiet) as meter:
        for point in meta_train(plan):
            meter.update(point.inner_steps)
    Artifact(plan.optimizer, point.weights, {"meta_training": asdict(settings), "tasks": list(LEARNED_ON),
                                             "horizon": HORIZON, "seed": seed}).save(path)


def measure(path: Path, num_seeds: int, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """Every method from every seed on every family under every change."""
    asked = [(str(path), {"family": family, "change": change, "method": method, "seed": seed})
             for family in FAMILIES for change in CHANGES for seed in range(num_seeds) for method in METHODS]
    with progress.meter("trainings", len(asked), quiet=quiet) as meter:
        rows = []
        for row in each(_run, asked, num_workers):
            rows.append(row)
            meter.update(len(rows), f"{row['change']} on {row['family']}")
    order = {tuple(row.values()): index for index, (_, row) in enumerate(asked)}
    return sorted(rows, key=lambda row: order[tuple(row[name] for name in ("family", "change", "method", "seed"))])


def tables(rows: Sequence[Row]) -> list[Table]:
    """Losses against those of the frozen optimizer."""
    lines = [(CHANGES[change].description, method, *_ratios(rows, change, method)) for change in CHANGES
             for method in METHODS if method != "frozen"]
    return [Table("Adapting while the model trains", "Mean loss of the whole run and of its last tenth, ÷ those of the "
                  "frozen optimizer with the same seed: interquartile means over families and seeds (95 % bootstrap "
                  "intervals).", ("change", "method", "mean loss", "last tenth"), lines)]


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """`online.md`; returns what was written."""
    lines = ["# Online adaptation, measured", "",
             f"Made by `optsearch bench online`: `{DESIGN}`, meta-trained for {BUDGET:,} inner steps on "
             f"{', '.join(LEARNED_ON)}, trains {', '.join(FAMILIES)} for {HORIZON} steps in a plain torch loop, "
             f"frozen and with `OnlineOptimizer`'s defaults, from {len({row['seed'] for row in rows})} seeds each. "
             f"Problems change {NUM_CHANGES} times: at a quarter, a half and three quarters of the run."]
    for table in tables(rows):
        lines += ["", *table.markdown()]
    page = directory / "online.md"
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [page]


def _ratios(rows: Sequence[Row], change: str, method: str) -> Iterator[str]:
    for name in ("mean_loss", "last_loss"):
        strata = []
        for family in FAMILIES:
            found = {way: {row["seed"]: row[name] for row in rows if (row["family"], row["change"], row["method"])
                           == (family, change, way)} for way in ("frozen", method)}
            strata.append(torch.tensor([log(found[method][seed] / frozen) for seed, frozen in found["frozen"].items()]))
        logs = bootstrap(strata, 0)
        value, low, high = torch.tensor([logs.value, logs.low, logs.high]).exp().tolist()
        yield f"{value:.3f} ({low:.3f} to {high:.3f})"


def _run(entry: tuple[str, Row]) -> Row:
    """One training, as plain data."""
    torch.set_num_threads(1)
    path, row = entry
    (family,) = families_of([row["family"]])
    change, stream = CHANGES[row["change"]], generator(row["seed"], "online", row["family"])
    task = family.sample(stream)
    params: Tree = {name: nn.Parameter(leaf) for name, leaf in family.init(stream, task).items()}
    optimizer = METHODS[row["method"]](OptimizerModule(Artifact.load(Path(path))), list(params.values()), row["seed"])
    num_rows, losses = len(family.data.inner["targets"]), []
    extra = {"num_classes": family.data.inner["targets"].max() + 1}
    for step in range(HORIZON):
        quarter = step * (NUM_CHANGES + 1) // HORIZON
        chosen = torch.randint(num_rows, (family.batch_size,), generator=stream)
        batch = {name: leaf[chosen] for name, leaf in family.data.inner.items()}
        batch = change.batch(batch | extra, quarter, generator(row["seed"], "change", quarter))
        loss: Tensor = family.loss(params, {name: leaf for name, leaf in batch.items() if name not in extra} | task)
        losses.append(min(family.loss_cap, max(MIN_LOSS, loss.item())))
        loss = loss * change.scale(quarter)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
    last = losses[-round(LAST_PART * HORIZON):]
    return row | {"mean_loss": sum(losses) / len(losses), "last_loss": sum(last) / len(last)}
