"""The command line: `python -m benchmarks COMMAND`; see `--help`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from benchmarks import imbalance, report
from benchmarks.data import LOADERS, DataError
from benchmarks.methods import METHODS
from benchmarks.speed import report as speed_report
from benchmarks.speed.cases import PARTS, SMOKE, Protocol
from benchmarks.speed.run import run as run_speed

RUNS = Path("runs")
STOPPED = 130
"""Exit code after Ctrl-C."""
COMMITTED = Path(__file__).parent / "results"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def _names(text: str) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"no method {', '.join(wrong)} (choose from {', '.join(METHODS)})")
    return list(dict.fromkeys(names))


def _parts(text: str) -> list[str]:
    letters = text.split(",")
    if wrong := [letter for letter in letters if letter not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(wrong)} (choose from {', '.join(PARTS)})")
    return list(dict.fromkeys(letters))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _factors(text: str) -> tuple[int, ...]:
    return tuple(sorted({_count(part) for part in text.split(",")}))


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m benchmarks", description="Benchmarks of also_optax on real data.")
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser(
        "imbalance",
        help="class imbalance: train, then report",
        description="Parity of the class, odd classes thinned. Finished methods are kept; a rerun goes on from there.",
    )
    job.add_argument("--data", choices=LOADERS, default="digits", help="default: %(default)s")
    job.add_argument("--methods", type=_names, default=list(METHODS), metavar="A,B", help=f"of {', '.join(METHODS)}")
    job.add_argument("--seeds", type=_count, help="how many (default: 10; 5 for mnist-5k, 3 for fashion-mnist)")
    job.add_argument("--uc", type=_factors, metavar="5,10", help="how many times fewer odd examples")
    job.add_argument("--steps", type=_count, help="of the optimizer")
    job.add_argument("--smoke", action="store_true", help="everything, tiny; into a temporary folder unless --out")
    job.add_argument("--fresh", action="store_true", help="train again what is there already")
    job.add_argument("--out", type=Path, help="folder of results (default: runs, here)")
    speed = commands.add_parser(
        "speed",
        help="what the adversary costs: measure, then report",
        description="Ratios of programs that take turns. Finished cases are kept; a rerun goes on from there.",
    )
    about = "; ".join(f"{letter}: {what}" for letter, what in PARTS.items())
    speed.add_argument("--parts", type=_parts, default=list(PARTS), metavar="a,b", help=about)
    speed.add_argument(
        "--cases",
        type=lambda text: text.split(","),
        default=[],
        metavar="X,Y",
        help="only cases whose name holds one of these, such as mlp/scan or lazy/1e?",
    )
    speed.add_argument("--smoke", action="store_true", help="everything, tiny; into a temporary folder unless --out")
    speed.add_argument("--fresh", action="store_true", help="measure again what is there already")
    speed.add_argument("--out", type=Path, help="folder of results (default: runs, here)")
    again = commands.add_parser("report", help="make tables and pictures again, from the results files alone")
    again.add_argument("--out", type=Path, help="folder of results (default: benchmarks/results)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.command == "report":
            return _report(options.out or COMMITTED, console)
        if options.command == "speed":
            return _speed(options, console)
        return _imbalance(options, console)
    except (DataError, report.NoResultsError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. What is finished is kept: the same command goes on from there.")
        return STOPPED


def _imbalance(options: argparse.Namespace, console: Console) -> int:
    protocol = imbalance.PROTOCOLS[options.data]
    if options.smoke:
        protocol = imbalance.smoke(protocol)
    asked = {name: getattr(options, name) for name in ("seeds", "uc", "steps")}
    protocol = replace(protocol, **{name: value for name, value in asked.items() if value is not None})
    out = _folder(options)
    file = imbalance.run(protocol, options.methods, out, fresh=options.fresh, console=console)
    report.make(file, console, imbalance.study_of(protocol))
    return 0


def _speed(options: argparse.Namespace, console: Console) -> int:
    protocol = SMOKE if options.smoke else Protocol()
    file = run_speed(protocol, options.parts, options.cases, _folder(options), fresh=options.fresh, console=console)
    speed_report.make(file, console, protocol.study)
    return 0


def _folder(options: argparse.Namespace) -> Path:
    """Of the results."""
    return options.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if options.smoke else RUNS)


def _report(out: Path, console: Console) -> int:
    makers = {"imbalance-*.jsonl": report.make, "speed.jsonl": speed_report.make}
    files = [(file, make) for pattern, make in makers.items() for file in sorted(out.glob(pattern))]
    if not files:
        raise report.NoResultsError(f"no results ({' or '.join(makers)}) in {out}")
    for file, make in files:
        make(file, console)
    return 0


if __name__ == "__main__":
    code = main()
    if code == STOPPED:
        sys.stdout.flush()
        os._exit(code)  # XLA, stopped in the middle of compiling, may crash an orderly end
    sys.exit(code)
