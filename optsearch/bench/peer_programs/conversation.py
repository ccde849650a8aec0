"""Runs a peer's `suggestions(task)` as a child process, which speaks JSON lines: the task in, then turns.

A turn is a suggestion out (`design`, `params`, perhaps `budget`, `seconds`) and its `value` in; the end of the
input ends it. `seconds` is the processor time since the task came, so that start-up and imports don't count.

    python conversation.py smac_peer.py
"""

import json
import os
import runpy
import sys
import time


def main(program: str) -> None:
    # What a library prints must not come between the turns.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    suggestions = runpy.run_path(program)["suggestions"]
    task = json.loads(sys.stdin.readline())
    started = time.process_time()
    turns = suggestions(task)
    suggestion = next(turns)
    while True:
        seconds = time.process_time() - started
        answers.write(json.dumps(suggestion | {"seconds": seconds}) + "\n")
        answers.flush()
        line = sys.stdin.readline()
        if not line:
            return
        suggestion = turns.send(json.loads(line)["value"])


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        # Messages may have many lines; the other side shows the last.
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
