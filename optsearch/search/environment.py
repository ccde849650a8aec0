"""On what machine, and with which versions."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("optsearch", "torch", "optuna", "botorch", "gpytorch", "numpy")


def cpu_name() -> str:
    """As the system calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of what results depend on, as installed here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # A bare checkout is no installed package.
            continue
    return found
