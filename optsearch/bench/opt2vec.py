"""Opt2Vec from several meta-seeds: how good on families that it never saw, and what its embeddings tell."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from optsearch.bench.judging import Judge, Results
from optsearch.evaluation.diversity import diversity
from optsearch.evaluation.embeddings import LABELS, Embeddings, collect
from optsearch.evaluation.probes import probe
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.tasks import families_of
from optsearch.trees import Tree

Row = dict[str, Any]
DESIGN = "opt2vec"
LEARNED_ON = ("digits_mlp", "tabular_mlp", "siren_image", "matrix_factorization")
# Networks of other kinds (convolutions, recurrent, autoencoder, deeper), two of them of domains that are never seen.
UNSEEN = ("digits_cnn/64", "keywords_mlp/24x16", "chars_gru/16x1x8", "regression_mlp/friedman-32x32x32",
          "patches_autoencoder/48-16-48")
# What is measured beside it: AdamW as it comes, and the design before it has learned anything, which is AdamW at its
# schedule's constant learning rate.
BY_HAND, FRESH = "adamw_default", "not meta-trained"
KNOWN, OTHER, ACROSS = "learned on", "never seen", "from those learned on to those never seen"


@dataclass(frozen=True)
class Stability:
    """The same meta-training of Opt2Vec from several meta-seeds; `budget` and `horizon` are inner steps.

    `num_runs` are trainings a family whose embeddings are looked at: probes are fitted to the first half of them.
    """

    learned_on: Sequence[str] = LEARNED_ON
    unseen: Sequence[str] = UNSEEN
    horizon: int = 100
    budget: int = 60_000
    num_seeds: int = 5
    num_inner_seeds: int = 10
    num_runs: int = 16

    @property
    def families(self) -> dict[str, list[str]]:
        """Names of families, by whether they were learned on."""
        return {KNOWN: [family.name for family in families_of(self.learned_on)],
                OTHER: [family.name for family in families_of(self.unseen)]}

    @property
    def settings(self) -> MetaTraining:
        # Whole runs and their ends: in truncations, and on short horizons, higher rates win that lose in the end.
        return MetaTraining(horizon=self.horizon, estimator="full_es_sign", min_horizon_ratio=1.0, late_emphasis=3.0)

    def asked(self) -> list[Row]:
        """What is compared first, then the meta-seeds."""
        same = {"horizon": self.horizon, "inner_seeds": self.num_inner_seeds, "families": self.families}
        learned = {"budget": self.budget, "estimator": self.settings.estimator, "runs": self.num_runs} | same
        return [{"optimizer": BY_HAND} | same, {"optimizer": FRESH, "seed": 0} | learned | {"budget": 0},
                *({"optimizer": DESIGN, "seed": seed} | learned for seed in range(self.num_seeds))]


def measure(stability: Stability, directory: Path, num_workers: int, *, quiet: bool = False) -> list[Row]:
    """A row each with its values, log(relative loss) by family, and what its embeddings are like.

    What `directory` has already is not run again; it keeps the weights of every meta-seed.
    """
    return Results(directory / "opt2vec.json").hold(stability.asked(), _Run(stability, directory), num_workers,
                                                    quiet=quiet)


def plan_of(stability: Stability, seed: int) -> Plan:
    """How one meta-seed is learned."""
    return Plan(named_design(DESIGN), families_of(stability.learned_on), stability.settings, stability.budget, 1, seed)


def weights_path(stability: Stability, directory: Path, seed: int) -> Path:
    return directory / "opt2vec_weights" / f"{stability.horizon}-{stability.budget}-{seed}.safetensors"


def learned(stability: Stability, directory: Path, seed: int) -> Artifact:
    """What meta-training gives from one meta-seed, where it ends; read where it has been learned before."""
    path = weights_path(stability, directory, seed)
    if path.exists():
        return Artifact.load(path)
    plan = plan_of(stability, seed)
    started = time.monotonic()
    point = list(meta_train(plan))[-1]
    artifact = Artifact(plan.optimizer, point.weights, {
        "meta_training": asdict(plan.settings), "tasks": list(stability.learned_on), "horizon": stability.horizon,
        "seed": seed, "inner_steps": point.inner_steps, "seconds": round(time.monotonic() - started, 1)})
    artifact.save(path)
    return artifact


def collected(stability: Stability, weights: Tree, names: Sequence[str]) -> list[Embeddings]:
    """The embeddings of all runs of families."""
    return [collect(named_design(DESIGN), weights, family, stability.horizon, stability.num_runs)
            for family in families_of(names)]


@dataclass(frozen=True)
class _Run:
    stability: Stability
    directory: Path

    def __call__(self, row: Row) -> Row:
        judge, names = _judge(row["horizon"], row["inner_seeds"]), [*row["families"][KNOWN], *row["families"][OTHER]]
        if row["optimizer"] == BY_HAND:
            return {"values": {family.name: judge.log_loss_by_hand(BY_HAND, family) for family in families_of(names)}}
        if row["optimizer"] == FRESH:
            weights, source = plan_of(self.stability, row["seed"]).first_weights(), {}
        else:
            artifact = learned(self.stability, self.directory, row["seed"])
            weights, source = artifact.weights, artifact.provenance
        return {"values": judge.log_losses(named_design(DESIGN), weights, names),
                **{name: source[name] for name in ("inner_steps", "seconds") if name in source},
                **self._embeddings(weights, row["families"])}

    def _embeddings(self, weights: Tree, families: dict[str, list[str]]) -> Row:
        """Probes and diversity, on families that were learned on, on others, and from those to these."""
        found = {where: collected(self.stability, weights, names) for where, names in families.items()}
        half = self.stability.num_runs // 2
        first, second = ({where: [each.of(part) for each in some] for where, some in found.items()}
                         for part in (slice(half), slice(half, None)))
        asked = {KNOWN: (KNOWN, KNOWN), OTHER: (OTHER, OTHER), ACROSS: (KNOWN, OTHER)}
        return {"probes": {label: {where: probe(label, first[fitted], second[tested]).to_config()
                                   for where, (fitted, tested) in asked.items()} for label in LABELS},
                "diversity": {where: diversity(some).to_config() for where, some in found.items()}}


@cache
def _judge(horizon: int, num_seeds: int) -> Judge:
    """One a process, which tunes opponents once."""
    return Judge(horizon, num_seeds)
