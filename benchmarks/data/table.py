"""What a table is, and how one is made of a data frame."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd


class Table(NamedTuple):
    """Rows of numbers and categories with a target.

    Attributes:
      numeric: float64, ``[N, F]``; NaN is missing.
      categorical: codes from 0, int, ``[N, K]``; a missing value is a category of its own.
      target: float64, ``[N]``; 0 or 1 if `task` is "binary".
      task: what is to be learned.
      groups: int, ``[N]``, whom a method should do well on, or None. What groups are made of is among the features.
      group_names: a name for each group; empty without groups.
      units: int, ``[N]``: rows of one person (or day) share a number and must not be split up, or None.
      test_only: bool, ``[N]``, the official test set, or None where there is none.
      numeric_names: of the columns.
      categorical_names: of the columns.
      target_name: what the target is, and in which units.
      source: what it is, its licence and the package that it comes out of, for the report.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    target: np.ndarray
    task: Literal["binary", "regression"]
    groups: np.ndarray | None
    group_names: tuple[str, ...]
    units: np.ndarray | None
    test_only: np.ndarray | None
    numeric_names: tuple[str, ...]
    categorical_names: tuple[str, ...]
    target_name: str
    source: str


def table_of(
    features: pd.DataFrame,
    target: pd.Series,
    target_name: str,
    source: str,
    *,
    categorical: Sequence[str] = (),
    groups: pd.Series | None = None,
    units: pd.Series | None = None,
    test_only: np.ndarray | None = None,
) -> Table:
    """A table of a frame that holds the features and nothing else.

    Args:
      features: columns that may be used to predict the target.
      target: bool where the task is binary, else numbers.
      target_name: see :class:`Table`.
      source: see :class:`Table`.
      categorical: which columns are categories; all others are numbers.
      groups: names of groups.
      units: whatever tells persons (or days) apart.
      test_only: see :class:`Table`.
    """
    numbers = features.drop(columns=list(categorical))
    codes = [pd.factorize(features[name], sort=True, use_na_sentinel=False)[0] for name in categorical]
    group_codes, group_names = (None, ()) if groups is None else pd.factorize(groups, sort=True)
    return Table(
        numeric=numbers.to_numpy(dtype=np.float64),
        categorical=np.stack(codes, axis=1) if codes else np.zeros((len(features), 0), dtype=int),
        target=target.to_numpy(dtype=np.float64),
        task="binary" if target.dtype == bool else "regression",
        groups=group_codes,
        group_names=tuple(group_names),
        units=None if units is None else pd.factorize(units)[0],
        test_only=test_only,
        numeric_names=tuple(numbers.columns),
        categorical_names=tuple(categorical),
        target_name=target_name,
        source=source,
    )
