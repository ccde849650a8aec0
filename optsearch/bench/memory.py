"""How much memory a step needs for the moment."""

import ctypes
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from optsearch.bench.steps import Case, Shapes, params_of

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def extra_peak_megabytes(case: Case, shapes: Shapes) -> float | None:
    """What a step takes on top of params, gradients and state, in a fresh process; None where no one counts it.

    Linux hands its `ru_maxrss` down from parent to child, so the kernel's own count of the process is read.
    """
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_growth, case, shapes).result()


def _growth(case: Case, shapes: Shapes) -> float:
    torch.set_num_threads(1)
    optimizer = case(params_of(shapes))
    # Makes the state, and the kernels where there are any.
    optimizer.step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(CLEAR_PEAK)
    before = _peak_megabytes()
    for _ in range(3):
        optimizer.step()
    return _peak_megabytes() - before


def _peak_megabytes() -> float:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
