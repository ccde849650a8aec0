"""Candidates meta-trained once more with seeds of their own, side by side, and measured where nobody has looked."""

import hashlib
import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import torch

from optsearch import evaluation
from optsearch.errors import TrialError
from optsearch.evaluation import BASELINE, Opponent
from optsearch.evaluation.measurements import PROTOCOL, measured
from optsearch.evaluation.runs import Setup
from optsearch.evaluation.selection import log_relative_losses
from optsearch.export import Artifact
from optsearch.search import trial
from optsearch.search.processes import Channel, Message, TrialDied, TrialFailed, TrialProcess, in_a_line
from optsearch.search.recovery import MAX_RETRIES
from optsearch.search.trial import Job
from optsearch.seeds import seed_for
from optsearch.tasks import TaskFamily, families_of

# Keeps the seeds of meta-training and inner trainings apart from those of trials and of reports.
PURPOSE = "finals"
ENTRY = f"{__name__}:train"
NUM_INNER_SEEDS = 8


def meta_seed(number: int) -> int:
    """The seed of a round: the same for every candidate of every study, and no trial's."""
    return seed_for(number, PURPOSE)


def setup(family: TaskFamily, horizon: int, number: int) -> Setup:
    """What a round measures on: inner seeds of its own, so that rounds are independent of each other."""
    first = number * NUM_INNER_SEEDS
    return Setup(family, horizon, "meta", tuple(range(first, first + NUM_INNER_SEEDS)), PURPOSE)


def baseline(families: Sequence[TaskFamily], horizon: int, number: int, cache: evaluation.Cache) -> list[list[float]]:
    """The tuned baseline's final losses in a round, a list a family."""
    tuned = evaluation.hand_made(BASELINE)
    return [measured(tuned, setup(family, horizon, number), cache).finals.tolist() for family in families]


@dataclass(frozen=True)
class FinalJob:
    """One candidate in one round: what is meta-trained, and what the tuned baseline comes to on each family.

    `families` are fingerprints of those that it learns and is measured on.
    """

    job: Job
    number: int
    opponents: list[list[float]]
    families: list[str]

    @property
    def key(self) -> str:
        """Different wherever the result could be."""
        content = json.dumps([self.job.fingerprint, self.opponents, self.families, self.number, PROTOCOL])
        return f"{PURPOSE}/{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def to_config(self) -> Message:
        return {"job": self.job.to_config(), "number": self.number, "opponents": self.opponents}


@dataclass(frozen=True)
class Final:
    """What a candidate came to in one round.

    `losses` are log relative losses, a list a family with one for each inner seed; `selection_value` is the value on
    the seeds of the search; `weights` is the name of a file among the artifacts.
    """

    losses: list[list[float]]
    selection_value: float
    outcome: str
    weights: str

    @property
    def value(self) -> float:
        """Families count alike."""
        return sum(sum(row) / len(row) for row in self.losses) / len(self.losses)


def train(config: Message, channel: Channel) -> Message:
    """Run a `FinalJob` in a child process; the result says what `Final` does, and which `files` were written."""
    result = trial.train(config["job"] | {"device": config["device"]}, channel)
    job = Job.from_config(config["job"])
    artifact = Artifact.load(Path(result["files"][0]))
    weights = {name: leaf[None].to(config["device"]) for name, leaf in artifact.weights.items()}
    losses = []
    for family, finals in zip(families_of(job.selected_on), config["opponents"], strict=True):
        asked = setup(family.on(config["device"]), job.settings["horizon"], config["number"])
        found = log_relative_losses(artifact.design, weights, Opponent(asked, torch.tensor(finals)))
        losses.append(found[0].tolist())
    return {"losses": losses, "selection_value": result["value"], "outcome": result["outcome"],
            "files": result["files"]}


@dataclass(frozen=True)
class News:
    """`part` of a training is done; with all of it comes the `result`."""

    key: str
    part: float
    result: Message = field(default_factory=dict)


class Crew:
    """Processes that stay from round to round, one a slot; to be closed."""

    def __init__(self, slots: Sequence[str]):
        self._stopping = threading.Event()
        self._processes = [(slot, TrialProcess(ENTRY, self._stopping)) for slot in slots]

    def train(self, jobs: Mapping[str, FinalJob]) -> Generator[News, None, None]:
        """How the jobs go on; the first error ends all, and so does closing the iterator.

        Raises `TrialError` for a training that fails, or dies more often than it is started again.
        """
        waiting: SimpleQueue[tuple[str, FinalJob]] = SimpleQueue()
        for item in jobs.items():
            waiting.put(item)
        news: SimpleQueue[News | Exception | Literal["over"]] = SimpleQueue()
        threads = [threading.Thread(target=_work, args=(slot, process, waiting, news))
                   for slot, process in self._processes[:len(jobs)]]
        for thread in threads:
            thread.start()
        num_working = len(threads)
        try:
            while num_working:
                found = news.get()
                if isinstance(found, Exception):
                    raise found
                if isinstance(found, News):
                    yield found
                num_working -= found == "over"
        finally:
            if num_working:
                self._stopping.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        for _, process in self._processes:
            process.close()


def _work(slot: str, process: TrialProcess, waiting: SimpleQueue[tuple[str, FinalJob]], news: SimpleQueue[Any]) -> None:
    try:
        while True:
            try:
                key, job = waiting.get_nowait()
            except Empty:
                news.put("over")
                return
            for found in _messages(key, job, slot, process):
                news.put(found)
    except Exception as error:
        news.put(error)


def _messages(key: str, job: FinalJob, slot: str, process: TrialProcess) -> Iterator[News]:
    """A training that loses its process goes on from its checkpoint in another."""
    where = f"trial {job.job.provenance['trial']} of {job.job.provenance['study']}"
    for attempt in range(MAX_RETRIES + 1):
        try:
            run = process.run(job.to_config() | {"device": slot})
            for message in run:
                yield News(key, message["inner_steps"] / job.job.budget)
            yield News(key, 1.0, run.result)
            return
        except (TrialDied, TrialFailed) as error:
            if attempt == MAX_RETRIES or isinstance(error, TrialFailed):
                raise TrialError(f"{where} could not be meta-trained again: {in_a_line(error)} Run the same command "
                                 "to go on, or leave it out by a smaller --top.") from error
