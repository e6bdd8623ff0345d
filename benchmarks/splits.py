"""Which images are for training, validation and test, class by class."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.data import Dataset

VALIDATION = 5
"""One in so many images that are not for the test is for validation; of each class at least one."""


def test_and_rest(dataset: Dataset, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each class, in random order, the rows of the test set and the others.

    The test set is the official one, or a quarter of each class, drawn anew by `rng`, where there is none.
    """
    for c in np.unique(dataset.classes):
        rows = rng.permutation(np.flatnonzero(dataset.classes == c))
        if dataset.test_only is None:
            yield rows[: len(rows) // 4], rows[len(rows) // 4 :]
        else:
            yield rows[dataset.test_only[rows]], rows[~dataset.test_only[rows]]


class Parts(NamedTuple):
    """Rows of a data set, each ``[m]``, sorted by class."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def parts_of(dataset: Dataset, seed: int, *, per_class: int) -> Parts:
    """All three parts, with at most `per_class` images of a class for training and validation together."""
    found = []
    for test, rest in test_and_rest(dataset, np.random.default_rng(seed)):
        rest = rest[:per_class]
        validation, training = np.split(rest, [max(1, len(rest) // VALIDATION)])
        found.append((training, validation, test))
    return Parts(*(np.concatenate(rows) for rows in zip(*found, strict=True)))


def by_class(dataset: Dataset, per_class: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and validation, ``[C, per_class]``, in random order, and rows of the test set.

    Raises:
      ValueError: if a class has fewer than `per_class`.
    """
    kept, test = [], []
    for c, (held, rest) in zip(np.unique(dataset.classes), test_and_rest(dataset, rng), strict=True):
        if len(rest) < per_class:
            raise ValueError(f"class {c} has {len(rest)} images besides those of the test, not {per_class}")
        kept.append(rest[:per_class])
        test.append(held)
    return np.stack(kept), np.concatenate(test)


def thinned(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first ``counts[c]`` of each class's `rows`, ``[C, m]``: a part for training and one for validation."""
    training, validation = [], []
    for of_class, count in zip(rows, counts, strict=True):
        held_out = max(1, count // VALIDATION)
        validation.append(of_class[:held_out])
        training.append(of_class[held_out:count])
    return np.concatenate(training), np.concatenate(validation)
