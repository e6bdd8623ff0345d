"""Tables as arrays for training: splits, and features of which everything is fitted on training rows only."""

from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from benchmarks.data.table import Table

ROWS_PER_QUANTILE = 30
QUANTILES = (10, 1000)
"""At least and at most so many."""
NOISE = 1e-5
"""Added to break ties, in standard deviations of the column."""
LARGEST = 3.0
"""Where features are clipped: about as far as the outermost of a thousand quantiles but the extremes."""
RARE = 10
"""Categories of fewer training rows are pooled, column by column."""


class Split(NamedTuple):
    """Rows of a table, as indices in rising order, without any in common.

    Attributes:
      train: to fit on.
      validation: to choose settings by.
      test: for the report.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Prepared(NamedTuple):
    """A table as arrays; rows are those of the table.

    Attributes:
      features: float32, ``[N, D]``.
      num_numeric: how many of the columns are numbers; they come first, then 0 or 1: what is missing, and categories.
      target: float32, ``[N]``: 0 or 1, or in regression standardised by the training rows.
      target_mean: 0 unless it is regression.
      target_std: of the training rows, so that an error times this is in the table's units; 1 unless it is regression.
    """

    features: np.ndarray
    num_numeric: int
    target: np.ndarray
    target_mean: float
    target_std: float


def split(
    table: Table,
    seed: int,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    *,
    max_train: int | None = None,
) -> Split:
    """Splits by chance, but with every class (if binary) of every group alike in all parts, as far as whole rows allow.

    An official test set stays the test set; what is left is then divided between training and validation in the ratio
    of theirs. Rows of one unit stay together, outside an official test set; a unit counts as its rarest row.

    Args:
      table: what is split.
      seed: decides the split.
      fractions: of training, validation and test; positive, with sum 1.
      max_train: at most about so many training rows (off by roundings, one a class and group), thinned alike in all of
        them. A smaller number leaves a part of what a larger one leaves; the other two parts do not depend on it.

    Raises:
      ValueError: if the fractions are not as said.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"`fractions` must be three positive numbers with sum 1, got {fractions}.")
    rng = np.random.default_rng(seed)
    strata = _strata(table)
    if table.test_only is None:
        rows = np.arange(len(table.target))
        train, validation, test = _deal(rows, strata, table.units, fractions, rng)
    else:
        rows, test = np.flatnonzero(~table.test_only), np.flatnonzero(table.test_only)
        of_two = np.array(fractions[:2]) / sum(fractions[:2])
        train, validation = _deal(rows, strata, table.units, of_two, rng)
    if max_train is not None and max_train < len(train):
        share = max_train / len(train)
        train, _ = _deal(train, strata, None, (share, 1 - share), rng)
    return Split(train, validation, test)


def prepare(table: Table, rows_train: np.ndarray, *, seed: int) -> Prepared:
    """Features that a network likes, fitted on `rows_train` alone.

    Numbers go to the normal distribution by their quantiles, clipped at 3; a missing one becomes 0, the median, and
    gets a column that says so. Categories become one column each; those of fewer than 10 training rows share one, as do
    those that training has not seen. Columns that are constant in training are left out.

    Args:
      table: what is prepared, all of its rows.
      rows_train: which rows to fit on.
      seed: of the noise that breaks ties while quantiles are fitted.
    """
    numbers = _normal(table.numeric, rows_train, np.random.default_rng(seed))
    missing = np.isnan(table.numeric)
    missing = missing[:, _varies(missing[rows_train])]
    parts = [numbers, missing, _one_hot(table.categorical, rows_train)]
    mean, std = 0.0, 1.0
    if table.task == "regression":
        mean, std = float(table.target[rows_train].mean()), float(table.target[rows_train].std())
    return Prepared(
        features=np.concatenate(parts, axis=1, dtype=np.float32),
        num_numeric=numbers.shape[1],
        target=((table.target - mean) / std).astype(np.float32),
        target_mean=mean,
        target_std=std,
    )


def _strata(table: Table) -> np.ndarray:
    """A number for each class in each group, ``[N]``."""
    groups = np.zeros(len(table.target), dtype=int) if table.groups is None else table.groups
    return 2 * groups + (table.target.astype(int) if table.task == "binary" else 0)


def _deal(
    rows: np.ndarray,
    strata: np.ndarray,
    units: np.ndarray | None,
    fractions: tuple[float, ...] | np.ndarray,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Deals `rows` out by `fractions`, stratum by stratum, whole units at a time."""
    counts = np.bincount(strata[rows])
    by_rarity = rows[np.argsort(counts[strata[rows]], kind="stable")]
    names = by_rarity if units is None else units[by_rarity]
    _, first, unit_of = np.unique(names, return_index=True, return_inverse=True)
    stratum_of_unit = strata[by_rarity[first]]
    part_of_unit = np.empty(len(first), dtype=int)
    for stratum in np.unique(stratum_of_unit):
        members = rng.permutation(np.flatnonzero(stratum_of_unit == stratum))
        ends = np.round(np.cumsum(fractions)[:-1] * len(members)).astype(int)
        for part, chunk in enumerate(np.split(members, ends)):
            part_of_unit[chunk] = part
    return [np.sort(by_rarity[part_of_unit[unit_of] == part]) for part in range(len(fractions))]


def _normal(numeric: np.ndarray, rows_train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers by their quantiles among `rows_train`; those that do not vary there are left out."""
    numeric = numeric[:, _varies(numeric[rows_train])]
    if not numeric.shape[1]:
        return numeric
    training = numeric[rows_train]
    noise = NOISE * np.nanstd(training, axis=0) * rng.standard_normal(training.shape)
    count = int(np.clip(len(training) // ROWS_PER_QUANTILE, *QUANTILES))
    transformer = QuantileTransformer(n_quantiles=count, output_distribution="normal", subsample=None)
    transformer.fit(training + noise)
    return np.nan_to_num(transformer.transform(numeric), nan=0.0).clip(-LARGEST, LARGEST)


def _one_hot(categorical: np.ndarray, rows_train: np.ndarray) -> np.ndarray:
    if not categorical.shape[1]:
        return categorical
    encoder = OneHotEncoder(min_frequency=RARE, handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = encoder.fit(categorical[rows_train]).transform(categorical)
    return columns[:, _varies(columns[rows_train])]


def _varies(columns: np.ndarray) -> np.ndarray:
    """Which columns hold at least two values, ``[F]``; NaN is none."""
    columns = columns.astype(float)
    return np.fmax.reduce(columns, axis=0) > np.fmin.reduce(columns, axis=0)
