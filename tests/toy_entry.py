"""What toy trials do in their process: pure Python that is quick to start."""

import json
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

# For processes of tests: what they have in common is imported once.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["optsearch.search.recovery", "pytest"])


def train(job, channel):
    """Sends `num_steps` points, keeps a checkpoint every other step, and comes to harm where the job says."""
    checkpoint = Path(job["checkpoint"])
    start = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    log(job, f"from {start} in {os.getpid()}")
    for step in range(start, job["num_steps"]):
        time.sleep(job["step_seconds"])
        if not channel.point({"step": step, "value": job["x"]}):
            return {"value": job["x"], "stopped": True}
        if step % 2:
            checkpoint.write_text(json.dumps(step + 1))
        is_killed = job["number"] in job["killed"] and step == 2 and start == 0
        if is_killed or job["number"] in job["doomed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if job["number"] in job["broken"]:
            raise ArithmeticError("no luck")
    return {"value": job["value"]}


def environment(job, channel):
    """What the child sees."""
    return {"environment": dict(os.environ), "pid": os.getpid(), "job": job}


def quit_at_once(job, channel):
    """Ends the process as C code would."""
    os._exit(3)


def log(job, line):
    """One line about what a child did, for tests to read."""
    with open(Path(job["checkpoint"]).with_suffix(".log"), "a") as file:
        file.write(line + "\n")
