"""JSON lines: one a result, with everything that is needed to repeat it; and which of them are done already."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import also_optax

Line = dict[str, Any]


def hash_of(settings: Mapping[str, Any]) -> str:
    """A short name for `settings`: equal settings, equal names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def provenance() -> Line:
    """Versions, commit and time, for every line."""
    versions = {name: metadata.version(name) for name in ("jax", "optax", "flax", "scikit-learn", "numpy")}
    versions |= {"also_optax": also_optax.__version__, "python": platform.python_version()}
    return {
        "versions": versions,
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "time": now(),
    }


def read(file: Path) -> list[Line]:
    """The lines of `file`, none if it is not there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def rounded(values: Any, digits: int = 5) -> Any:
    """Numbers, or nested lists of an array's, short; what is not finite becomes None, which JSON knows."""
    values = np.asarray(values)
    if values.ndim:
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if np.isfinite(values) else None


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(file: Path, lines: Sequence[Line]) -> None:
    """Adds `lines`: all of them or, if it is stopped, none."""
    write(file, [*read(file), *lines])


def write(file: Path, lines: Sequence[Line]) -> None:
    """Puts `lines` in the place of all that was there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(temporary, file)


def _commit() -> str | None:
    """The commit of the checkout, with ``+`` behind it where files of the package differ from it; None outside one."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "also_optax", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
