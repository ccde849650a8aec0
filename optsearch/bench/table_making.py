"""Learning curves of designs drawn at random from a space, made with our own engine: the table for `bench search`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from optsearch import evaluation, progress
from optsearch.bench.design_table import Curve, DesignTable
from optsearch.errors import FileError
from optsearch.meta_training import Outcome, Plan, Point, meta_train
from optsearch.search.parallel import each
from optsearch.search.rows import random_suggest
from optsearch.search.spaces import load_space
from optsearch.seeds import seed_for
from optsearch.tasks import families_of

NUM_POINTS = 25
FIRST_PART = 0.01
# As fine as the first budgets are apart.
NUM_SNAPSHOTS = 100
# Every so many designs one has a second meta-training, which says how far chance alone sets curves apart.
EVERY_REPEATED = 4
_opponents: dict[tuple[str, int], evaluation.Opponent] = {}


@dataclass(frozen=True)
class Recipe:
    """What a table is made of: designs of a space, each meta-trained on each family alone for `budget` inner steps."""

    families: tuple[str, ...] = ("digits_mlp/32", "siren_image/16")
    num_designs: int = 300
    space: str = "all"
    horizon: int = 60
    budget: int = 16_000

    @property
    def budgets(self) -> tuple[int, ...]:
        """Log-spaced, from `FIRST_PART` of the budget to all of it."""
        steps = NUM_POINTS - 1
        return tuple(round(self.budget * FIRST_PART ** (1 - index / steps)) for index in range(NUM_POINTS))

    def empty(self) -> DesignTable:
        space = load_space(self.space)
        return DesignTable(self.space, space.text, self.horizon, self.budgets,
                           tuple(_params(self.space, index) for index in range(self.num_designs)))

    def entries(self) -> Iterator[tuple[int, str, int]]:
        """Design, family and meta-seed; design by design, so that a part of a table is a small table."""
        for design in range(self.num_designs):
            for seed in (0, 1) if design % EVERY_REPEATED == 0 else (0,):
                for family in self.families:
                    yield design, family, seed


def make_table(recipe: Recipe, path: Path, num_workers: int, *, quiet: bool = False) -> DesignTable:
    """Make what `path` doesn't have yet; a kill loses nothing that was done. Raises `FileError` for another table."""
    families_of(recipe.families)
    table = recipe.empty()
    if path.exists():
        found = DesignTable.load(path)
        if (found.space_text, found.horizon, found.budgets) != (table.space_text, table.horizon, table.budgets):
            raise FileError(f"{path} is a table of another space, horizon or budget. Choose another file.")
        table = replace(table, curves=found.curves)
    waiting = [(recipe, *entry) for entry in recipe.entries() if entry not in table.known]
    with progress.meter("bench table", max(1, len(waiting)), quiet=quiet) as meter:
        for done, curve in enumerate(each(_run, waiting, num_workers)):
            table = table.with_curve(curve)
            table.save(path)
            meter.update(done + 1, f"design {curve.design} on {curve.family}")
    return table


def _params(space: str, index: int) -> dict[str, Any]:
    """The parameters of design number `index`."""
    chosen: dict[str, Any] = {}
    draw = random_suggest(index)

    def suggest(name: str, distribution: Any) -> Any:
        chosen[name] = draw(name, distribution)
        return chosen[name]

    load_space(space).suggest(suggest)
    return chosen


def _run(entry: tuple[Recipe, int, str, int]) -> Curve:
    """Meta-train, keep the weights along the way, and measure them all at once in the end."""
    recipe, index, name, seed = entry
    torch.set_num_threads(1)
    started = time.monotonic()
    design, settings = load_space(recipe.space).suggest(random_suggest(index))
    settings = replace(settings, horizon=recipe.horizon)
    plan = Plan(design, families_of([name]), settings, recipe.budget, NUM_SNAPSHOTS,
                seed_for(seed, "design_table", index), compiling="never")
    # A meta-step can be longer than the first budgets.
    plan = replace(plan, num_points=min(NUM_SNAPSHOTS, recipe.budget // plan.steps_per_meta_step))
    points = list(meta_train(plan))
    kept = list(_at(recipe.budgets, points))
    trees = [point.weights if point else plan.first_weights() for point in kept]
    weights = {leaf: torch.stack([tree[leaf] for tree in trees]) for leaf in trees[0]}
    values = evaluation.values(design, weights, [_opponent(name, recipe.horizon)])
    return Curve(index, name, seed, tuple(values.tolist()),
                 tuple(point.failed_share if point else 0.0 for point in kept),
                 (points[-1].outcome or Outcome.COMPLETED).name, round(time.monotonic() - started, 1))


def _at(budgets: Sequence[int], points: Sequence[Point]) -> Iterator[Point | None]:
    """The last point that each budget pays for, None where it pays for none; no more after an early end."""
    for budget in budgets:
        paid = [point for point in points if point.inner_steps <= budget]
        yield paid[-1] if paid else None
        if len(paid) == len(points) and points[-1].outcome is not Outcome.COMPLETED:
            return


def _opponent(family: str, horizon: int) -> evaluation.Opponent:
    """The tuned baseline, tuned once a process."""
    if (family, horizon) not in _opponents:
        _opponents[family, horizon] = evaluation.opponent(families_of([family])[0], horizon)
    return _opponents[family, horizon]
