"""Images cut into training, validation and test, class by class."""

from typing import NamedTuple

import numpy as np

from benchmarks.data import Dataset


class Parts(NamedTuple):
    """Rows of a data set, each ``[m]``, sorted by class."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def parts_of(dataset: Dataset, seed: int, *, per_class: int, share: float = 0.2) -> Parts:
    """Cuts `dataset`.

    Args:
      dataset: whose official test set is the test set; a quarter of each class where there is none.
      seed: of what is random.
      per_class: at most so many images of a class for training and validation together.
      share: of those, for validation.
    """
    rng = np.random.default_rng(seed)
    found = []
    for c in np.unique(dataset.classes):
        rows = rng.permutation(np.flatnonzero(dataset.classes == c))
        if dataset.test_only is None:
            test, rest = np.split(rows, [len(rows) // 4])
        else:
            test, rest = rows[dataset.test_only[rows]], rows[~dataset.test_only[rows]]
        rest = rest[:per_class]
        validation, training = np.split(rest, [max(1, int(share * len(rest)))])
        found.append((training, validation, test))
    return Parts(*(np.concatenate(rows) for rows in zip(*found, strict=True)))
