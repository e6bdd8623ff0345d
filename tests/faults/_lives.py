"""Starts training processes, and kills them when they say what they are about to do."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 900
"""No process lives longer."""


class Kill(NamedTuple):
    """When a process is killed.

    Attributes:
      before: what the process says that it is about to do: "restore", "step" or "save".
      step: the first one of that step or a later one.
      delay: seconds from there.
    """

    before: str
    step: int
    delay: float


class Life(NamedTuple):
    """What a process said: words with the number of the step, and how it ended."""

    said: list[tuple[str, int]]
    code: int

    def last(self, word: str) -> int | None:
        """The last step of which it said `word`."""
        return next((step for said, step in reversed(self.said) if said == word), None)


def live(job: dict[str, Any], cache: Path, kill: Kill | None = None) -> Life:
    """Runs a training process to its end, or to its death by SIGKILL; compiled programs are kept in `cache`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "tests.faults._training", json.dumps(job)]
    said = []
    with (Path(job["folder"]) / "log.txt").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        watchdog = threading.Timer(SECONDS, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # killed within a word
                word, step = line.split()
                said.append((word, int(step)))
                if kill is not None and word == kill.before and int(step) >= kill.step:
                    time.sleep(kill.delay)
                    process.kill()
                    kill = None
        finally:
            watchdog.cancel()
            process.kill()
            code = process.wait()
    return Life(said, code)
