"""Part g: what ``import also_optax`` takes behind ``import optax``, in a fresh process each time.

Python's garbage is collected in between: what optax and JAX have made by then makes a full collection due soon, some 50
ms that else fall into whatever is imported next.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.timing import Turns

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = """
import gc, json, time
start = time.process_time()
import optax
first = time.process_time() - start
gc.collect()
start = time.process_time()
import also_optax
print(json.dumps([first, time.process_time() - start]))
"""


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`: CPU time of our import over that of optax's, and in milliseconds."""
    del case
    _import_seconds()  # writes bytecode, as an installer does
    ratios, milliseconds = [], []
    for number in range(protocol.compile_pairs):
        first, second = _import_seconds()
        ratios.append(second / first)
        milliseconds.append(round(1000 * second, 2))
        on_pair((number + 1) / protocol.compile_pairs)
    return Turns(ratios, (1, 1)).line() | {"milliseconds": milliseconds}


def _import_seconds() -> tuple[float, float]:
    """CPU seconds of the import of optax, and of ours behind it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTS]
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    first, second = json.loads(said)
    return first, second
