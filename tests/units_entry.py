"""Toy training in units that are logged, kept before they are reported, and may be killed; quick to start."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PHASES = ("before it is stored", "before it is reported", "after it is reported")


def train(job, channel):
    """Sends a point a unit; `kills` names phases of units, as "order unit phase", that are fatal once each.

    "any" is the order of whichever comes there first.
    """
    checkpoint = Path(job["checkpoint"])
    values = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    for unit, value in enumerate(values, 1):
        if not channel.point({"step": unit, "value": value}):
            return {"value": value}
    for unit in range(len(values) + 1, job["num_units"] + 1):
        log(job, f"begin {job['config']} {unit}")
        time.sleep(job["unit_seconds"])
        perhaps_die(job, unit, PHASES[0])
        values.append(value_after(job["x"], unit))
        draft = checkpoint.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(values))
        draft.replace(checkpoint)
        log(job, f"stored {job['config']} {unit}")
        perhaps_die(job, unit, PHASES[1])
        if not channel.point({"step": unit, "value": values[-1]}):
            perhaps_die(job, unit, PHASES[2])
            break
        perhaps_die(job, unit, PHASES[2])
    return {"value": values[-1]}


def value_after(x, unit):
    """What a design of quality `x` comes to after so many units."""
    return x + 1 / unit


def perhaps_die(job, unit, phase):
    for order in (job["order"], "any"):
        name = f"{order} {unit} {phase}"
        mark = Path(job["checkpoint"]).parent / f"killed {name}"
        if name in job["kills"] and not mark.exists():
            with suppress(FileExistsError):
                # Two that come there at once don't both die of it.
                mark.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)


def log(job, line):
    descriptor = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)
