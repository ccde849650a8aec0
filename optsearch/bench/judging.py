"""What benchmarks of meta-trainings share: results in a file that a stopped one goes on from, and one judge."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from optsearch import evaluation, progress
from optsearch.bench.files import write_whole
from optsearch.errors import FileError
from optsearch.evaluation import Opponent
from optsearch.evaluation.measurements import measured
from optsearch.evaluation.selection import LEAST_RELATIVE_LOSS, log_relative_losses
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.parallel import each
from optsearch.tasks import TaskFamily, families_of
from optsearch.trees import Tree

Row = dict[str, Any]


@dataclass
class Judge:
    """Holds weights against tuned AdamW + cosine on test rows, `num_seeds` inner trainings a family.

    Each family's opponent is tuned once.
    """

    horizon: int
    num_seeds: int = 10
    _opponents: dict[str, Opponent] = field(default_factory=dict, init=False)

    def log_losses(self, design: LearnedOptimizer, weights: Tree, names: Sequence[str]) -> dict[str, float]:
        """log(relative loss) on each family of `names` (families or tasks), the mean over seeds."""
        return {family.name: self.log_loss(design, weights, family) for family in families_of(names)}

    def log_loss(self, design: LearnedOptimizer, weights: Tree, family: TaskFamily) -> float:
        """That on one family, whose name is no other's."""
        batch = {name: leaf[None] for name, leaf in weights.items()}
        return round(float(log_relative_losses(design, batch, self._against(family)).mean()), 5)

    def log_loss_by_hand(self, name: str, family: TaskFamily) -> float:
        """That of one of `OPPONENTS`."""
        against = self._against(family)
        relative = measured(evaluation.hand_made(name), against.setup).finals / against.finals
        return round(float(relative.clamp(min=LEAST_RELATIVE_LOSS).log().mean()), 5)

    def _against(self, family: TaskFamily) -> Opponent:
        if family.name not in self._opponents:
            setup = evaluation.report_setup(family, self.horizon, num_seeds=self.num_seeds)
            finals = measured(evaluation.hand_made(evaluation.BASELINE), setup).finals
            self._opponents[family.name] = Opponent(setup, finals)
        return self._opponents[family.name]


@dataclass(frozen=True)
class Results:
    """Rows in the file `path`: what was asked, and what came of it."""

    path: Path

    def hold(self, asked: Sequence[Row], run: Callable[[Row], Row], num_workers: int, *,
             quiet: bool = False) -> list[Row]:
        """A row of `asked` with what `run` makes of it, for each of them and in their order.

        What the file has is not run again, and a kill loses nothing done. Rows are JSON data.
        """
        rows = self.read()
        found = {_key(wanted): row for wanted in asked for row in rows if wanted.items() <= row.items()}
        waiting = [wanted for wanted in asked if _key(wanted) not in found]
        with progress.meter(self.path.stem.replace("_", " "), max(1, len(waiting)), quiet=quiet) as meter:
            for done, (wanted, row) in enumerate(each(_Work(run), waiting, num_workers), 1):
                found[_key(wanted)] = row
                rows.append(row)
                write_whole(self.path, (json.dumps({"runs": rows}, indent=1, allow_nan=False) + "\n").encode())
                meter.update(done, ", ".join(value for value in wanted.values() if isinstance(value, str)))
        return [found[_key(wanted)] for wanted in asked]

    def read(self) -> list[Row]:
        """None where there is no file yet; `FileError` for another kind of file."""
        try:
            return list(json.loads(self.path.read_text())["runs"]) if self.path.exists() else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{self.path} holds no results of a benchmark. Choose another folder with --output, or "
                            "move it away.") from error


@dataclass(frozen=True)
class _Work:
    run: Callable[[Row], Row]

    def __call__(self, wanted: Row) -> tuple[Row, Row]:
        torch.set_num_threads(1)
        return wanted, wanted | self.run(wanted)


def _key(wanted: Row) -> str:
    return json.dumps(wanted, sort_keys=True)
