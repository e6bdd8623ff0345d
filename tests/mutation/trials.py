"""One mutant: its tests are run on a copy of the tree in which it stands, in a process with a time limit."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutation.mutants import Mutant, source_of

PRELOADED = ["chex", "flax", "jax", "optax", "pytest", "scipy.optimize", "scipy.special"]
"""Imported once, for all processes; not the package itself, which differs from mutant to mutant."""

FORK = multiprocessing.get_context("forkserver")


class Outcome(NamedTuple):
    """What came of a mutant.

    Attributes:
      outcome: "killed" by a test that failed, "survived", or "timeout", which is no kill: a slow machine does the same.
      seconds: that its tests took.
      said: the first test that failed, or the end of what was printed.
    """

    outcome: str
    seconds: float
    said: str


def copy_of(root: Path, folder: Path) -> Path:
    """The files that git knows under `root`, as they stand, in a fresh `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "also_optax", "tests", "benchmarks/*.py", "pyproject.toml", "README.md"],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    return folder


def try_mutant(copy: Path, mutant: Mutant, tests: Sequence[str], limit: float) -> Outcome:
    """Puts `mutant` into `copy`, runs `tests` until one fails, and takes it out again."""
    file = copy / mutant.module
    original = file.read_text()
    try:
        file.write_text(source_of(copy, mutant.module, mutant.operator, mutant.occurrence))
        return run(copy, tests, limit)
    finally:
        file.write_text(original)


def run(copy: Path, tests: Sequence[str], limit: float) -> Outcome:
    """Runs `tests` in `copy`, which is first on the path."""
    log = copy / "log.txt"
    start = time.monotonic()
    process = FORK.Process(target=_pytest, args=(copy, tests, log))
    process.start()
    process.join(limit)
    seconds = round(time.monotonic() - start, 2)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return Outcome("timeout", seconds, f"no end after {limit:g} s")
    said = log.read_text().splitlines() if log.exists() else []
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    if process.exitcode == 0:
        return Outcome("survived", seconds, said[-1] if said else "")
    return Outcome("killed", seconds, (failed or said[-1:] or [f"exit code {process.exitcode}"])[0][:200])


def _pytest(copy: Path, tests: Sequence[str], log: Path) -> None:
    os.setsid()  # a group of its own, so that what it starts can be ended with it
    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.split(".")[0] in ("also_optax", "benchmarks", "tests")]:
        del sys.modules[name]  # this file came from the tree itself, the tests are to come from its copy
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        sys.stdout.flush()
    os._exit(int(code))
