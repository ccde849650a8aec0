"""How a learned optimizer is meta-trained, as plain data."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from optsearch.errors import DesignError
from optsearch.optimizers.part import require
from optsearch.tasks.augmentation import LEVELS, Level

MetaLoss = Literal["validation", "train"]
Precision = Literal["float32", "bfloat16"]
EstimatorName = Literal["nres", "pes", "full_es", "full_es_sign", "backprop", "backprop_first_order"]


@dataclass(frozen=True)
class MetaTraining:
    """Everything that meta-training needs beside the design, the families, a budget and a seed.

    `num_tasks` inner trainings (antithetic pairs of them, but for backprop) run side by side for `truncation`
    inner steps a meta-step; full ES runs them whole. Horizons are log-uniform between
    `horizon` · `min_horizon_ratio` and `horizon`, in whole truncations. `sigma` is the deviation of the perturbed
    weights. The meta-loss is taken `num_meta_losses` times a truncation: on `meta_batch_size` of the family's `meta`
    rows, or all where there are no more ("validation"), or on the batches of the inner steps ("train"). It is the
    mean of log losses, weighted with the inner training's progress to the power `late_emphasis`. Logs of few rows
    praise what is overconfident: most such batches hold no mistake, and the few that do count little.

    Tasks are seen in other units, up to `reparametrization` times as large or small, with noise up to
    `gradient_noise` of their gradients' RMS, and on batches as small as `min_batch_share` of theirs.
    """

    horizon: int = 200
    estimator: EstimatorName = "nres"
    num_tasks: int = 4
    truncation: int = 20
    min_horizon_ratio: float = 0.2
    sigma: float = 0.01
    meta_lr: float = 3e-3
    meta_loss: MetaLoss = "validation"
    num_meta_losses: int = 4
    meta_batch_size: int = 128
    late_emphasis: float = 1.0
    meta_weight_decay: float = 0.0
    meta_warmup: float = 0.0
    max_meta_gradient: float = 0.0
    curriculum: float = 0.0
    reparametrization: float = 1.0
    reparametrization_level: Level = "global"
    gradient_noise: float = 0.0
    min_batch_share: float = 1.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        names = get_args(EstimatorName)
        require("meta_training", self.estimator in names,
                f"there is no estimator {self.estimator!r}. Estimators: {', '.join(names)}.")
        require("meta_training", self.meta_loss in ("validation", "train"),
                f"meta_loss must be validation or train, not {self.meta_loss!r}.")
        require("meta_training", self.precision in get_args(Precision),
                f"precision must be float32 or bfloat16, not {self.precision!r}.")
        require("meta_training", self.num_tasks > 0 and self.meta_batch_size > 0
                and 0 < self.num_meta_losses <= self.truncation,
                "num_tasks and meta_batch_size must be at least 1 and num_meta_losses between 1 and truncation, not "
                f"{self.num_tasks}, {self.meta_batch_size}, {self.num_meta_losses} and {self.truncation}.")
        require("meta_training", self.truncation % self.num_meta_losses == 0,
                f"num_meta_losses ({self.num_meta_losses}) must divide the truncation ({self.truncation}).")
        require("meta_training", self.horizon >= self.truncation,
                f"the horizon ({self.horizon}) must be at least one truncation ({self.truncation}).")
        require("meta_training", self.sigma > 0 and self.meta_lr > 0,
                f"sigma and meta_lr must be above 0, not {self.sigma} and {self.meta_lr}.")
        require("meta_training", 0 < self.min_horizon_ratio <= 1 and self.late_emphasis >= 0,
                "min_horizon_ratio must be in (0, 1] and late_emphasis at least 0, not "
                f"{self.min_horizon_ratio} and {self.late_emphasis}.")
        require("meta_training", 0 <= self.meta_warmup <= 1 and 0 <= self.curriculum <= 1,
                "meta_warmup and curriculum are parts of the budget, between 0 and 1, not "
                f"{self.meta_warmup} and {self.curriculum}.")
        require("meta_training", self.reparametrization_level in LEVELS,
                f"reparametrization_level must be one of {', '.join(LEVELS)}, not {self.reparametrization_level!r}.")
        require("meta_training", self.gradient_noise >= 0 and 0 < self.min_batch_share <= 1,
                "gradient_noise must be at least 0 and min_batch_share in (0, 1], not "
                f"{self.gradient_noise} and {self.min_batch_share}.")
        require("meta_training", self.meta_weight_decay >= 0 and self.max_meta_gradient >= 0
                and self.reparametrization >= 1,
                "meta_weight_decay and max_meta_gradient must be at least 0 and reparametrization at least 1, not "
                f"{self.meta_weight_decay}, {self.max_meta_gradient} and {self.reparametrization}.")

    @property
    def shortest_horizon(self) -> float:
        return max(float(self.truncation), self.horizon * self.min_horizon_ratio)

    def at(self, progress: float) -> "MetaTraining":
        """The settings after the part `progress` of the budget: horizons as long as the curriculum then allows."""
        if progress >= self.curriculum or self.estimator.startswith("full_es"):
            return self
        shortest = self.shortest_horizon
        longest = max(self.truncation, round(shortest * (self.horizon / shortest) ** (progress / self.curriculum)))
        return replace(self, horizon=longest, min_horizon_ratio=min(1.0, shortest / longest))

    @staticmethod
    def from_config(config: dict[str, Any]) -> "MetaTraining":
        known = {field.name for field in fields(MetaTraining)}
        for name in config:
            if name not in known:
                raise DesignError(f"meta_training: there is no `{name}`. There are: {', '.join(sorted(known))}.")
        return MetaTraining(**config)
