"""Studies as objects, for notebooks and scripts: what the commands do, in short calls."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack
from warnings import warn

import torch

from optsearch.errors import UsageError
from optsearch.export import Artifact
from optsearch.pictures import Chart
from optsearch.report import page
from optsearch.report.charts import study_charts
from optsearch.report.headline import Headline, evaluate_file
from optsearch.report.material import Wanted, gather
from optsearch.report.measuring import ask
from optsearch.report.study_page import study_page
from optsearch.search import finalists as racing
from optsearch.search import study as studies
from optsearch.search.definition import ATTR, StudyDefinition, define, preset
from optsearch.search.finals import Finals
from optsearch.search.options import Names, Options, OptunaStudy
from optsearch.search.racing import Rules
from optsearch.search.slots import slots_of
from optsearch.search.snapshot import LOSS, Snapshot, Trial
from optsearch.tables import Table
from optsearch.watching import run_and_watch

if TYPE_CHECKING:
    import pandas

NUM_SHOWN = 5
# Of a frame, before the parameters.
FACTS = ("number", "state", "value", "loss_ratio", "in_brief", "family", "num_spent", "seconds", "started", "ended",
         "problem", "is_feasible")
COLUMNS = (*FACTS, "flops", "state_bytes")

class Study:
    """A study that exists, in the database at `storage` (a URL), `$OPTUNA_STORAGE` or `studies/optsearch.db`.

    What it tells is read anew each time. Raises `StudyError` with the names that exist.
    """

    def __init__(self, name: str, storage: str | None = None) -> None:
        self.name, self.store = name, studies.Store.at(storage)
        StudyDefinition.of(self.optuna)

    @classmethod
    def create(cls, name: str, *, preset: str | None = None, storage: str | None = None,
               **options: Unpack[Options]) -> Self:
        """Make a study from options, or from a `preset`: a shipped one or a .toml file, which only takes a `seed`.

        Raises `StudyError` for a name that is taken, and a `UsageError` for options that don't fit.
        """
        definition = _defined(options) if preset is None else _of_preset(preset, options)
        studies.Store.at(storage).create(name, definition)
        return cls(name, storage)

    def run(self, trials: int = 40, workers: int = 1, device: str = "cpu", *, stop_gain: float | None = None,
            quiet: bool = True) -> Self:
        """Run until it has so many finished trials, or with freeze-thaw has spent the steps of so many whole ones.

        `device` may be a list such as "cuda:0,cuda:1". `stop_gain` is a new bound below which it ends by itself. Trials
        are processes of their own: a script needs `if __name__ == "__main__":`. Interrupted, the same call goes on.
        """
        if stop_gain is not None:
            self.store.change_stop_gain(self.name, stop_gain)
        if missing := self.store.missing(self.name):
            warn(f"{self.name}: not there to learn from any more: {', '.join(missing)}", stacklevel=2)
        with _same_threads():
            run_and_watch(self.store, self.name, slots_of(device, workers), trials, quiet=quiet)
        return self

    def finalists(self, *others: "Study | str", top: int = 4, confidence: float = 0.95, max_seeds: int = 8,
                  margin: float = 0.01, workers: int = 1, device: str = "cpu", quiet: bool = True) -> Finals:
        """Meta-train the best trials again with new seeds until the best is known, whose weights `export` then takes.

        `others` are studies to compare with. See `optsearch study finalists --help`.
        """
        names = (self.name, *(other.name if isinstance(other, Study) else other for other in others))
        asked = racing.Asked(names, top, Rules(confidence, max_seeds, margin))
        with _same_threads():
            return racing.hold(self.store, asked, slots_of(device, workers), quiet=quiet)

    def export(self, path: str | Path, trial: int | None = None) -> Artifact:
        """Write a trial's learned optimizer to a file that `optsearch.load` reads; by default that of the best."""
        return studies.export(self.store, self.name, Path(path), trial)

    def evaluate(self, trial: int | None = None, **options: Any) -> Headline:
        """How good the best is, or another trial; `options` are those of `optsearch.evaluate`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "best.safetensors"
            self.export(path, trial)
            return evaluate(path, **{"storage": self.store.url} | options)

    def report(self, folder: str | Path | None = None, *, evaluate: bool = True, seeds: int = 16, workers: int = 1,
               quiet: bool = True) -> list[Path]:
        """Write the page about it, as HTML and as Markdown, into `reports/NAME` or a folder; gives what was written."""
        place = Path(folder or Path("reports") / page.file_name(self.name))
        wanted = Wanted(directory=place, is_evaluated=evaluate, num_seeds=seeds, num_workers=workers, quiet=quiet)
        with _same_threads():
            return page.write(study_page(gather(self.store, self.name, wanted)), place)

    def stop(self) -> None:
        """Let no worker start more trials, here or elsewhere."""
        self.store.stop(self.name)

    def delete(self) -> None:
        """The study with its curves, weights and pictures."""
        self.store.delete(self.name)

    @property
    def snapshot(self) -> Snapshot:
        """All that is known at this moment."""
        return Snapshot.of(self.store, self.name)

    @property
    def definition(self) -> StudyDefinition:
        return StudyDefinition.of(self.optuna)

    @property
    def trials(self) -> list[Trial]:
        """In the order of being started; duplicates and designs over the limits are left out."""
        return list(self.snapshot.trials)

    @property
    def best(self) -> Trial | None:
        """The complete trial of the lowest value within the limits; None before there is one."""
        return self.snapshot.best

    @property
    def optuna(self) -> OptunaStudy:
        """The study underneath."""
        return self.store.load(self.name)

    def charts(self) -> dict[str, Chart]:
        """Those of the report that have something to show; each draws itself in a notebook."""
        return study_charts(self.snapshot)

    def to_frame(self) -> "pandas.DataFrame":
        """A row a trial; what the search chose is in columns `params_...`, empty where it was not asked."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("a frame needs pandas, which is not installed. pip install 'optsearch[notebook]', or "
                             "read `study.trials`.") from error
        rows = [_row(trial) for trial in self.trials]
        return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=list(COLUMNS))

    def __repr__(self) -> str:
        snapshot = self.snapshot
        best = f"best: {snapshot.best!r}" if snapshot.best else "no complete trial yet"
        return f"<Study {self.name!r}: {_counts(snapshot)}; {best}>"

    def _repr_html_(self) -> str:
        snapshot, definition = self.snapshot, self.definition
        found = [] if (best := snapshot.best) is None else [
            (LOSS, f"{best.loss_ratio:.3f}"), ("best", f"trial {best.number}: {best.in_brief}")]
        found += [("finalists", snapshot.finals["statement"])] if snapshot.finals else []
        asked = [("trials", _counts(snapshot)), ("inner steps spent", f"{snapshot.num_spent:,}"),
                 ("space", definition.space), ("tasks", ", ".join(definition.tasks)),
                 ("horizon", f"{definition.horizon:,} inner steps"), ("database", snapshot.url)]
        return Table(f"Study {self.name}", "", ("", ""), [*found, *asked])._repr_html_() + _best_trials(snapshot)


