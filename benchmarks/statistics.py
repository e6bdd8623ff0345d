"""Means with intervals, paired tests and ranks over seeds and problems."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean, and half the length of its 95 % interval (Student's t); NaN from a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values))


def differences(lines: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """What each method has over `baseline` at the same problem and seed.

    Args:
      lines: with `method`, `problem`, `seed` and the metric.
      metric: a column.
      baseline: a method.

    Returns:
      By method and problem: `mean`, `half` of its interval, and `p` of the paired t-test, Holm-corrected for the number
      of methods that the baseline is compared with on that problem.
    """
    others = [str(name) for name in lines["method"].drop_duplicates() if name != baseline]
    return paired(lines, metric, [(name, baseline) for name in others])


def paired(lines: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """:func:`differences` for methods with a baseline each; p is corrected for the number of pairs on a problem."""
    rows = []
    for problem, of_problem in gaps(lines, metric, pairs).groupby("problem", observed=True):
        values = {method: found["gap"].to_numpy() for method, found in of_problem.groupby("method", sort=False)}
        corrected = holm([_paired_p(found) for found in values.values()])
        rows += [(m, problem, *interval(found), p) for (m, found), p in zip(values.items(), corrected, strict=True)]
    frame = pd.DataFrame(rows, columns=["method", "problem", "mean", "half", "p"])
    return frame.set_index(["method", "problem"])


def gaps(lines: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """`gap`, the first of each pair minus the second, by `method`, `baseline`, `problem` and `seed`, where both are."""
    wide = lines.pivot_table(index=["problem", "seed"], columns="method", values=metric, observed=True)
    frames = [
        (wide[method] - wide[baseline]).dropna().rename("gap").reset_index().assign(method=method, baseline=baseline)
        for method, baseline in pairs
        if {method, baseline} <= {*wide.columns}
    ]
    columns = ["method", "baseline", "problem", "seed", "gap"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def _paired_p(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    if np.ptp(values) == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(ps: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method; NaN stays out."""
    found = np.asarray(ps, dtype=float)
    order = [k for k in np.argsort(found) if np.isfinite(found[k])]
    corrected, largest = found.copy(), 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, found[k] * (len(order) - place)))
        corrected[k] = largest
    return corrected


def ranks(
    lines: pd.DataFrame, metric: str, *, blocks: Sequence[str] = ("problem",), smaller: bool = False
) -> pd.Series:
    """Mean rank of each method over blocks (1 is best; ties share), of the mean of the metric in a block."""
    return _block_ranks(lines, metric, blocks, smaller).mean().sort_values()


def not_worse_than_the_best(
    lines: pd.DataFrame, metric: str, method: str, *, blocks: Sequence[str] = ("problem",), smaller: bool = False
) -> tuple[str, float]:
    """The method with the best mean rank, and the p-value of the Wilcoxon signed-rank test of `method` against it.

    The test is over the blocks' ranks, two-sided; p is 1 where `method` is itself the best, or every rank is equal.
    """
    found = _block_ranks(lines, metric, blocks, smaller)
    best = str(found.mean().idxmin())
    gaps = (found[method] - found[best]).dropna().to_numpy()
    if best == method or not gaps.any():
        return best, 1.0
    return best, float(stats.wilcoxon(gaps).pvalue)


def _block_ranks(lines: pd.DataFrame, metric: str, blocks: Sequence[str], smaller: bool) -> pd.DataFrame:
    wide = lines.pivot_table(index=list(blocks), columns="method", values=metric, observed=True)
    return wide.rank(axis=1, ascending=smaller)
