"""Other people's searchers, each as its authors ship it, in an environment of its own that a child process runs in.

SMAC3 is told when a parameter is active (`bench.conditions`); NePS's algorithms for mixed spaces know flat ones
only, so what it chooses for inactive parameters is ignored. What a peer leaves open is drawn at random.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import IO, Any

from optsearch.bench.peer_space import Space, space_of
from optsearch.bench.spending import Spending
from optsearch.errors import FailureError, UsageError
from optsearch.search.forecasting.curves import LearningCurve
from optsearch.search.rows import random_suggest
from optsearch.seeds import seed_for

PROGRAMS = Path(__file__).with_name("peer_programs")
REDUCTION_FACTOR = 3
LEAVING_SECONDS = 5.0
# One thread as for our own; and no order of a set may differ between runs.
CHILD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
# So many turns in a row that cost nothing are no search.
MOST_FREE_TURNS = 1000


@dataclass(frozen=True)
class Peer:
    """A method of another package: `variable` of the environment names a Python that has the package."""

    name: str
    description: str
    variable: str
    program: Path

    @property
    def python(self) -> str:
        """Empty where none was given."""
        return os.environ.get(self.variable, "")

    def search(self, spending: Spending, seed: int) -> None:
        """Raises `UsageError` where its Python isn't one, `FailureError` where the peer dies."""
        table = spending.problem.table
        space = space_of(table.space, table.space_text)
        progress = _Progress(spending, space, seed)
        task = {"method": self.name, "seed": seed_for(seed, "bench search") % 2**31, "budget": spending.problem.budget,
                "least_budget": spending.reports[0], "reduction_factor": REDUCTION_FACTOR,
                "trials": max(1, round(spending.limit)), "parameters": space.described()}
        with _conversation(self, task) as conversation:
            value = None
            while not spending.is_over:
                with spending.thinking():
                    suggestion = conversation.next(value)
                value = progress.take_turn(suggestion)


SMAC, NEPS = "OPTSEARCH_SMAC_PYTHON", "OPTSEARCH_NEPS_PYTHON"
PEERS = (
    Peer("smac", "SMAC3's random forest, conditional space", SMAC, PROGRAMS / "smac_peer.py"),
    Peer("smac_hyperband", "the same, Hyperband", SMAC, PROGRAMS / "smac_peer.py"),
    Peer("neps_bo", "NePS's Gaussian process, flat space", NEPS, PROGRAMS / "neps_peer.py"),
    Peer("neps_priorband", "NePS's PriorBand without priors, flat space", NEPS, PROGRAMS / "neps_peer.py"),
)


@dataclass
class _Progress:
    """How far each of a peer's designs has been trained; one that it asks for again goes on."""

    spending: Spending
    space: Space
    seed: int
    curves: dict[Any, LearningCurve] = field(default_factory=dict)
    spent: dict[Any, int] = field(default_factory=dict)
    seconds: float = 0.0
    free_turns: int = 0

    def take_turn(self, suggestion: Mapping[str, Any]) -> float:
        """Train the design to its budget, and what it is worth there."""
        design = suggestion["design"]
        self.spending.seconds += suggestion["seconds"] - self.seconds
        self.seconds = suggestion["seconds"]
        if design not in self.curves:
            self.curves[design] = self._begin(suggestion["params"])
        before = self.spent.get(design, 0)
        known = self.curves[design].until(max(before, self._report(suggestion.get("budget"))))
        self.spent[design] = known.budgets[-1]
        self._watch(self.spent[design] > before)
        self.spending.train(before, self.spent[design])
        self.spending.rest(list(self.curves).index(design), known)
        return known.values[-1]

    def _begin(self, params: Mapping[str, Any]) -> LearningCurve:
        problem, draw = self.spending.problem, random_suggest(seed_for(self.seed, "peer", len(self.curves)))
        return problem.curve(problem.tree.complete(self.space.values(params), draw))

    def _watch(self, was_paid: bool) -> None:
        self.free_turns = 0 if was_paid else self.free_turns + 1
        if self.free_turns >= MOST_FREE_TURNS:
            raise FailureError(f"a peer asked {MOST_FREE_TURNS} times in a row for what it knows already; expected new "
                               "designs or higher budgets. Leave it out with --method.")

    def _report(self, budget: float | None) -> int:
        """The budget, of those at which a searcher sees a value, that is nearest by its ratio."""
        reports = self.spending.reports
        return reports[-1] if budget is None else min(reports, key=lambda step: abs(log(step / budget)))


@dataclass(frozen=True)
class _Conversation:
    """A peer's process: a task, then suggestions and their values in turn."""

    peer: Peer
    process: subprocess.Popen[str]
    errors: IO[str]

    def next(self, value: float | None) -> dict[str, Any]:
        """The next suggestion, after the value of the one before."""
        if value is not None:
            self.say({"value": value})
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            return found
        raise FailureError(f"{self.peer.name} ended with status {self.process.wait()}: {self._last_words()} Expected a "
                           f"suggestion; check the package of {self.peer.python}, or leave the method out.")

    def say(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        # One that has died is noticed when it doesn't answer.
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def leave(self) -> None:
        """The end of its input tells the process to end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f"{lines[-1].strip().rstrip('.')}." if lines else "it said nothing."


@contextmanager
def _conversation(peer: Peer, task: Mapping[str, Any]) -> Iterator[_Conversation]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | CHILD_ENVIRONMENT
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(
                [peer.python, str(PROGRAMS / "conversation.py"), str(peer.program)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        except OSError as error:
            raise UsageError(f"{peer.python} could not be run: {error.strerror or error}. {peer.variable} must be the "
                             f"Python of an environment that has what {peer.name} needs.") from error
        conversation = _Conversation(peer, process, errors)
        try:
            conversation.say(task)
            yield conversation
        finally:
            conversation.leave()
