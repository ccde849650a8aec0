"""What holds for every test."""

import os
import signal

import pytest
import torch

# As in workers: processes side by side, with threads of their own, would wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Kernels are interpreted where there is no GPU; Triton looks when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def nothing_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler's model speaks every time after the start, where every third suggestion would be random."""
    from optsearch.search import gp_sampler

    monkeypatch.setattr(gp_sampler, "RANDOM_SHARE", 10**9)
