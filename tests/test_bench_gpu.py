"""The benchmark of a GPU: its command, its counts, and its way through, at tiny sizes on a CPU."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from math import prod
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from optsearch.bench import gpu, gpu_page, timing
from optsearch.cli import bench as cli
from optsearch.cli import main

TINY = gpu.GPUEffort(particles=(2, 3), compiled=(), truncation=2, shapes=((8, 16), (8,)), repetitions=1)
META_TRAINING = {"name", "particles", "form", "inner_steps_per_second", "lowest", "highest", "published_ratio",
                 "ceiling_percent", "bytes_percent"}
STEP = {"name", "num_parameters", "num_tensors", "milliseconds", "lowest", "highest", "adamw_fused_ratio"}
LEARNED = STEP | {"has_kernels", "published_ratio", "bytes_floor_milliseconds", "flops_floor_milliseconds",
                  "floor_percent"}


def test_a_model_is_shaped_as_a_vit_b16() -> None:
    assert sum(map(prod, gpu.vit_b16())) == 86_567_656
    assert len(gpu.vit_b16()) == 152


def test_floors_are_what_the_page_says() -> None:
    params = [torch.nn.Parameter(torch.zeros(1000, 500))]
    machine = {"copy_gigabytes_per_second": 1.0, "tf32_gigaflops": 1.0}
    floors = gpu._floors(params, machine)
    # Rows and columns have averages of their own.
    assert floors["bytes_floor_milliseconds"] == pytest.approx(500_000 * 44 / 1e6, rel=0.01)
    assert floors["flops_floor_milliseconds"] == pytest.approx(500_000 * 2 * (16 * 32 + 32 * 32 + 32 * 2) / 1e6)


def test_the_reference_runs_as_published() -> None:
    unroll = gpu._unroll(8, gpu.FULL)
    assert (unroll.settings.truncation, unroll.settings.horizon, gpu._family(torch.device("cpu")).batch_size) == (
        50, 2000, 64)
    # 100,000 meta-steps of four families.
    assert 100_000 * gpu.NUM_FAMILIES * unroll.inner_steps == 320e6


def call(*words: str) -> tuple[str, str, int]:
    out, err = io.StringIO(), io.StringIO()
    with (patch.object(cli, "run_as_workers_do"), patch.object(timing, "MIN_TURN_SECONDS", 0.0),
          patch.object(sys, "argv", ["optsearch", "bench", "engine", *words]), redirect_stdout(out),
          redirect_stderr(err), pytest.raises(SystemExit) as status):
        main()
    return out.getvalue(), err.getvalue(), int(status.value.code or 0)


def test_the_command_prints_and_writes_both_lines(tmp_path: Path) -> None:
    with patch.object(gpu, "device_of", lambda name: torch.device("cpu")), patch.object(gpu, "QUICK", TINY):
        printed, errors, status = call("--device", "cuda:0", "--quick", "--json", "--output", str(tmp_path))
    assert (status, errors) == (0, "")
    content = json.loads(printed)
    assert [set(row) for row in content["meta_training"]] == 3 * [META_TRAINING]
    assert [row["particles"] for row in content["meta_training"]] == [2, 2, 3]
    # A CPU can neither capture nor run kernels, and nothing says so.
    assert {row["form"] for row in content["meta_training"]} == {gpu.CALLS}
    assert [row["name"] for row in content["step"]] == [gpu.LEARNED, gpu.PLAIN, "AdamW, fused"]
    assert [set(row) for row in content["step"]] == [LEARNED, LEARNED, STEP]
    assert not content["step"][0]["has_kernels"]
    assert json.loads((tmp_path / "engine_gpu.json").read_text()) == content
    page = (tmp_path / "engine_gpu.md").read_text()
    assert all(line in page for line in gpu_page.sentences(content))
    assert "| 3 | single calls |" in page


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta"])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    printed, errors, status = call("--device", name)
    assert (printed, status) == ("", 2)
    assert errors.count("\n") == 1
    assert "expected cpu, or one of the" in errors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_both_lines_are_measured_as_they_should_be() -> None:
    content = gpu.measure(gpu.device_of("cuda:0"), TINY, quiet=True)
    assert [row["form"] for row in content["meta_training"]] == [gpu.CALLS, gpu.GRAPHS, gpu.GRAPHS]
    assert content["step"][0]["has_kernels"]
