"""The suite on every Python and JAX that are supported: ``python -m tests.versions`` (only some: ``floor 3.13``).

Each environment is made once, in a cache folder, and made again where its pins or ``pyproject.toml`` have changed. What
has passed at this commit is not run again, so a matrix that was stopped goes on where it was; with uncommitted changes
everything is run. ``--checks`` names checks of ``python -m tests``, ``--pytest`` gives arguments to pytest instead:

    python -m tests.versions --checks float32 x64
    python -m tests.versions floor --pytest tests/test_also.py -n 1
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.__main__ import ROOT


class Environment(NamedTuple):
    """A Python with packages.

    Attributes:
      name: what it is called on the command line and in the table.
      python: the version of Python, as in ``python3.11``.
      pins: requirements beside those of the extra `test`; none is the newest of all.
    """

    name: str
    python: str
    pins: tuple[str, ...] = ()


ENVIRONMENTS = (
    Environment("floor", "3.11", ("jax==0.8.1", "jaxlib==0.8.1", "optax==0.2.8")),
    Environment("3.11", "3.11"),
    Environment("3.12", "3.12"),
    Environment("3.13", "3.13"),
)
SUITE = ("float32", "compiled", "x64")
"""All tests of the gate but those of the site."""
SHOWN = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
"""Packages whose versions are in the table."""


class Outcome(NamedTuple):
    """What came of an environment and a check.

    Attributes:
      environment: its name.
      check: a name of ``python -m tests``, or pytest with its arguments.
      result: "passed", "FAILED", "passed before" or the reason why it was skipped.
      seconds: how long it took.
      versions: of Python and of the packages in `SHOWN`.
      summary: the last line of its log.
    """

    environment: str
    check: str
    result: str
    seconds: float = 0.0
    versions: str = ""
    summary: str = ""


def main() -> int:
    names = [environment.name for environment in ENVIRONMENTS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="*", metavar="environment", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--checks", nargs="+", default=SUITE, help=f"of `python -m tests`; default: {' '.join(SUITE)}")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, help="run pytest with these arguments instead")
    parser.add_argument("--upgrade", action="store_true", help="make the environments again, with the newest packages")
    chosen = parser.parse_args()
    if unknown := set(chosen.environments) - set(names):
        parser.error(f"no environment {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    commands = {check: ["tests", check] for check in chosen.checks}
    if chosen.pytest:
        commands = {shlex.join(["pytest", *chosen.pytest]): ["pytest", *chosen.pytest]}
    outcomes = []
    for environment in ENVIRONMENTS:
        if environment.name in (chosen.environments or names):
            outcomes += outcomes_of(environment, commands, chosen.upgrade)
    sys.stdout.write(f"\n{table(outcomes)}\nlogs: {cache_folder()}\n")
    return int(any(outcome.result == "FAILED" for outcome in outcomes))


def outcomes_of(environment: Environment, commands: dict[str, list[str]], upgrade: bool) -> list[Outcome]:
    """Makes an environment and runs what has not passed in it at this commit."""
    interpreter = found(environment.python)
    if interpreter is None:
        reason = f"skipped: no python{environment.python} on PATH or among pyenv's"
        return [Outcome(environment.name, check, reason) for check in commands]
    say(f"{environment.name}: {interpreter}")
    folder = cache_folder() / environment.name
    if not made(environment, interpreter, folder, upgrade):
        reason = f"FAILED to install, see {folder / 'install.log'}"
        sys.stdout.write(f"{reason}\n")
        return [Outcome(environment.name, check, "FAILED", summary=reason) for check in commands]
    versions = versions_of(folder)
    return [run(environment, check, command, folder, versions) for check, command in commands.items()]


def found(version: str) -> str | None:
    """An interpreter of a version of Python, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in candidates:
        if candidate is None:
            continue
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        says = subprocess.run([candidate, "-c", code], capture_output=True, text=True)  # a shim may lead nowhere
        if says.returncode == 0 and says.stdout.strip() == version:
            return str(candidate)
    return None


def made(environment: Environment, interpreter: str, folder: Path, upgrade: bool) -> bool:
    """Makes a virtual environment in `folder`, or leaves one that is as it should be; whether that went well."""
    recipe = json.dumps([str(ROOT), interpreter, environment.pins, (ROOT / "pyproject.toml").read_text()])
    marker = folder / "recipe.json"
    if not upgrade and marker.exists() and marker.read_text() == recipe:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "install.log"
    python = str(folder / "venv" / "bin" / "python")
    good = logged([interpreter, "-m", "venv", str(folder / "venv")], log)
    good = good and logged([python, "-m", "pip", "install", "-e", f"{ROOT}[test]", *environment.pins], log)
    if good:
        marker.write_text(recipe)
    return good


def run(environment: Environment, check: str, command: list[str], folder: Path, versions: str) -> Outcome:
    """Runs a command in an environment, unless it has passed there at this commit with these packages."""
    ledger = cache_folder() / "passed.jsonl"
    entry = json.dumps([commit(), environment.name, check, versions])
    if commit() and ledger.exists() and entry in ledger.read_text().splitlines():
        return Outcome(environment.name, check, "passed before", versions=versions)
    log = folder / f"{''.join(letter if letter.isalnum() else '-' for letter in check)[:80]}.log"
    say(f"{environment.name}: {check} -> {log}")
    log.unlink(missing_ok=True)
    start = time.monotonic()
    good = logged([str(folder / "venv" / "bin" / "python"), "-m", *command], log)
    seconds = time.monotonic() - start
    if good and commit():
        with ledger.open("a") as lines:
            lines.write(entry + "\n")
    lines = log.read_text().splitlines()
    summary = next((line for line in reversed(lines) if " in " in line and not line.startswith("---")), "")
    return Outcome(environment.name, check, "passed" if good else "FAILED", seconds, versions, summary.strip("= "))


def logged(command: list[str], log: Path) -> bool:
    """Runs a command from the root with its output added to a log; whether it succeeded."""
    outside = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    with log.open("a") as lines:
        return subprocess.run(command, cwd=ROOT, env=environment, stdout=lines, stderr=lines).returncode == 0


def versions_of(folder: Path) -> str:
    """Python and the packages in `SHOWN`, as they are in an environment."""
    code = (
        "import importlib.metadata, platform, sys\n"
        "print('python', platform.python_version(), *(f'{n} {importlib.metadata.version(n)}' for n in sys.argv[1:]))"
    )
    python = folder / "venv" / "bin" / "python"
    return subprocess.run([python, "-c", code, *SHOWN], check=True, capture_output=True, text=True).stdout.strip()


def commit() -> str | None:
    """The commit that is checked out, or None with changes that are in none."""
    changes = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    if changes.returncode or changes.stdout:
        return None
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def cache_folder() -> Path:
    """Where environments, logs and what has passed are kept: ``$ALSO_OPTAX_VERSIONS``, or the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "also_optax" / "versions"
    return Path(os.environ.get("ALSO_OPTAX_VERSIONS") or default)


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a table of aligned columns."""
    rows = [("environment", "check", "result", "seconds", "what it says", "versions")]
    for outcome in outcomes:
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        rows.append((outcome.environment, outcome.check, outcome.result, seconds, outcome.summary, outcome.versions))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded)


def say(what: str) -> None:
    sys.stdout.write(f"--- {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
