"""Of two processes that train together one dies: the other ends with an error, and does not wait for ever."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

from tests.faults._lives import ROOT

STEPS = 20
HEARTBEAT = 10
"""Seconds of silence after which a process counts as dead, where its connections do not say so themselves."""

START, LIMIT = 180, 60
"""Seconds that starting and training may take, and that the other process may live on."""


def test_when_one_process_dies_the_other_ends_with_an_error(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    logs = [tmp_path / f"process-{index}.log" for index in range(2)]
    started = []
    try:
        for index, log in enumerate(logs):
            job = {"coordinator": coordinator, "index": index, "steps": STEPS, "heartbeat": HEARTBEAT}
            command = [sys.executable, "-m", "tests.faults._dying", json.dumps(job)]
            with log.open("w") as output:
                started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output))
        first, second = started
        assert second.wait(START) == -signal.SIGKILL, logs[1].read_text()
        died = time.monotonic()
        code = first.wait(LIMIT)
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = logs[0].read_text()
    sys.stdout.write(f"exit code {code}, {time.monotonic() - died:.1f} s after the other's death\n{said}")
    assert code != 0
    steps = [int(step) for step in re.findall(r"^step (\d+)$", said, re.MULTILINE)]
    assert STEPS - 1 <= steps[-1] <= STEPS, "a step was made without the other's half of the batch"
    assert re.search(r"Connection (closed|reset)|heartbeat timeout", said), said
