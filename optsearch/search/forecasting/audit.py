"""Whether a study's forecasts came true, and what pruning saved."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from optsearch.search.definition import StudyDefinition
from optsearch.search.forecasting.history import newest
from optsearch.search.forecasting.pruner import Judgement, num_top
from optsearch.search.forecasting.ranks import kendall
from optsearch.search.objectives import end_of
from optsearch.search.records import Records
from optsearch.search.recovery import chain_of
from optsearch.tables import Table, columns

PARTS = (0.1, 0.25, 0.5)
TOP = 0.1
TOO_FEW = "too few"
HEADER = ("budget spent", "trials", "rank correlation", "of the last value", "in 50 % interval", "in 90 % interval")


@dataclass(frozen=True)
class Accuracy:
    """How the forecasts made with `part` of the budget spent compare with the ends of `num_trials` trials.

    These are complete and spent their whole budget, for what is forecast is the end of a trial that does. Kendall's
    rank correlations with the end, of the forecast mean and of the last value; `within_50` and `within_90` are the
    parts of the ends that lie in the intervals meant to hold 50 % and 90 % of them. None with too few trials.
    """

    part: float
    num_trials: int
    rank_correlation: float | None
    last_value_correlation: float | None
    within_50: float | None
    within_90: float | None


@dataclass(frozen=True)
class Audit:
    """What became of the forecasts of one study.

    `num_spared` trials were to be pruned by the predictor but were spared by chance and are complete; `num_wrong` of
    them ended in the best tenth of all ends. `compute_saved` is the part of the inner steps of all started trials that
    pruning left unspent. `num_early` complete trials ended before their budget did: they diverged or collapsed.
    """

    num_started: int
    num_complete: int
    num_early: int
    num_pruned: int
    num_pruned_by_predictor: int
    num_forecasts: int
    num_problems: int
    accuracies: tuple[Accuracy, ...]
    num_spared: int
    num_wrong: int
    compute_saved: float | None

    @property
    def false_prune_rate(self) -> float | None:
        """The part of the trials to be pruned that would have ended in the best tenth, estimated from the spared."""
        return self.num_wrong / self.num_spared if self.num_spared else None

    @property
    def sentences(self) -> list[str]:
        """What happened, for a person."""
        rate = _percent(self.false_prune_rate)
        return [
            f"{self.num_forecasts} forecasts; {self.num_problems} failed",
            f"{self.num_started} trials started; {self.num_complete} complete, {self.num_early} of them early; "
            f"{self.num_pruned} pruned, {self.num_pruned_by_predictor} of them by the predictor",
            f"inner steps saved: {_percent(self.compute_saved)}",
            f"pruned wrongly: {rate} ({self.num_wrong} of {self.num_spared} trials that were to be pruned, but were "
            "spared by chance, ended in the best 10 %)"]

    @property
    def table(self) -> Table:
        """How right the forecasts were."""
        return Table("Forecasts against ends", "Of the trials that spent their budget; the pruned ones' ends nobody "
                     "knows.", HEADER, [
            (f"{each.part:.0%}", str(each.num_trials), _number(each.rank_correlation),
             _number(each.last_value_correlation), _percent(each.within_50), _percent(each.within_90))
            for each in self.accuracies])

    def lines(self) -> list[str]:
        """For a person."""
        return [*self.sentences, "",
                "forecasts against the ends of the trials that spent their budget; the pruned ones' ends nobody knows:",
                *columns([HEADER, *self.table.rows])]


def audit(study: optuna.Study, records: Records) -> Audit:
    """Of all recorded forecasts; raises `StudyError` for a study that optsearch did not make.

    Accuracies are over trials that were not stopped: better ones than chance would choose, so that they are harder to
    tell apart than all trials are.
    """
    budget = StudyDefinition.of(study).budget
    trials = newest(study.get_trials(deepcopy=False))
    judged = {chain: [Judgement.of(content) for content in rows.values()]
              for chain, rows in records.forecasts(study._study_id).items()}
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    whole = [trial for trial in complete if max(trial.intermediate_values, default=0) >= budget]
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    spared = [trial for trial in complete if _is_by_predictor("spared", judged.get(chain_of(trial), ()))]
    best = sorted(map(end_of, complete))[:num_top(len(complete), TOP)]
    rows = [row for each in judged.values() for row in each]
    return Audit(
        num_started=len(trials), num_complete=len(complete), num_early=len(complete) - len(whole),
        num_pruned=len(pruned),
        num_pruned_by_predictor=sum(_is_by_predictor("pruned", judged.get(chain_of(trial), ())) for trial in pruned),
        num_forecasts=sum(row.mean is not None for row in rows), num_problems=sum(bool(row.problem) for row in rows),
        accuracies=tuple(_accuracy(part, part * budget, whole, judged) for part in PARTS),
        num_spared=len(spared), num_wrong=sum(end_of(trial) <= best[-1] for trial in spared),
        compute_saved=_saved(trials, budget))


def _accuracy(part: float, step: float, whole: Sequence[FrozenTrial],
              judged: dict[int, list[Judgement]]) -> Accuracy:
    """Of every trial's first forecast at `step` or after, but before its end."""
    rows: list[Judgement] = []
    means, ends, last_values = [], [], []
    for trial in whole:
        row = next((row for row in judged.get(chain_of(trial), ()) if row.mean is not None
                    and step <= row.inner_steps < max(trial.intermediate_values)), None)
        if row is not None and row.mean is not None:
            rows.append(row)
            means.append(row.mean)
            ends.append(end_of(trial))
            last_values.append(trial.intermediate_values[row.inner_steps])
    return Accuracy(part, len(rows), _correlation(means, ends), _correlation(last_values, ends),
                    _within(rows, ends, 1, 2), _within(rows, ends, 0, 3))


def _within(rows: Sequence[Judgement], ends: Sequence[float], low: int, high: int) -> float | None:
    """The part of the ends between two of the quantiles."""
    inside = [row.quantiles[low] <= end <= row.quantiles[high] for row, end in zip(rows, ends, strict=True)]
    return sum(inside) / len(inside) if inside else None


def _saved(trials: Sequence[FrozenTrial], budget: int) -> float | None:
    """A complete trial cost what it spent, also where it ended early; the others would have cost the budget."""
    spent = {trial.number: max(trial.intermediate_values, default=0) for trial in trials}
    whole = sum(spent[trial.number] if trial.state is TrialState.COMPLETE else budget for trial in trials)
    unspent = sum(budget - spent[trial.number] for trial in trials if trial.state is TrialState.PRUNED)
    return unspent / whole if whole else None


def _is_by_predictor(decision: str, rows: Sequence[Judgement]) -> bool:
    return any(row.decision == decision and row.decided_by == "predictor" for row in rows)


def _number(value: float | None) -> str:
    return TOO_FEW if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return TOO_FEW if value is None else f"{value:.0%}"


def _correlation(values: Sequence[float], ends: Sequence[float]) -> float | None:
    is_defined = min(len(set(values)), len(set(ends))) > 1
    return kendall(*torch.tensor([values, ends], dtype=torch.float64)) if is_defined else None
