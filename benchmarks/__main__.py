"""The command line: `python -m benchmarks COMMAND`; see `--help`."""

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from benchmarks import jobs as job_list
from benchmarks import records, report
from benchmarks.data import DataError
from benchmarks.experiments import EXPERIMENTS
from benchmarks.speed import report as speed_report
from benchmarks.speed.cases import PARTS, SMOKE, Protocol
from benchmarks.speed.run import run as run_speed

RUNS = Path("runs")
STOPPED = 130
"""Exit code after Ctrl-C."""
ALL = "all"
COMMITTED = Path(__file__).parent / "results"
PAGES = ("README.md", "docs/methods.md", "notebooks/README.md")
"""Pages of the project that hold pieces of the reports."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parts(text: str) -> list[str]:
    letters = text.split(",")
    if wrong := [letter for letter in letters if letter not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(wrong)} (choose from {', '.join(PARTS)})")
    return list(dict.fromkeys(letters))


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m benchmarks", description="Benchmarks of also_optax on real data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    abouts = {name: experiment.about for name, experiment in EXPERIMENTS.items()}
    for name, about in (abouts | {ALL: "all of them, one after another"}).items():
        job = commands.add_parser(
            name, help=about, description=f"{about}. Finished jobs are kept; a rerun goes on from there."
        )
        size = job.add_mutually_exclusive_group()
        size.add_argument("--quick", dest="size", action="store_const", const="quick", help="at most five minutes")
        size.add_argument(
            "--smoke",
            dest="size",
            action="store_const",
            const="smoke",
            help="everything, tiny; into a temporary folder unless --out",
        )
        job.add_argument(
            "--only", type=_words, default=[], metavar="X,Y", help="only jobs whose name holds one of these words"
        )
        job.add_argument("--list", action="store_true", help="names of the jobs, and whether each is done; runs none")
        _common(job)
    speed = commands.add_parser(
        "speed",
        help="what the adversary costs: measure, then report",
        description="Ratios of programs that take turns. Finished cases are kept; a rerun goes on from there.",
    )
    about = "; ".join(f"{letter}: {what}" for letter, what in PARTS.items())
    speed.add_argument("--parts", type=_parts, default=list(PARTS), metavar="a,b", help=about)
    speed.add_argument(
        "--cases",
        type=_words,
        default=[],
        metavar="X,Y",
        help="only cases whose name holds one of these, such as mlp/scan or lazy/1e?",
    )
    speed.add_argument("--smoke", action="store_true", help="everything, tiny; into a temporary folder unless --out")
    _common(speed)
    again = commands.add_parser("report", help="make tables and pictures again, from the results files alone")
    again.add_argument("--out", type=Path, help="folder of results (default: benchmarks/results, and README's pieces)")
    again.add_argument("--check", action="store_true", help="write nothing; fail where a page differs from its lines")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fresh", action="store_true", help="do again what is there already")
    parser.add_argument("--out", type=Path, help="folder of results (default: runs, here)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.command == "report":
            return _report(options, console)
        if options.command == "speed":
            return _speed(options, console)
        names = EXPERIMENTS if options.command == ALL else [options.command]
        out = _folder(options, options.size == "smoke")
        return max(_experiment(name, options, out, console) for name in names)
    except (DataError, report.NoResultsError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. What is finished is kept: the same command goes on from there.")
        return STOPPED


def _experiment(name: str, options: argparse.Namespace, out: Path, console: Console) -> int:
    experiment = EXPERIMENTS[name]
    protocol = experiment.protocols[options.size or "full"]
    jobs = [job for job in experiment.jobs(protocol) if _asked(job.name, options.only)]
    if not jobs and options.command == ALL:
        return 0
    if not jobs:
        raise report.NoResultsError(f"no job of {name} has {', '.join(options.only)} in its name; see --list")
    file = out / f"{name}.jsonl"
    console.rule(name)
    if options.list:
        job_list.show(protocol, jobs, file, console)
        return 0
    failed = job_list.run(name, protocol, jobs, file, fresh=options.fresh, console=console)
    report.make(file, functools.partial(report.render, experiment), console, job_list.study_of(protocol))
    return int(failed > 0)


def _asked(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)


def _speed(options: argparse.Namespace, console: Console) -> int:
    protocol = SMOKE if options.smoke else Protocol()
    out = _folder(options, options.smoke)
    file = run_speed(protocol, options.parts, options.cases, out, fresh=options.fresh, console=console)
    report.make(file, speed_report.render, console, protocol.study)
    return 0


def _folder(options: argparse.Namespace, temporary: bool) -> Path:
    """Of the results."""
    return options.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if temporary else RUNS)


def _report(options: argparse.Namespace, console: Console) -> int:
    out = options.out or COMMITTED
    files = list(_files(out))
    if not files:
        raise report.NoResultsError(f"no results in {out}")
    pages = [report.ROOT / page for page in PAGES if options.out is None and (report.ROOT / page).is_file()]

    def piece(name: str, title: str) -> str:
        found: dict[str, tuple[Path, report.Render]] = {file.stem: (file, render) for file, render in files}
        experiments = [file for file, _ in files if file.stem in EXPERIMENTS]
        found["suite"] = (out / "suite", lambda *_: report.suite(experiments))
        if name not in found:
            raise report.NoResultsError(f"no results of {name} in {out}")
        return report.piece(*found[name], title)

    if options.check:
        wrong = [text for file, render in files for text in report.wrong_pages(file, render)]
        wrong += [f"{page} differs from its lines" for page in pages if report.fill(page, piece) != page.read_text()]
        for text in wrong:
            Console(stderr=True).print(text, style="red", markup=False)
        console.print(f"{len(files) + len(pages) - len(wrong)} pages are what their lines say.")
        return int(bool(wrong))
    for file, render in files:
        report.make(file, render, console)
    for page in pages:
        page.write_text(report.fill(page, piece))
    return 0


def _files(out: Path) -> Iterator[tuple[Path, report.Render]]:
    renders: dict[str, report.Render] = {
        name: functools.partial(report.render, experiment) for name, experiment in EXPERIMENTS.items()
    }
    for name, render in (renders | {"speed": speed_report.render}).items():
        file = out / f"{name}.jsonl"
        if records.read(file):
            yield file, render


if __name__ == "__main__":
    code = main()
    if code == STOPPED:
        sys.stdout.flush()
        os._exit(code)  # XLA, stopped in the middle of compiling, may crash an orderly end
    sys.exit(code)