def list_studies(storage: str | None = None) -> list[Study]:
    """Those of a database that optsearch made, by name."""
    store = studies.Store.at(storage)
    return [Study(name, store.url) for name in store.names() if ATTR in store.load(name).user_attrs]


def evaluate(path: str | Path, tasks: Names = (), *, suite: str | None = None, opponents: Names = (),
             horizon: int = 0, seeds: int | None = None, seed: int = 0, tune: bool = False, workers: int = 1,
             storage: str | None = None, quiet: bool = True) -> Headline:
    """Compare an exported optimizer with tuned AdamW + cosine, on fresh seeds and test data.

    Without tasks on what its study held out. `suite` (a domain, "standard" or "study") brings tasks, all opponents and
    more horizons. `tune` also tunes the learned one's learning rate. What the database knows is not measured again.
    """
    asked = ask(Path(path), tasks=_listed(tasks), suite=suite, opponents=_listed(opponents), num_seeds=seeds,
                horizon=horizon, first_seed=seed, tunes_learning_rate=tune, url=storage)
    with _same_threads():
        return evaluate_file(asked, workers, quiet=quiet)


def _defined(options: Options) -> StudyDefinition:
    given: dict[str, Any] = {"space": "all", **options}
    for name in ("tasks", "validation", "held_out", "previous"):
        if name in given:
            given[name] = _listed(given[name])
    domains = _listed(given.pop("domains", ()))
    return define(domains=domains if isinstance(domains, Mapping) else dict.fromkeys(domains, 1.0), **given)


def _of_preset(name: str, options: Options) -> StudyDefinition:
    if beside := set(options) - {"seed"}:
        raise UsageError(f"a preset says all about a study but its seed; leave out {', '.join(sorted(beside))}, or put "
                         "it into a .toml file of your own.")
    definition, _ = preset(name)
    return replace(definition, seed=options.get("seed", definition.seed))


def _listed(names: Any) -> Any:
    """One name alone counts as a list of one."""
    return [names] if isinstance(names, str) else names


@contextmanager
def _same_threads() -> Iterator[None]:
    """Measuring takes one thread of torch, in this process too; who goes on afterwards has as many as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _counts(snapshot: Snapshot) -> str:
    found = Counter(trial.state for trial in snapshot.trials)
    return ", ".join(f"{count} {state}" for state, count in found.most_common()) or "no trials yet"


def _best_trials(snapshot: Snapshot) -> str:
    ended = [trial for trial in snapshot.in_state("complete") if trial.is_feasible and trial.value is not None]
    rows = [(str(trial.number), f"{trial.loss_ratio:.3f}", trial.in_brief)
            for trial in sorted(ended, key=lambda trial: trial.value or 0.0)[:NUM_SHOWN]]
    return Table("Best trials", "", ("trial", LOSS, "design"), rows)._repr_html_() if rows else ""


def _row(trial: Trial) -> dict[str, Any]:
    cost = {"flops": trial.cost and trial.cost.flops, "state_bytes": trial.cost and trial.cost.state_bytes}
    return {name: getattr(trial, name) for name in FACTS} | cost | {
        f"params_{name}": value for name, value in trial.params.items()}
