"""One trial: meta-train a design, measure it along the way, leave its files. Runs in a child process."""

import csv
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import torch

import optsearch
from optsearch import evaluation, pictures
from optsearch.adaptation import (
    AdaptedEstimator,
    FewShot,
    Keeping,
    inherit,
    kept,
    learned_adapters,
    with_adapters,
)
from optsearch.evaluation import Opponent
from optsearch.export import Artifact
from optsearch.export.adapters import effective, shared_of
from optsearch.meta_training import Checkpoints, MetaTraining, Outcome, Plan, Point, meta_train
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.definition import distribution
from optsearch.search.places import Places
from optsearch.search.processes import Channel
from optsearch.tasks import Sampling, families_of

WEIGHTS, CURVE = "weights.safetensors", "curve.csv"
INNER_CURVES, INNER_PICTURE = "inner_curves.csv", "inner_curves.png"
# Families of which a picture shows the trainings; the table has all.
MOST_SHOWN = 3
# In a row of the curve: how the meta-training ended there, empty where it did not.
OUTCOME = "outcome"
# What an artifact says of the one that it began with.
ORIGIN = ("study", "trial", "tasks", "families", "value", "inner_steps", "initial")
CurveRow = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a trial needs to know, as plain data that travels to another process.

    `seed` is the same for a trial and its retries, and so is `folder`, where checkpoints and files are kept.
    `opponents` are the tuned baseline's final losses, a list a family of `selected_on`. `initial` is an artifact whose
    weights it begins with, as far as they fit, or nothing: its name among the study's files until the job is `placed`.
    `few_shot` says which kind of start is learned, as `FewShot` does; weights that are good as they are where it is
    empty. `keep` says how what the artifact learned is kept, as `Keeping` does, and on which `tasks` that was; nothing
    is kept where it is empty. With `adapters` each domain of the tasks has some. `provenance` goes into the artifact.
    `baselines` are the tuned baseline's curves, a list a family, beside which a complete trial shows its own.
    """

    design: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    tasks: list[str]
    weights: list[float]
    sampling: Sampling
    selected_on: list[str]
    budget: int
    num_points: int
    num_early: int
    seed: int
    folder: str
    opponents: list[list[float]]
    provenance: dict[str, Any]
    initial: str = ""
    few_shot: dict[str, Any] = field(default_factory=dict)
    keep: dict[str, Any] = field(default_factory=dict)
    adapters: bool = False
    baselines: list[list[float]] = field(default_factory=list)
    device: str = "cpu"

    def placed(self, places: Places, folder: Path) -> Self:
        """The job with a folder to work in."""
        return replace(self, folder=str(folder), initial=str(places.initial(self.initial)) if self.initial else "")

    def to_config(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "device"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    @property
    def fingerprint(self) -> str:
        """The same for two jobs exactly when one may go on from the other's checkpoint."""
        asked = replace(self, initial=Path(self.initial).name).to_config()
        # What is left out says the same as before there was such a thing.
        asked = {name: value for name, value in asked.items()
                 if name not in ("folder", "provenance", "baselines")
                 and (value or name not in ("initial", "few_shot", "keep", "adapters"))}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def train(config: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Run the job; the channel hears every point of the curve, earlier ones again after a resume.

    The result says `outcome` (the name of an `Outcome`), `value` and the `files` that were written.
    """
    torch.set_num_threads(1)
    job = Job.from_config(config)
    plan = _plan(job)
    if job.initial:
        job, plan = _begun(job, plan)
    elif job.adapters:
        plan = with_adapters(plan)
    checkpoints = Checkpoints(Path(job.folder) / "checkpoints", job.fingerprint)
    snapshot, curve = checkpoints.newest(job.device) or (None, [])
    weights = plan.first_weights() if snapshot is None else snapshot.weights_tree(plan)
    goes_on = all(channel.point(row) for row in curve)
    ended = curve[-1].get(OUTCOME) if curve else None
    outcome = Outcome[ended] if ended else Outcome.COMPLETED if goes_on else Outcome.PRUNED
    opponents = _opponents(job)
    inner: list[list[float]] = []
    for point in meta_train(plan, snapshot) if goes_on and not ended else ():
        weights = point.weights
        # What was spent before it began counts, too.
        value, inner = _value(plan, weights, opponents)
        curve.append(_row(point, value, job.budget - plan.budget))
        checkpoints.save(point, curve)
        if not channel.point(curve[-1]):
            outcome = Outcome.PRUNED
            break
        outcome = point.outcome or outcome
    files = _write_files(job, plan, weights, curve, outcome)
    if inner and job.baselines and outcome is Outcome.COMPLETED:
        files += _write_inner(job, opponents, inner)
    return {"outcome": outcome.name, "value": curve[-1]["value"], "files": [str(path) for path in files]}


def _plan(job: Job) -> Plan:
    found = distribution(job.tasks, job.weights, job.sampling)
    found = replace(found, families=tuple(family.on(job.device) for family in found.families))
    plan = Plan(LearnedOptimizer.from_config(job.design), found, MetaTraining.from_config(job.settings),
                job.budget, job.num_points, job.seed, num_early=job.num_early)
    if not job.few_shot:
        return plan
    return replace(plan, estimator=AdaptedEstimator(plan.chosen_estimator, FewShot(**job.few_shot)))


def _begun(job: Job, plan: Plan) -> tuple[Job, Plan]:
    """The plan with the artifact's weights to begin with, and the job that says where they are from."""
    artifact = Artifact.load(Path(job.initial))
    domains = {family.domain for family in plan.distribution.families}
    # With new adapters the old ones go on; without, what is adapted is what the artifact does in the domain.
    first = artifact.weights if job.adapters or len(domains) > 1 else artifact.weights_in(*domains)
    inherited = inherit(first, artifact.design, plan.optimizer, plan.first_weights())
    source = {name: artifact.provenance[name] for name in ORIGIN if name in artifact.provenance}
    provenance = job.provenance | {"initial": source | {"inherited": inherited.in_words()}}
    plan = _kept(job, replace(plan, initial=inherited.weights))
    return replace(job, provenance=provenance), with_adapters(plan, artifact.adapters) if job.adapters else plan


def _kept(job: Job, plan: Plan) -> Plan:
    """The plan in which what the artifact learned is kept, as far as the job asks for it."""
    if not job.keep:
        return plan
    keeping = {name: value for name, value in job.keep.items() if name != "tasks"}
    return kept(plan, Keeping(**keeping), [family.on(job.device) for family in families_of(job.keep["tasks"])])


def _opponents(job: Job) -> Sequence[Opponent]:
    setups = (evaluation.selection_setup(family.on(job.device), job.settings["horizon"])
              for family in families_of(job.selected_on))
    return [Opponent(setup, torch.tensor(finals)) for setup, finals in zip(setups, job.opponents, strict=True)]


def _value(plan: Plan, weights: dict[str, torch.Tensor],
           opponents: Sequence[Opponent]) -> tuple[float, list[list[float]]]:
    """With the curves of the trainings, on every family with the weights of its domain."""
    if not plan.beside:
        return evaluation.value_and_curves(plan.optimizer, weights, opponents)
    found = [evaluation.value_and_curves(plan.optimizer, effective(weights, each.setup.family.domain), [each])
             for each in opponents]
    return fmean(value for value, _ in found), [curve for _, curves in found for curve in curves]


def _row(point: Point, value: float, spent: int) -> CurveRow:
    return {"point": point.index, "inner_steps": spent + point.inner_steps, "meta_step": point.snapshot.meta_step,
            "meta_loss": point.meta_loss, "value": value, "failed_share": point.failed_share,
            "signal_to_noise": point.signal_to_noise, "is_compiled": point.is_compiled,
            "inner_steps_per_second": round(point.inner_steps_per_second),
            "seconds": round(point.snapshot.seconds, 3), OUTCOME: point.outcome.name if point.outcome else ""}


def _write_files(job: Job, plan: Plan, weights: dict[str, torch.Tensor], curve: list[CurveRow],
                 outcome: Outcome) -> list[Path]:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in (WEIGHTS, CURVE)]
    last = curve[-1]
    provenance = job.provenance | {
        "outcome": outcome.name, "value": last["value"], "inner_steps": last["inner_steps"], "seconds": last["seconds"],
        "meta_training": job.settings, "tasks": job.tasks, "weights": job.weights, "seed": job.seed,
        **{name: value for name, value in (("few_shot", job.few_shot), ("keep", job.keep)) if value},
        "versions": {"optsearch": optsearch.__version__, "torch": torch.__version__,
                     "python": platform.python_version()}}
    adapters = learned_adapters(weights, plan.distribution.families, job.seed)
    Artifact(plan.optimizer, shared_of(weights), provenance, adapters).save(paths[0])
    with open(paths[1], "w", newline="") as file:
        writer = csv.DictWriter(file, list(last))
        writer.writeheader()
        writer.writerows(curve)
    return paths


def _write_inner(job: Job, opponents: Sequence[Opponent], inner: list[list[float]]) -> list[Path]:
    """The trainings that gave the value, beside those with tuned AdamW on the same tasks and seeds."""
    paths = [Path(job.folder) / name for name in (INNER_CURVES, INNER_PICTURE)]
    horizon, panels = job.settings["horizon"], {}
    with open(paths[0], "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["family", "inner_steps", "learned", "tuned_adamw"])
        for each, learned, tuned in zip(opponents, inner, job.baselines, strict=True):
            steps = [round(horizon * (index + 1) / len(learned)) for index in range(len(learned))]
            name = each.setup.family.name
            writer.writerows((name, *row) for row in zip(steps, learned, tuned, strict=True))
            panels[name] = {f"trial {job.provenance.get('trial', '')}": (steps, learned),
                            "AdamW + cosine, tuned": (steps, tuned)}
    pictures.comparison(paths[1], dict(list(panels.items())[:MOST_SHOWN]))
    return paths
