"""Which images are for training, validation and test, where every class starts with as many images."""

import numpy as np

from benchmarks.data import Dataset

VALIDATION = 5
"""One in so many images that are not for the test is for validation; of each class at least one."""


def by_class(dataset: Dataset, per_class: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and validation, ``[C, per_class]``, in random order, and rows of the test set.

    The test set is the official one, or a quarter of each class, drawn anew by `rng`, where there is none.

    Raises:
      ValueError: if a class has fewer than `per_class`.
    """
    kept, test = [], []
    for c in np.unique(dataset.classes):
        rows = rng.permutation(np.flatnonzero(dataset.classes == c))
        if dataset.test_only is None:
            held, rest = np.split(rows, [len(rows) // 4])
        else:
            held, rest = rows[dataset.test_only[rows]], rows[~dataset.test_only[rows]]
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
