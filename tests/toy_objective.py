"""A toy objective, for tests of what happens around trials; as a script, it runs a study of them."""

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from optsearch.search.recovery import chain_of
from optsearch.search.storage import open_storage
from optsearch.search.workers import run_slots

STUDY = "toy"


class PruneFrom(optuna.pruners.BasePruner):
    """Prunes the given trials at step 1."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def prune(self, study, trial):
        return trial.number in self.numbers and trial.last_step >= 1


@dataclass
class Toy:
    """The objective; the sets hold the numbers of the trials that come to harm."""

    directory: Path
    num_steps: int = 6
    step_seconds: float = 0.02
    value: float | None = 1.0
    killed: tuple = ()
    doomed: tuple = ()
    broken: tuple = ()
    pruned: tuple = ()
    entry: str = "toy_entry:train"
    seeds: itertools.count = field(default_factory=itertools.count)

    @property
    def url(self):
        return f"sqlite:///{self.directory}/toy.db"

    def study(self):
        return optuna.create_study(
            study_name=STUDY, storage=open_storage(self.url, heartbeat_seconds=1, grace_seconds=3),
            load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=next(self.seeds)),
            pruner=PruneFrom(*self.pruned))

    def job(self, trial):
        harms = {name: getattr(self, name) for name in ("killed", "doomed", "broken")}
        return {"x": trial.suggest_float("x", 0, 1), "number": trial.number, "num_steps": self.num_steps,
                "step_seconds": self.step_seconds, "value": self.value,
                "checkpoint": str(self.directory / f"{chain_of(trial)}.json"), **harms}

    def fingerprint(self, job):
        return str(job["number"])

    def point(self, trial, message):
        return message["step"], message["value"]

    def finish(self, trial, result, outcome):
        trial.set_user_attr("outcome", outcome.name)
        return result["value"]


def steps(trial):
    """The reported steps, in order."""
    return list(trial.intermediate_values)


def finished(study):
    """The complete and pruned trials."""
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


if __name__ == "__main__":
    toy = Toy(Path(sys.argv[1]), step_seconds=0.2)
    for event in run_slots(toy, ["cpu", "cpu"], num_trials=int(sys.argv[2])):
        print(event.kind, event.trial, event.step, flush=True)
