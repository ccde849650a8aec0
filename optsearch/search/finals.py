"""How a race between finalists ended, in words and as data."""

from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import numpy

from optsearch.search.final_training import Final
from optsearch.search.racing import Estimate, Race
from optsearch.search.trial import Job
from optsearch.tables import Table


@dataclass(frozen=True)
class Candidate:
    """A complete trial; `seen_value` is the value that the search chose it by."""

    study: str
    trial: int
    seen_value: float
    job: Job


@dataclass(frozen=True)
class Finals:
    """How a race ended; `finals` has a row a candidate, with an entry for each of its seeds."""

    candidates: tuple[Candidate, ...]
    race: Race
    finals: tuple[tuple[Final, ...], ...]

    @property
    def winner(self) -> Candidate:
        return self.candidates[self.race.leader]

    @property
    def confidence(self) -> str:
        return f"{100 * self.race.rules.confidence:g} %"

    def name(self, index: int) -> str:
        """Of a candidate, for a person."""
        found = self.candidates[index]
        is_only = len({each.study for each in self.candidates}) == 1
        return f"trial {found.trial}" + ("" if is_only else f" of {found.study}")

    def mean(self, index: int) -> Estimate:
        """Of a candidate's values over its seeds, on its own."""
        return Estimate.of(self.race.values[index], 1 - self.race.rules.confidence)

    def luck(self, index: int) -> float:
        """How much better the search saw a candidate than its new meta-seeds are on the search's own inner seeds."""
        return fmean(final.selection_value for final in self.finals[index]) - self.candidates[index].seen_value

    @property
    def statement(self) -> str:
        """What is known of the winner, in a sentence."""
        race, (first, second) = self.race, self.race.order[:2]
        gap = race.behind[second]
        assert gap is not None
        ahead = (f"ahead of {self.name(second)} by {gap.value:.3f} ({self.confidence} interval {gap.low:.3f} to "
                 f"{gap.high:.3f}) over {len(race.values[second])} meta-seeds")
        if len(race.racing) == 1:
            return f"{self.name(first)} is best: {ahead}"
        names = " and ".join(self.name(index) for index in race.order if index in race.racing)
        if race.is_within_margin:
            return (f"no difference that matters was found between {names}: {self.name(first)} is {ahead}, and with "
                    f"{self.confidence} confidence none is ahead of it by {race.rules.margin:g}")
        return f"no difference was found between {names}: {self.name(first)} is {ahead}"

    def typical(self, index: int) -> Final:
        """The training of median value, the worse of the middle two: what was found of a candidate holds for it.

        The best of them would be chosen by luck again.
        """
        ordered = sorted(self.finals[index], key=lambda final: final.value)
        return ordered[len(ordered) // 2]

    @property
    def table(self) -> Table:
        """A row a candidate, the best first."""
        rows = []
        for index in self.race.order:
            seeds, behind = len(self.race.values[index]), self.race.behind[index]
            rows.append((self.name(index), str(self.mean(index)), f"{self.candidates[index].seen_value:.3f}",
                         f"{self.luck(index):+.3f}", str(seeds), "" if behind is None else str(behind),
                         f"after {seeds}" if index in self.race.left else ""))
        return Table(
            f"Finalists of {' and '.join(dict.fromkeys(each.study for each in self.candidates))}",
            f"values are log(loss / tuned AdamW's), below 0 is better; {self.confidence} intervals; luck is how much "
            "better the search saw a trial than it is with new meta-seeds",
            ("", "new seeds", "the search saw", "luck", "seeds", "behind", "dropped out"), rows)

    def __repr__(self) -> str:
        return f"<Finals: {self.statement}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.statement)}</p>{self.table._repr_html_()}"

    def to_config(self) -> dict[str, Any]:
        """As JSON data, the candidates in the order in which they came in."""
        rules, race = self.race.rules, self.race
        return {"winner": {"study": self.winner.study, "trial": self.winner.trial}, "statement": self.statement,
                "is_decided": len(race.racing) == 1, "is_within_margin": race.is_within_margin,
                "num_seeds": race.num_rounds, **vars(rules), "candidates": [self._row(index) for index in race.order]}

    def _row(self, index: int) -> dict[str, Any]:
        found, mean, behind = self.candidates[index], self.mean(index), self.race.behind[index]
        families = numpy.mean([final.losses for final in self.finals[index]], axis=(0, 2)).tolist()
        selected = found.job.provenance["families"]
        names = selected["validation"] or selected["tasks"]
        return {"study": found.study, "trial": found.trial, "seen_value": found.seen_value, "mean": mean.to_config(),
                "luck": self.luck(index), "values": list(self.race.values[index]),
                "families": dict(zip(names, families, strict=True)),
                "outcomes": [final.outcome for final in self.finals[index]],
                "left_after": len(self.race.values[index]) if index in self.race.left else None,
                "behind": behind.to_config() if behind else None}

    def of_study(self, name: str) -> dict[str, Any] | None:
        """What a study keeps for `export`: the first of its own candidates; None where it has none."""
        own = [index for index in self.race.order if self.candidates[index].study == name]
        if not own:
            return None
        final = self.typical(own[0])
        return {"trials": [self.candidates[index].trial for index in own], "trial": self.candidates[own[0]].trial,
                "weights": final.weights, "value": final.value, "mean": self.mean(own[0]).to_config(),
                "num_seeds": len(self.finals[own[0]]), "statement": self.statement,
                "inner_steps": sum(self.candidates[index].job.budget * len(self.finals[index]) for index in own)}
