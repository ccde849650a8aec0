"""What this machine can do at most on one core, and how much of it an inner step has to use."""

import os
import time
from typing import Any

import torch

from optsearch.bench.timing import Contender
from optsearch.bench.unrolls import Unroll
from optsearch.optimizers.feature_groups import PARAMETER_GROUPS
from optsearch.search.environment import cpu_name
from optsearch.tasks import TaskFamily
from optsearch.trees import Tree

MATRIX_SIZE = 1024
COPIED_BYTES = 1 << 27
BYTES_PER_NUMBER = 4
# The way back through a product is two products, and the way back through a step moves all that the step moves twice.
PASSES = {"backprop": 3}


def machine() -> dict[str, Any]:
    """What the figures depend on, with both ceilings."""
    first, second = (torch.rand(MATRIX_SIZE, MATRIX_SIZE) for _ in range(2))
    product = torch.empty_like(first)
    source = torch.rand(COPIED_BYTES // BYTES_PER_NUMBER)
    target = torch.empty_like(source)
    return {
        "cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "matmul_gigaflops": 2 * MATRIX_SIZE**3 / best_seconds(lambda: torch.mm(first, second, out=product)) / 1e9,
        "copy_gigabytes_per_second": 2 * COPIED_BYTES / best_seconds(lambda: target.copy_(source)) / 1e9,
    }


def percents(unroll: Unroll, family: TaskFamily, inner_steps_per_second: float,
             of: dict[str, Any]) -> dict[str, float]:
    """Counted arithmetic and counted traffic as percent of the ceilings of a `machine()`."""
    passes = PASSES.get(unroll.estimator, 1)
    params = family.init(torch.Generator(), family.sample(torch.Generator()))
    flops = inner_flops(params, family.batch_size) + rule_flops(unroll, params)
    rates = {"ceiling_percent": flops / (1e9 * of["matmul_gigaflops"]),
             "bytes_percent": step_bytes(unroll, params) / (1e9 * of["copy_gigabytes_per_second"])}
    return {name: 100 * passes * inner_steps_per_second * share for name, share in rates.items()}


def inner_flops(params: Tree, batch_size: int) -> int:
    """Of the inner model's gradient: 2 · batch · (2 Σ matrices + Σ matrices but the first).

    One product a matrix forward, one for its own gradient, one to pass the gradient on to the layer before.
    """
    sizes = [leaf.numel() for leaf in params.values() if leaf.dim() == 2]
    return 2 * batch_size * (3 * sum(sizes) - sizes[0])


def rule_flops(unroll: Unroll, params: Tree) -> int:
    """Of the rule: 2 · parameters · Σ matrices, the first of them as wide as there are features a parameter.

    Features of rows, of columns and of the step need not be multiplied for every parameter, so they don't count.
    """
    features = unroll.design.features
    weights = unroll.design.init_weights(torch.Generator())
    matrices = [leaf for name, leaf in weights.items() if name.startswith("rule.") and leaf.dim() == 2]
    shared = features.num_inputs - sum(features.width(name) for name in features.names if name in PARAMETER_GROUPS)
    each = sum(matrix.numel() for matrix in matrices) - shared * matrices[0].shape[0]
    return 2 * _count(params) * each


def step_bytes(unroll: Unroll, params: Tree) -> int:
    """Params, gradient and the optimizer's state, each read and written once."""
    return 2 * BYTES_PER_NUMBER * (2 * _count(params) + _count(unroll.design.init(params)))


def _count(tree: Tree) -> int:
    return sum(leaf.numel() for leaf in tree.values())


def best_seconds(work: Contender, repetitions: int = 12) -> float:
    """The shortest of several times."""
    def once() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return min(once() for _ in range(repetitions))
