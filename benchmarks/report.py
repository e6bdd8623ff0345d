"""Tables and sentences from the JSON lines, on the terminal and as Markdown. Nothing is trained here."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import figure, records
from benchmarks.methods import METHODS

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "worse_parity": "Accuracy on the worse of the two classes (even, odd)",
    "worst_class": "Accuracy on the worst of the ten classes",
    "auc": "Area under the ROC curve (ranking alone, whatever the threshold)",
}
PERCENT = 100
BASELINES = ("adamw", "static", "adamw-prior")


class NoResultsError(RuntimeError):
    """There is nothing to report on."""


def make(file: Path, console: Console, study: str | None = None) -> None:
    """Prints the tables of one study in `file`, and writes them and the picture beside it.

    Args:
      file: the JSON lines.
      console: where the tables go.
      study: as in the lines; None is that of the last line.

    Raises:
      NoResultsError: if there are no lines.
    """
    lines = of_study(records.read(file), study)
    if lines.empty:
        raise NoResultsError(f"no results in {file}")
    tables = list(_tables(lines))
    show(tables, sentences(lines), console)
    write_beside(file, _markdown(lines, tables, file), lambda picture: figure.draw(lines, picture), console)


def show(tables: Iterable[tuple[str, pd.DataFrame]], found: Sequence[str], console: Console) -> None:
    """Prints titled tables and sentences."""
    for title, table in tables:
        console.print(f"[bold]{title}")
        console.print(rich_table(table))
    console.print(*found, sep="\n", markup=False)


def write_beside(file: Path, page: str, draw: Callable[[Path], object], console: Console) -> None:
    """Writes the page and the picture beside the JSON lines."""
    file.with_suffix(".md").write_text(page)
    draw(file.with_suffix(".png"))
    console.print(f"Wrote {file}, {file.with_suffix('.md').name} and {file.with_suffix('.png').name}.")


def of_study(lines: Sequence[records.Line], study: str | None = None) -> pd.DataFrame:
    """The lines of `study` (None: that of the last line), methods in the order of `METHODS`."""
    frame = pd.DataFrame(lines)
    if frame.empty:
        return frame
    frame = frame[frame["study"] == (study or frame["study"].iloc[-1])]
    frame = frame.drop_duplicates(["method", "uc", "seed"], keep="last")
    known = [name for name in METHODS if name in set(frame["method"])]
    frame = frame[frame["method"].isin(known)]
    return frame.assign(method=pd.Categorical(frame["method"], known, ordered=True)).sort_values(["method", "uc"])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean, and half the length of its 95 % interval (Student's t); NaN from a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def differences(lines: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Balanced accuracy minus that of `baseline` at the same seed: mean and half interval, by method and uc."""
    wide = lines.pivot_table(index=["uc", "seed"], columns="method", values="balanced_accuracy", observed=True)
    minus = wide.sub(wide[baseline], axis=0).drop(columns=baseline).stack().rename("value").reset_index()
    found = minus.groupby(["method", "uc"], observed=True)["value"].apply(lambda v: interval(v.to_numpy()))
    return pd.DataFrame(found.tolist(), index=found.index, columns=["mean", "half"])


def sentences(lines: pd.DataFrame) -> list[str]:
    """Where ALSO wins and where it does not, from the paired intervals; and who is best."""
    found = []
    methods = [name for name in lines["method"].cat.categories if name.startswith("also")]
    for name in methods:
        parts = []
        for baseline in BASELINES:
            if baseline not in lines["method"].cat.categories:
                continue
            gains = differences(lines, baseline).loc[name]
            above = gains.index[gains["mean"] > gains["half"]].tolist()
            below = gains.index[gains["mean"] < -gains["half"]].tolist()
            neither = gains.index.difference(above + below).tolist()
            verdicts = {"above it": above, "below it": below, "no difference shown": neither}
            parts.append(f"against {baseline} " + ", ".join(f"{k} at uc {_list(v)}" for k, v in verdicts.items() if v))
        if parts:
            found.append(f"{name}: {'; '.join(parts)}.")
    means = lines.groupby(["uc", "method"], observed=True)["balanced_accuracy"].mean()
    best = pd.Series({uc: means[uc].idxmax() for uc in means.index.unique("uc")})
    parts = [f"{name} at uc {_list(best.index[best == name])}" for name in dict.fromkeys(best)]
    found.append(f"The highest mean balanced accuracy is that of {', '.join(parts)}.")
    return found


