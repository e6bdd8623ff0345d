"""Every check of this project, as one command: ``python -m tests`` (or only some: ``python -m tests lint types``)."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = ["pytest", "-q", "-n", "2"]
CHECKS = {
    "format": (["ruff", "format", "--check", "."], {}),
    "lint": (["ruff", "check", "."], {}),
    "types": (["mypy"], {}),
    "float32": (PYTEST, {}),
    "x64": (PYTEST, {"JAX_ENABLE_X64": "1"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="check", help=f"of {', '.join(CHECKS)}; all by default")
    chosen = parser.parse_args().checks or list(CHECKS)
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        parser.error(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")

    failed = []
    for name in chosen:
        command, environment = CHECKS[name]
        sys.stdout.write(f"--- {name}: {' '.join(command)}\n")
        sys.stdout.flush()
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=os.environ | environment).returncode
        sys.stdout.write(f"--- {name}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s\n")
        if code:
            failed.append(name)
    if failed:
        sys.stdout.write(f"failed: {', '.join(failed)}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
