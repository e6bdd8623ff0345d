"""Experiments as lists of jobs: each is done once, and its lines are kept when it is done.

A job is known by a hash of what decides its result. Stopped at any time, an experiment has all finished jobs in its
results file, and the next run does the others. Later jobs may look at the lines of earlier ones: a final run reads what
tuning found.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks import records
from benchmarks.progress import progress
from benchmarks.records import Line

FAILURES = (RuntimeError, ValueError, TypeError, MemoryError, ArithmeticError)


class Job(NamedTuple):
    """A piece of an experiment, from seconds to a few minutes.

    Attributes:
      name: for the bar, and to choose by.
      settings: what decides its lines, besides the protocol; JSON.
      weight: how long it takes, relative to the others.
      work: ``work(lines, on_progress) -> lines``, from the study's lines so far; calls ``on_progress(fraction)``.
    """

    name: str
    settings: Mapping[str, Any]
    weight: float
    work: Callable[[Sequence[Line], Callable[[float], None]], Sequence[Line]]


def run(
    experiment: str, protocol: Any, jobs: Sequence[Job], file: Path, *, fresh: bool = False, console: Console
) -> int:
    """Does those of `jobs` that are not yet in `file`; returns how many failed.

    Args:
      experiment: its name, in every line.
      protocol: a frozen dataclass of the sizes, in every line.
      jobs: in order.
      file: of JSON lines.
      fresh: whether to drop what the file has of these jobs first.
      console: where the bar goes.
    """
    study = study_of(protocol)
    hashes = [_hash(study, job) for job in jobs]
    lines = records.read(file)
    if fresh:
        lines = [line for line in lines if line["job"] not in hashes]
        records.write(file, lines)
    done = {line["job"] for line in lines if "error" not in line}
    todo = [(job, name) for job, name in zip(jobs, hashes, strict=True) if name not in done]
    if len(todo) < len(jobs):
        console.print(f"Already in {file}: {len(jobs) - len(todo)} of {len(jobs)} jobs. (--fresh does them again.)")
    if not todo:
        return 0
    common = {"protocol": asdict(protocol), "study": study} | records.provenance()
    failed = 0
    with progress(console) as bars:
        bar = bars.add_task("", total=sum(job.weight for job, _ in todo))
        passed = 0.0
        for job, name in todo:
            bars.update(bar, description=job.name)

            def on_progress(fraction: float, before: float = passed, weight: float = job.weight) -> None:
                bars.update(bar, completed=before + fraction * weight)

            started = time.perf_counter()
            try:
                found = job.work([line for line in lines if line["study"] == study], on_progress)
            except FAILURES as error:
                found = [{"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}]
                failed += 1
                console.print(f"{job.name} failed: {found[0]['error']}", style="red", markup=False)
            wall = {"job": name, "job_name": job.name, "job_seconds": round(time.perf_counter() - started, 2)}
            new = [{"experiment": experiment, **line, **wall, **common, "time": records.now()} for line in found]
            lines = [line for line in lines if line["job"] != name] + new
            records.write(file, lines)
            passed += job.weight
            bars.update(bar, completed=passed)
    return failed


def show(protocol: Any, jobs: Sequence[Job], file: Path, console: Console) -> None:
    """Prints the names of `jobs`, and which of them are done."""
    done = {line["job"] for line in records.read(file) if "error" not in line}
    for job in jobs:
        mark = "done" if _hash(study_of(protocol), job) in done else "    "
        console.print(f"{mark} {job.name}", markup=False, highlight=False)


def study_of(protocol: Any) -> str:
    """A short name for `protocol`, in every line of it: tables are made of lines of one study."""
    return records.hash_of(asdict(protocol))


def _hash(study: str, job: Job) -> str:
    return records.hash_of({"study": study, "job": job.settings})