def _tables(lines: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for metric, title in METRICS.items():
        groups = lines.groupby(["method", "uc"], observed=True)[metric]
        table = groups.apply(lambda v: _plus_minus(*interval(v.to_numpy()))).unstack("uc")
        if metric == "balanced_accuracy":
            seconds = lines.groupby("method", observed=True)[["compile_seconds", "seconds"]].first()
            table["seconds"] = [f"{c:.0f} + {t:.0f}" for c, t in seconds.to_numpy()]
        yield title + (", %, and seconds to compile + train" if "seconds" in table else ", %"), _named(table)
    for baseline in BASELINES:
        if baseline in lines["method"].cat.categories and lines["method"].nunique() > 1:
            found = differences(lines, baseline)
            cells = [_plus_minus(m, h, signed=True) + (" *" if abs(m) > h else "") for m, h in found.to_numpy()]
            table = pd.Series(cells, found.index).unstack("uc")
            yield (
                f"Balanced accuracy minus {baseline}'s, points, paired (*: interval excludes 0)",
                _named(table),
            )


def _named(table: pd.DataFrame) -> pd.DataFrame:
    names = {column: f"uc {column}" for column in table.columns if not isinstance(column, str)}
    table.columns = pd.Index([names.get(column, column) for column in table.columns])
    return table.fillna("")


def _plus_minus(mean: float, half: float, *, signed: bool = False) -> str:
    mean, half = PERCENT * mean, PERCENT * half
    return f"{mean:+.1f} ±{half:.1f}" if signed else f"{mean:.1f} ±{half:.1f}"


def _list(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def rich_table(table: pd.DataFrame) -> Table:
    """`table`, with its index, for the terminal."""
    shown = Table(table.index.name or "", *table.columns)
    for name, row in table.iterrows():
        shown.add_row(str(name), *row)
    return shown


def _markdown(lines: pd.DataFrame, tables: Sequence[tuple[str, pd.DataFrame]], file: Path) -> str:
    first = lines.iloc[0]
    protocol, grid = first["protocol"], len(first["grid"])
    page = io.StringIO()

    def write(*paragraphs: str) -> None:
        page.write("".join(paragraph + "\n\n" for paragraph in paragraphs))

    write(
        f"# Class imbalance: {protocol['data']}",
        "Generated by `python -m benchmarks report` from the lines of "
        f"[{file.name}]({file.name}); do not edit. Picture: [{file.stem}.png]({file.stem}.png).",
        f"{first['source']}. The target is the parity of the class. In training and validation the odd classes are "
        f"thinned by the factor uc; the test set ({first['test_size']} images) is balanced. {protocol['seeds']} seeds, "
        f"each for split, thinning, initial weights and batches, shared by all methods; {protocol['steps']} steps with "
        f"batches of {protocol['batch']}, network `{protocol['model']}`. Every method was tried at {grid} settings, "
        "chosen for each uc on the thinned validation set. Mean ± half of the 95 % interval (Student's t over seeds); "
        "intervals are for single comparisons, not corrected for their number. "
        f"Models reported that had diverged: {(~lines['finite']).sum()} of {len(lines)}.",
        "## Where ALSO wins, and where it does not",
        "\n".join(f"- {sentence}" for sentence in sentences(lines)),
    )
    for title, table in tables:
        write(f"## {title}", pipes(table))
    sizes = lines.groupby("uc")[["train_class_counts", "validation_class_counts"]].first()
    sizes = sizes.map(lambda counts: f"{counts[0]} even, {counts[1]} odd").rename(lambda uc: f"uc {uc}")
    sizes.columns = pd.Index(["training", "validation"])
    about = pd.Series({name: METHODS[name].about for name in lines["method"].cat.categories}, name="what")
    write("## Methods", pipes(about.to_frame()))
    write("## Settings chosen", pipes(_named(_chosen(lines))))
    write("## Examples", pipes(sizes))
    write("## To repeat", f"`python -m benchmarks imbalance {_arguments(protocol)}`", where(lines))
    return page.getvalue().rstrip() + "\n"


def _chosen(lines: pd.DataFrame) -> pd.DataFrame:
    text = lines["setting"].map(lambda setting: ", ".join(f"{k} {v:g}" for k, v in setting.items()))
    return lines.assign(text=text).groupby(["method", "uc"], observed=True)["text"].first().unstack("uc")


def _arguments(protocol: Mapping[str, Any]) -> str:
    factors = ",".join(map(str, protocol["uc"]))
    sizes = f"--data {protocol['data']} --seeds {protocol['seeds']} --uc {factors} --steps {protocol['steps']}"
    return sizes + (" --smoke" if protocol["smoke"] else "")


def where(lines: pd.DataFrame) -> str:
    """Versions, commits and machine behind `lines`, as a sentence."""
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(found.items())) for found in lines["versions"]})
    commits = ", ".join(sorted({str(commit) for commit in lines["commit"]}))
    return f"Run with {'; or '.join(versions)}; commit {commits}; {lines['cpus'].max()} CPUs; {lines['time'].max()}."


def pipes(table: pd.DataFrame) -> str:
    """`table`, with its index, in Markdown."""
    header = [table.index.name or "", *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
