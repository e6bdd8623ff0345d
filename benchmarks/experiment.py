"""What an experiment is: its sizes, its jobs, and the page that is made of its lines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.jobs import Job


@dataclass(frozen=True)
class Page:
    """What is shown of the lines of one study.

    Attributes:
      intro: paragraphs: the data, what was done, the budget.
      findings: sentences, made from the lines, of who wins and who does not.
      tables: title -> cells that are text, with an index that has a name.
      draw: writes the picture into a file; None where there is none.
      notes: paragraphs after the tables.
      did_not_help: sentences, made from the lines, for a section of their own.
    """

    intro: Sequence[str]
    findings: Sequence[str]
    tables: Mapping[str, pd.DataFrame]
    draw: Callable[[Path], None] | None = None
    notes: Sequence[str] = field(default=())
    did_not_help: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Experiment:
    """One command.

    Attributes:
      title: of the page.
      about: for the command's help.
      protocols: sizes by name: "smoke", "quick" (at most five minutes) and "full"; frozen dataclasses.
      jobs: ``jobs(protocol)``.
      page: ``page(lines)``, of a study's lines without errors, at least one.
    """

    title: str
    about: str
    protocols: Mapping[str, Any]
    jobs: Callable[[Any], Iterable[Job]]
    page: Callable[[pd.DataFrame], Page]
