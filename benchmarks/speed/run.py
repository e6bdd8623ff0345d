"""Runs the cases one after another, each line kept when it is done, with a bar that shows the time left."""

import gc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from subprocess import CalledProcessError

from rich.console import Console

from benchmarks import records
from benchmarks.progress import progress
from benchmarks.speed import compiling, devices, dual, importing, rules, sweep
from benchmarks.speed.cases import (
    BATCH_RULES,
    COMPILING,
    DEVICES,
    DUAL_UPDATE,
    IMPORTING,
    SWEEP,
    WHOLE_STEP,
    Case,
    Protocol,
    cases,
)
from benchmarks.speed.steps import WholeSteps


def run(
    protocol: Protocol, parts: Sequence[str], patterns: Sequence[str], out: Path, *, fresh: bool, console: Console
) -> Path:
    """Measures what is not yet in the results file, and returns that file.

    Args:
      protocol: the sizes.
      parts: letters of `PARTS`.
      patterns: what names of cases must hold one of; none is all.
      out: the folder of results.
      fresh: whether to drop what the file has of these cases first.
      console: where the progress bar goes.
    """
    file = out / "speed.jsonl"
    asked = cases(protocol, parts, patterns)
    lines = records.read(file)
    if fresh:
        hashes = {case.hash(protocol) for case in asked}
        lines = [line for line in lines if line["settings_hash"] not in hashes]
        records.write(file, lines)
    done = {line["settings_hash"] for line in lines if "error" not in line}
    todo = [case for case in asked if case.hash(protocol) not in done]
    if len(todo) < len(asked):
        console.print(f"Already in {file}: {len(asked) - len(todo)} cases. (--fresh measures them again.)")
    if todo:
        _measure_all(protocol, todo, file, console)
    return file


def _measure_all(protocol: Protocol, todo: Sequence[Case], file: Path, console: Console) -> None:
    measures = {
        WHOLE_STEP: WholeSteps().measure,
        DUAL_UPDATE: dual.measure,
        COMPILING: compiling.measure,
        DEVICES: devices.measure,
        SWEEP: sweep.measure,
        BATCH_RULES: rules.measure,
        IMPORTING: importing.measure,
    }
    provenance = records.provenance()
    with progress(console) as bars:
        bar = bars.add_task("", total=sum(case.weight for case in todo))
        passed = 0.0
        for case in todo:
            bars.update(bar, description=case.name)

            def on_pair(fraction: float, before: float = passed, weight: float = case.weight) -> None:
                bars.update(bar, completed=before + fraction * weight)

            try:
                found = measures[case.part](case, protocol, on_pair)
            except (RuntimeError, ValueError, TypeError, MemoryError, CalledProcessError) as error:
                found = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
                console.print(f"{case.name} failed: {found['error']}", style="red", markup=False)
            line = {
                "experiment": "speed",
                "case": case.name,
                **asdict(case),
                **found,
                "protocol": asdict(protocol),
                "study": protocol.study,
                "settings_hash": case.hash(protocol),
                **provenance,
            }
            records.append(file, [line])
            passed += case.weight
            bars.update(bar, completed=passed)
            gc.collect()  # tables of the next case may need the room
