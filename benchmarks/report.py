"""Pages and pictures from the JSON lines, and a check that no page says anything else. Nothing is trained here.

A page of Markdown stands beside its lines. Other pages, such as README, may hold pieces of it between the comments
``<!-- imbalance: TITLE OF A TABLE -->`` (or ``FINDINGS``) and ``<!-- end -->``; they are filled in, and checked, too.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console

from benchmarks import records
from benchmarks.experiment import Experiment
from benchmarks.tables import for_markdown, for_terminal

ROOT = Path(__file__).parent.parent
FINDINGS = "FINDINGS"
PIECE = re.compile(r"(<!-- (?P<name>[a-z0-9-]+): (?P<title>[^>]+?) -->\n)(?P<text>.*?)(?=<!-- end -->)", re.DOTALL)


class NoResultsError(RuntimeError):
    """There is nothing to report on."""


class Rendered(NamedTuple):
    """A page, ready to be shown.

    Attributes:
      text: all of it, in Markdown.
      findings: sentences.
      tables: by title, for the terminal and for other pages.
      draw: writes the picture into a file; None where there is none.
    """

    text: str
    findings: Sequence[str]
    tables: Mapping[str, pd.DataFrame]
    draw: Callable[[Path], None] | None


Render = Callable[[Path, str | None], Rendered]
"""``render(file, study)``, from the lines of one study in `file`, None being that of the last line."""


def make(file: Path, render: Render, console: Console, study: str | None = None) -> None:
    """Prints the page of one study in `file`, and writes it and its picture beside it.

    Raises:
      NoResultsError: if there are no lines.
    """
    page = render(file, study)
    for title, table in page.tables.items():
        console.print(f"[bold]{title}")
        console.print(for_terminal(table))
    console.print(*page.findings, sep="\n", markup=False)
    file.with_suffix(".md").write_text(page.text)
    written = [file.name, file.with_suffix(".md").name]
    if page.draw is not None:
        page.draw(file.with_suffix(".png"))
        written.append(file.with_suffix(".png").name)
    console.print(f"In {file.parent}: {', '.join(written)}.", markup=False)


def of_study(lines: Sequence[records.Line], study: str | None = None) -> pd.DataFrame:
    """The lines of `study` (None: that of the last line) that are no errors."""
    if not lines:
        return pd.DataFrame()
    study = study or lines[-1]["study"]
    return pd.DataFrame([line for line in lines if line["study"] == study and "error" not in line])


def wrong_pages(file: Path, render: Render) -> Iterator[str]:
    """Says where the page beside `file` differs from what its lines give."""
    page = file.with_suffix(".md")
    expected = render(file, None).text
    if not page.is_file():
        yield f"{page} is missing"
    elif page.read_text() != expected:
        pairs = zip(page.read_text().splitlines(), expected.splitlines(), strict=False)
        at = next((k for k, (a, b) in enumerate(pairs, 1) if a != b), "its end")
        yield f"{page} differs from its lines at line {at}"


def fill(page: Path, pieces: Callable[[str, str], str]) -> str:
    """The text of `page` with all its pieces filled in; ``pieces(name, title)`` gives one.

    Raises:
      NoResultsError: if a piece is of nothing that is there.
    """
    return PIECE.sub(lambda m: f"{m[1]}{pieces(m['name'], m['title'])}\n", page.read_text())


def piece(file: Path, render: Render, title: str) -> str:
    """A table or the findings of the page of `file`.

    Raises:
      NoResultsError: if there is no such table.
    """
    page = render(file, None)
    if title == FINDINGS:
        return bullets(page.findings)
    if title not in page.tables:
        raise NoResultsError(f"no table {title!r} of {file.name}; there are {', '.join(map(repr, page.tables))}")
    return for_markdown(page.tables[title])


def where(lines: pd.DataFrame) -> str:
    """Versions, commits and machine behind `lines`, as a sentence."""
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(found.items())) for found in lines["versions"]})
    commits = ", ".join(sorted({str(commit) for commit in lines["commit"]}))
    return f"Run with {'; or '.join(versions)}; commit {commits}; {lines['cpus'].max()} CPUs; {lines['time'].max()}."


def render(experiment: Experiment, file: Path, study: str | None) -> Rendered:
    """The page of an experiment.

    Raises:
      NoResultsError: if there are no lines.
    """
    lines = of_study(records.read(file), study)
    if lines.empty or ("kind" in lines and set(lines["kind"]) == {"trial"}):
        raise NoResultsError(f"no final results in {file} yet")
    page = experiment.page(lines)
    minutes = lines.drop_duplicates("job")["job_seconds"].sum() / 60
    protocol = ", ".join(f"{name} {value}" for name, value in lines.iloc[-1]["protocol"].items())
    parts = [
        f"# {experiment.title}",
        f"Generated by `python -m benchmarks report` from the lines of [{file.name}]({file.name}); do not edit."
        + ("" if page.draw is None else f" Picture: [{file.stem}.png]({file.stem}.png)."),
        *page.intro,
        "## What it says",
        bullets(page.findings),
        *(["## What did not help", bullets(page.did_not_help)] if page.did_not_help else []),
        *(part for title, table in page.tables.items() for part in (f"## {title}", for_markdown(table))),
        *page.notes,
        "## Budget",
        f"`python -m benchmarks {file.stem}`: {protocol}. {minutes:.0f} minutes in all. {where(lines)}",
    ]
    text = "\n\n".join(part.rstrip() for part in parts if part) + "\n"
    return Rendered(text, page.findings, page.tables, page.draw)


def suite(files: Sequence[Path]) -> Rendered:
    """What all experiments took together, in the jobs of the newest study of each."""
    jobs = pd.concat([of_study(records.read(file)).drop_duplicates("job") for file in files])
    ends = pd.to_datetime(jobs["time"]).map(pd.Timestamp.timestamp)
    seconds = jobs["job_seconds"]
    hours, covered = seconds.sum() / 3600, _covered(zip(ends - seconds, ends, strict=True)) / 3600
    found = (
        f"All experiments in full: {len(jobs)} jobs, {hours:.1f} hours by their own clocks, done within {covered:.1f} "
        f"hours on {jobs['cpus'].max()} CPUs: {hours / covered:.1f} at a time."
    )
    return Rendered("", [found], {}, None)


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of `spans`."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def bullets(sentences: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
