"""``python -m tests.mutation``: 500 mutants of the rules and kernels, each against the tests of its module.

What is found goes into ``results.jsonl`` as it comes, and a run that was stopped goes on where it was. A mutant is
tried again when the code of its module has changed, and survivors when ``--again`` says so, since other tests may have
come. Survivors that no test can kill are explained in ``equivalent.toml``.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.progress import progress
from benchmarks.records import Line
from tests.__main__ import COMPILED_ONCE, IN_A_HURRY
from tests.mutation.mutants import Mutant, code_of, sample
from tests.mutation.selection import TESTS
from tests.mutation.trials import FORK, PRELOADED, copy_of, run, try_mutant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS, EQUIVALENT = HERE / "results.jsonl", HERE / "equivalent.toml"
COUNT, SEED, LIMIT, BAR = 500, 0, 120.0, 0.9


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample (%(default)s)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (%(default)s)")
    parser.add_argument("--again", action="store_true", help="try survivors and time-outs again")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    asked = parser.parse_args()
    console = Console()

    drawn = sample(ROOT, sorted(TESTS), asked.count, asked.seed)
    chosen = {_key(mutant): mutant for mutant in drawn if asked.only in mutant.module}
    lines = {line["key"]: line for line in records.read(RESULTS) if line["key"] in chosen}
    keep = {key: line for key, line in lines.items() if not (asked.again and line["outcome"] != "killed")}
    todo = [(key, mutant) for key, mutant in chosen.items() if key not in keep]
    if todo:
        os.environ.update(COMPILED_ONCE | IN_A_HURRY)  # what a mutant does not touch is compiled once for all of them
        FORK.set_forkserver_preload(PRELOADED)
        _try_all(todo, keep, asked, console)
    return report([keep[key] for key in chosen if key in keep], console)


def _key(mutant: Mutant) -> str:
    code = hashlib.sha256(code_of((ROOT / mutant.module).read_text()).encode()).hexdigest()
    known = [mutant.module, mutant.operator, mutant.before, mutant.after, mutant.same, code]
    return records.hash_of({"mutant": known})


def _try_all(
    todo: list[tuple[str, Mutant]], done: dict[str, Line], asked: argparse.Namespace, console: Console
) -> None:
    """Tries mutants side by side, each worker in a copy of its own, and writes down what comes of each at once."""
    writing = threading.Lock()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, progress(console) as bar:
        copies: SimpleQueue[Path] = SimpleQueue()
        for k in range(asked.workers):
            copies.put(copy_of(ROOT, Path(folder) / str(k)))
        _expect_green(sorted({mutant.module for _, mutant in todo}), copies, asked)
        task = bar.add_task("mutants", total=len(todo))

        def work(key: str, mutant: Mutant) -> None:
            copy = copies.get()
            try:
                found = try_mutant(copy, mutant, TESTS[mutant.module], asked.limit)
            finally:
                copies.put(copy)
            with writing:
                done[key] = {"key": key, **mutant._asdict(), **found._asdict(), "time": records.now()}
                others = [line for line in records.read(RESULTS) if line["key"] != key]
                records.write(RESULTS, [*others, done[key]])
                bar.update(task, advance=1, description=f"{mutant.module}:{mutant.line} {found.outcome}")

        with ThreadPoolExecutor(asked.workers) as pool:
            for future in as_completed([pool.submit(work, *item) for item in todo]):
                future.result()


def _expect_green(modules: list[str], copies: "SimpleQueue[Path]", asked: argparse.Namespace) -> None:
    """The tests have to pass without a mutant; this fills the cache of compiled functions, too."""
    copy = copies.get()
    for tests in dict.fromkeys(TESTS[module] for module in modules):
        found = run(copy, tests, 10 * asked.limit)
        if found.outcome != "survived":
            raise SystemExit(f"these tests fail without any mutant, mend them first: {' '.join(tests)}\n{found.said}")
    copies.put(copy)


def report(lines: list[Line], console: Console) -> int:
    """A row for each module, what survived, and whether enough was killed."""
    explained = {(e["module"], e["before"], e["after"]) for e in tomllib.loads(EQUIVALENT.read_text())["mutant"]}
    counts = {module: dict.fromkeys(("killed", "survived", "timeout", "equivalent"), 0) for module in sorted(TESTS)}
    left = []
    for line in lines:
        equivalent = line["outcome"] != "killed" and (line["module"], line["before"], line["after"]) in explained
        outcome = "equivalent" if equivalent else line["outcome"]
        counts[line["module"]][outcome] += 1
        if outcome in ("survived", "timeout"):
            left.append(line)
    table = Table("module", "killed", "survived", "timeout", "equivalent", "score")
    for module, row in counts.items():
        if any(row.values()):
            table.add_row(module, *map(str, row.values()), _percent(row))
    total = {key: sum(row[key] for row in counts.values()) for key in next(iter(counts.values()))}
    table.add_section()
    table.add_row("all", *map(str, total.values()), _percent(total))
    for line in sorted(left, key=lambda line: (line["module"], line["line"])):
        console.print(f"{line['outcome']}: {line['module']}:{line['line']}\n  - {line['before']}\n  + {line['after']}")
    console.print(table)
    return int(_score(total) < BAR)


def _score(row: dict[str, int]) -> float:
    return row["killed"] / max(1, sum(row.values()) - row["equivalent"])


def _percent(row: dict[str, int]) -> str:
    return f"{100 * _score(row):.1f} %"


if __name__ == "__main__":
    sys.exit(main())
