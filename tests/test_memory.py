"""A long meta-training holds its memory."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.optimizers import named_design
from optsearch.tasks import families

MINUTES = 10
WARM_UP_SECONDS = 60


def resident_megabytes() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("compiling", ["always", "never"])
def test_memory_stays_flat_for_ten_minutes(compiling: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The slope over time is within three standard errors of 0, or below a megabyte in ten minutes."""
    settings = replace(MetaTraining(), num_tasks=8)
    plan = Plan(named_design("adamw_mlp"), families("digits_mlp"), settings, 10**9, 10**9 // 4_800, seed=0,
                compiling=compiling)  # type: ignore[arg-type]
    started, seconds, megabytes = time.monotonic(), [], []
    for _ in meta_train(plan):
        passed = time.monotonic() - started
        if passed > WARM_UP_SECONDS + MINUTES * 60:
            break
        if passed > WARM_UP_SECONDS:
            seconds.append(passed)
            megabytes.append(resident_megabytes())
    (slope, _), covariance = np.polyfit(seconds, megabytes, 1, cov=True)
    with capsys.disabled():
        print(f"\n{compiling}: {megabytes[0]:.0f} MB at first, {megabytes[-1]:.0f} MB at last, slope "
              f"{600 * slope:.2f} ± {600 * math.sqrt(covariance[0, 0]):.2f} MB in ten minutes, {len(seconds)} points")
    assert slope < max(3 * math.sqrt(covariance[0, 0]), 1 / 600)
