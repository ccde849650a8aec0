"""What more processes bring: meta-training in one and in two at a time."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, wait
from statistics import median
from typing import Any

import torch

from optsearch.bench.timing import Report
from optsearch.bench.unrolls import MetaStep, Unroll, digits

TURN_SECONDS = 3.0
_made: dict[Unroll, MetaStep] = {}


def measure(unroll: Unroll, repetitions: int, report: Report) -> dict[str, Any]:
    """Inner steps a second of one process and of two, uncompiled, and the ratio within each round."""
    ones, twos = [], []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        _rate(pool, unroll, 2)
        for repetition in range(repetitions):
            ones.append(_rate(pool, unroll, 1))
            twos.append(_rate(pool, unroll, 2))
            report((repetition + 1) / repetitions)
    return {"name": unroll.name, "one": median(ones), "two": median(twos),
            "ratio": median(two / one for one, two in zip(ones, twos, strict=True))}


def _rate(pool: ProcessPoolExecutor, unroll: Unroll, num_workers: int) -> float:
    running = [pool.submit(_turn, unroll) for _ in range(num_workers)]
    wait(running)
    return sum(turn.result() for turn in running)


def _turn(unroll: Unroll) -> float:
    """Inner steps a second over a few seconds in this process."""
    torch.set_num_threads(1)
    if unroll not in _made:
        _made[unroll] = MetaStep(unroll, digits(), is_compiled=False)
        _made[unroll]()
    num_calls, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < TURN_SECONDS:
        _made[unroll]()
        num_calls += 1
    return num_calls * unroll.inner_steps / passed
