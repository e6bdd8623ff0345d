"""Tables of text, from lines: for the terminal and for Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from benchmarks import statistics

Format = Callable[[float, float], str]
"""A cell from a mean and half its interval."""


def percent(mean: float, half: float) -> str:
    """Shares as percentages."""
    return f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ±{100 * half:.1f}")


def plain(mean: float, half: float) -> str:
    """Three significant digits."""
    return f"{mean:.3g}" + ("" if np.isnan(half) else f" ±{half:.2g}")


def scores(lines: pd.DataFrame, metric: str, cell: Format = percent) -> pd.DataFrame:
    """Mean ± half interval of `metric`, methods by problems."""
    groups = lines.groupby(["method", "problem"], observed=True)[metric]
    found = groups.apply(lambda v: cell(*statistics.interval(v.dropna().to_numpy())))
    return named(found.unstack("problem"))


def gains(lines: pd.DataFrame, metric: str, baseline: str, scale: float = 100.0) -> pd.DataFrame:
    """What each method has over `baseline`, paired by seed; ``*`` where Holm's p is below .05."""
    return _gains(lines, statistics.differences(lines, metric, baseline), scale)


def paired_gains(
    lines: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]], scale: float = 100.0
) -> pd.DataFrame:
    """What the first of each pair has over the second, as in :func:`gains`."""
    table = _gains(lines, statistics.paired(lines, metric, pairs), scale)
    names = {method: f"{method} over {baseline}" for method, baseline in pairs if method in table.index}
    return named(table.loc[list(names)].rename(index=names), "pair")


def _gains(lines: pd.DataFrame, found: pd.DataFrame, scale: float) -> pd.DataFrame:
    cells = [
        f"{round(scale * row['mean'], 6):+.2g} ±{scale * row['half']:.2g}"
        + (" *" if row["p"] < statistics.LEVEL else "")
        for _, row in found.iterrows()
    ]
    return named(pd.Series(cells, found.index, dtype=object).unstack("problem").reindex(columns=found_order(lines)))


def found_order(lines: pd.DataFrame) -> list[str]:
    """Problems, in the order of the lines."""
    return list(dict.fromkeys(lines["problem"]))


def ranks(
    lines: pd.DataFrame, metric: str, *, blocks: Sequence[str] = ("problem",), smaller: bool = False
) -> pd.DataFrame:
    """Mean ranks over blocks, best first, with the p-value against the best of them."""
    found = statistics.ranks(lines, metric, blocks=blocks, smaller=smaller)
    against = [
        statistics.not_worse_than_the_best(lines, metric, str(name), blocks=blocks, smaller=smaller)[1]
        for name in found.index
    ]
    table = pd.DataFrame(
        {"mean rank": [f"{v:.2f}" for v in found], "p against the best": [f"{p:.2g}" for p in against]}, found.index
    )
    return named(table)


def ranking(lines: pd.DataFrame, metric: str, *, blocks: Sequence[str] = ("problem",), smaller: bool = False) -> str:
    """A sentence: the best mean rank, and which methods are not told from it."""
    found = statistics.ranks(lines, metric, blocks=blocks, smaller=smaller)
    best, others = found.index[0], found.index[1:]
    near = [
        f"{name} ({found[name]:.2f})"
        for name in others
        if statistics.not_worse_than_the_best(lines, metric, str(name), blocks=blocks, smaller=smaller)[1]
        >= statistics.LEVEL
    ]
    told = f"not told from it by Wilcoxon's test: {listed(near)}" if near else "all others are told from it"
    return f"Best mean rank of {len(found)} over {' and '.join(blocks)}: {best} ({found.iloc[0]:.2f}); {told}."


def did_not_help(lines: pd.DataFrame, metric: str, baseline: str) -> list[str]:
    """Sentences: on which problems which methods are not shown to be above `baseline`, and on which they are below."""
    found = statistics.differences(lines, metric, baseline)
    sentences = []
    for name in found.index.unique("method"):
        rows = found.loc[name]
        sure = rows["p"] < statistics.LEVEL
        below, neither = rows.index[sure & (rows["mean"] < 0)], rows.index[~sure]
        parts = [f"worse at {listed(below)}"] if len(below) else []
        parts += [f"no difference shown at {listed(neither)}"] if len(neither) else []
        if parts:
            sentences.append(f"{name} against {baseline}: {'; '.join(parts)}.")
    return sentences


def verdicts(lines: pd.DataFrame, metric: str, name: str, baseline: str) -> str:
    """Half a sentence: on which problems `name` is above, below or not told from `baseline`."""
    return _verdict(statistics.differences(lines, metric, baseline).loc[name], baseline)


def paired_verdicts(lines: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence for each pair: where the first is above, below or not told from the second."""
    found = statistics.paired(lines, metric, pairs)
    present = found.index.unique("method")
    return [f"{name} {_verdict(found.loc[name], baseline)}." for name, baseline in pairs if name in present]


def _verdict(found: pd.DataFrame, baseline: str) -> str:
    sure = found["p"] < statistics.LEVEL
    kinds = {
        "above it at": found.index[sure & (found["mean"] > 0)],
        "below it at": found.index[sure & (found["mean"] < 0)],
        "no difference shown at": found.index[~sure],
    }
    return f"against {baseline}: " + "; ".join(f"{kind} {listed(at)}" for kind, at in kinds.items() if len(at))


def chosen(lines: pd.DataFrame) -> pd.DataFrame:
    """The settings that tuning chose."""
    text = lines["setting"].map(lambda setting: ", ".join(f"{k} {v:.3g}" for k, v in setting.items()))
    return named(
        lines.assign(text=text).groupby(["method", "problem"], observed=True)["text"].first().unstack("problem")
    )


def seconds(lines: pd.DataFrame) -> pd.DataFrame:
    """What a run took, in seconds, without compiling: the mean over the runs that were trained together."""
    groups = lines.groupby(["method", "problem"], observed=True)["seconds"]
    return named(groups.mean().map(lambda v: f"{v:.2g}").unstack("problem"))


def rows_of(methods: Mapping[str, Any], names: Sequence[str]) -> pd.DataFrame:
    """What each method is, and what it is tuned over."""
    spaces = [", ".join(f"{key} {value}" for key, value in methods[name].space.items()) for name in names]
    table = pd.DataFrame({"what": [methods[name].about for name in names], "tuned over": spaces}, index=list(names))
    return named(table, "method")


def named(table: pd.DataFrame, name: str | None = None) -> pd.DataFrame:
    """`table` with a name for its index, no name for its columns, and empty cells where there is nothing."""
    table = table.astype(object).where(table.notna(), "")
    table.columns = pd.Index([str(column) for column in table.columns])
    return table.rename_axis(name or table.index.name or "method")


def listed(values: Sequence[object]) -> str:
    """Values with commas between them."""
    return ", ".join(str(value) for value in values)


def for_terminal(table: pd.DataFrame) -> Table:
    """`table`, with its index, for the terminal."""
    shown = Table(str(table.index.name or ""), *table.columns)
    for name, row in table.iterrows():
        shown.add_row(str(name), *row)
    return shown


def for_markdown(table: pd.DataFrame) -> str:
    """`table`, with its index, in Markdown."""
    header = [table.index.name or "", *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
