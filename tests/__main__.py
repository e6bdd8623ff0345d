"""Every check of this project, as one command: ``python -m tests`` (or only some: ``python -m tests lint types``).

What the tests compile is kept in ``.xla_cache``, so that a second run takes a part of the time.

``python -m tests nightly`` runs what takes too long for every change: a million weights against float64, variants of
the rules under the contract and on every mesh; and all in both precisions, fully optimized by the compiler.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = ["pytest", "-q", "-n", "2", "--dist", "worksteal"]  # a file's tests, mostly, share what they have compiled
COMPILED_ONCE = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".xla_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
IN_A_HURRY = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}
"""Half of the compiler's work is left out, for tests that compile much and compute little; not so by night."""

SITE = "tests/site"
"""Tests of the site of `docs`, which build it first: in one process."""

EXPERIMENTS = "tests/experiments"
"""Tests of what is under `benchmarks`: always float32."""

COMPILED = ("lazy", "optima", "fixed_points", "notebooks")
"""Tests that look at compiled programs, or compute long enough for the compiler's work to pay."""

OWN_PRECISION = ("sharding", "optima", "notebooks", "plotting", "packaging", "integrations", "migration")
"""Tests that turn float64 on where they need it, do not look at numbers, or run programs that are in float32."""

ONCE = ("faults/test_kill.py", "faults/test_dead_process.py")
"""Tests of processes, which have a precision of their own: one night's run is enough."""

X64 = {"JAX_ENABLE_X64": "1"}
FLOAT64 = ("official", "also", "absgd", "rgd", "group_dro", "batch_rules", "simplex", "strength")
"""Comparisons with references to 1e-10 that the gate makes too; by night everything is run in float64."""


def files(*names: str) -> list[str]:
    return [f"tests/test_{name}.py" for name in names]


def without(*paths: str) -> list[str]:
    return [f"--ignore={path}" for path in paths]


ALL = ["-m", "slow or not slow"]
CHECKS = {
    "format": (["ruff", "format", "--check", "."], {}),
    "lint": (["ruff", "check", "."], {}),
    "types": (["mypy"], {}),
    "float32": ([*PYTEST, *without(SITE, *files(*COMPILED))], IN_A_HURRY),
    "compiled": ([*PYTEST, *files(*COMPILED)], {}),
    "x64": ([*PYTEST, *files(*FLOAT64)], X64 | IN_A_HURRY),
    "docs": (["pytest", "-q", SITE], IN_A_HURRY),
    "smokes": (["benchmarks", "all", "--smoke"], IN_A_HURRY),
    "speed": (["benchmarks", "speed", "--smoke"], IN_A_HURRY),
}
ONE_CORE = ("smokes", "docs", "speed", "types")
"""Checks that leave the other core free: two at a time, the longest first, what they say shown when they are done."""

ONLY_FLOAT32 = [*files(*OWN_PRECISION), EXPERIMENTS, *(f"tests/{path}" for path in ONCE)]
NIGHTLY = {
    "float32-all": ([*PYTEST, *ALL, *without(SITE)], {}),
    "x64-all": ([*PYTEST, *ALL, *without(SITE, *ONLY_FLOAT32)], X64),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__)
    known = CHECKS | NIGHTLY
    parser.add_argument("checks", nargs="*", metavar="check", help=f"of nightly, {', '.join(known)}; default: the gate")
    chosen = parser.parse_args().checks or list(CHECKS)
    chosen = [name for asked in chosen for name in (NIGHTLY if asked == "nightly" else [asked])]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"no check {', '.join(unknown)}; there are nightly, {', '.join(known)}")

    passed = {name: _passes(name, *known[name]) for name in chosen if name not in ONE_CORE}
    beside = [name for name in ONE_CORE if name in chosen]
    with ThreadPoolExecutor(2) as pool:
        at_once = len(beside) == 1
        passed |= zip(beside, pool.map(lambda name: _passes(name, *known[name], at_once=at_once), beside), strict=True)
    failed = [name for name in chosen if not passed[name]]
    if failed:
        _say(f"failed: {', '.join(failed)}\n")
    return int(bool(failed))


def _passes(name: str, command: list[str], environment: dict[str, str], *, at_once: bool = True) -> bool:
    """Runs a check; what it says is shown as it comes, or (not `at_once`) in one piece when it is done."""
    begin = f"--- {name}: {' '.join(command)}\n"
    if at_once:
        _say(begin)
    start = time.monotonic()
    pipes = {} if at_once else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | COMPILED_ONCE | environment
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, **pipes)
    end = f"--- {name}: {'FAILED' if done.returncode else 'passed'} in {time.monotonic() - start:.0f} s\n"
    _say(end if at_once else begin + done.stdout + end)
    return done.returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
