"""Compile the kernels of a step as a GPU of a given capability would have them, and print what each takes; run alone.

`python compiled_kernels.py 90` prints one JSON object a kernel: its name, registers and bytes of stack a thread.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from optsearch.export.fused import FusedOptimizer
from optsearch.optimizers import DESIGNS, Observation
from optsearch.seeds import generator

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class NoGPU:
    """A driver that says what there is to compile for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_only(kernel: JITFunction, *arguments: Any, warmup: bool, **named: Any) -> Any:
    """With the very arguments that it would be called with, and not run."""
    found = run(kernel, *arguments, warmup=True, **named)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "-res-usage", file.name], check=True, capture_output=True, text=True)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage.stdout + usage.stderr)}
    print(json.dumps({"name": kernel.__name__, "registers": numbers["REG"], "stack": numbers["STACK"]}))
    return found


run = JITFunction.run
driver.set_active(NoGPU())
JITFunction.run = compiled_only
for design in ("small_fc", "celo2", "adamw_mlp"):
    optimizer = FusedOptimizer.of(DESIGNS[design][0])
    params = {"vector": torch.ones(768), "matrix": torch.ones(64, 768), "narrow": torch.ones(5, 37)}
    optimizer.update(optimizer.init_weights(generator(0)), Observation(params, params), optimizer.init(params))
