"""google/learned_optimization on JAX: its PES on its small_fc, with its own defaults, on the same data."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import torch

from optsearch.bench.timing import Contender
from optsearch.bench.unrolls import Unroll, small_fc
from optsearch.optimizers.rules import MLP
from optsearch.tasks import TaskFamily

# For one thread; read when XLA starts.
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
# The library imports them at once, but only data sets and logs of its own need them.
UNNEEDED = ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2", "tensorflow_datasets")


def title() -> str:
    return f"learned_optimization, JAX {version('jax')}"


def can_run(unroll: Unroll) -> bool:
    """Whether the library has this configuration."""
    rule = unroll.design.rule
    return unroll.estimator == "pes" and isinstance(rule, MLP) and unroll.design == small_fc(rule.hidden_size)


def meta_step(unroll: Unroll, family: TaskFamily) -> Contender:
    """One meta-step a call, compiled at the first; raises `ImportError` where the library isn't."""
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    import jax

    with _without_tensorflow(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from learned_optimization.outer_trainers import gradient_learner

        estimator, theta = _estimator(unroll, family)
    worker = gradient_learner.WorkerWeights(theta, None, gradient_learner.OuterState(jax.numpy.asarray(1)))
    state = estimator.init_worker_state(worker, jax.random.PRNGKey(1))
    key = jax.random.PRNGKey(2)

    def step() -> None:
        nonlocal state, key
        key, now = jax.random.split(key)
        found, _ = estimator.compute_gradient_estimate(worker, now, state, with_summary=False)
        state = found.unroll_state
        jax.block_until_ready((found.grad, state))

    return step


def _estimator(unroll: Unroll, family: TaskFamily) -> tuple[Any, Any]:
    """The gradient estimator, and the weights that it perturbs."""
    import jax
    from learned_optimization.learned_optimizers import adafac_mlp_lopt
    from learned_optimization.outer_trainers import lopt_truncated_step, truncated_pes, truncation_schedule
    from learned_optimization.tasks import base

    settings, rule = unroll.settings, unroll.design.rule
    assert isinstance(rule, MLP)
    optimizer = adafac_mlp_lopt.AdafacMLPLOpt(hidden_size=rule.hidden_size)
    truncated = lopt_truncated_step.VectorizedLOptTruncatedStep(
        base.single_task_to_family(_digits(family)), optimizer,
        truncation_schedule.ConstantTruncationSchedule(settings.horizon), settings.num_tasks,
        random_initial_iteration_offset=settings.horizon)
    estimator = truncated_pes.TruncatedPES(truncated, trunc_length=settings.truncation, std=settings.sigma,
                                           steps_per_jit=settings.truncation)
    return estimator, optimizer.init(jax.random.PRNGKey(0))


def _digits(family: TaskFamily) -> Any:
    """The family's task in the library's terms."""
    import jax
    from jax import numpy
    from learned_optimization.tasks import base
    from learned_optimization.tasks.datasets.base import Datasets

    generator = torch.Generator()
    shapes = {name: tuple(leaf.shape) for name, leaf in family.init(generator, family.sample(generator)).items()}

    class Digits(base.Task):
        datasets = Datasets(*[_batches(family)] * 4)

        def init(self, key: Any) -> Any:
            return {name: 0.1 * jax.random.normal(key, shape) for name, shape in shapes.items()}

        def loss(self, params: Any, key: Any, batch: Any) -> Any:
            hidden = jax.nn.relu(batch["inputs"] @ params["0.weight"].T + params["0.bias"])
            logits = hidden @ params["1.weight"].T + params["1.bias"]
            labels = jax.nn.one_hot(batch["targets"], logits.shape[-1])
            return numpy.mean(base.softmax_cross_entropy(logits=logits, labels=labels))

    return Digits()


def _batches(family: TaskFamily) -> Iterator[dict[str, Any]]:
    inputs, targets = (family.data.inner[name].flatten(1) if name == "inputs" else family.data.inner[name].int()
                       for name in ("inputs", "targets"))
    generator = torch.Generator().manual_seed(0)
    while True:
        rows = torch.randint(len(targets), (family.batch_size,), generator=generator)
        yield {"inputs": inputs[rows].numpy(), "targets": targets[rows].numpy()}


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Stand-ins where it is not installed; who asks for tensorflow in earnest does so before."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    # It looks for tensorflow as well, and takes a stand-in for the real one.
    import flax.io  # noqa: F401

    stand_ins = [] if find_spec("tensorflow") else list(UNNEEDED)
    sys.modules.update({name: MagicMock() for name in stand_ins})
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
