"""Tasks to learn from a few examples: sinusoids, and images of classes that are new to each task."""

import numpy as np

AMPLITUDES, PHASES, RANGE = (0.1, 5.0), (0.0, np.pi), 5.0


def sinusoids(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Points of sinusoids of random amplitude and phase (arXiv 1703.03400), ``[count, points, 2]``: x and y."""
    amplitude = rng.uniform(*AMPLITUDES, (count, 1))
    phase = rng.uniform(*PHASES, (count, 1))
    x = rng.uniform(-RANGE, RANGE, (count, points))
    return np.stack([x, amplitude * np.sin(x - phase)], axis=-1).astype(np.float32)


def few_shot(
    classes: np.ndarray, allowed: np.ndarray, count: int, *, ways: int, each: int, rng: np.random.Generator
) -> np.ndarray:
    """Which images make each task, ``[count, each * ways]``: one of each of its classes, then the next of each.

    Args:
      classes: of all images; -1 is not to be used.
      allowed: classes to draw from, each task's in random order.
      count: of tasks.
      ways: classes a task.
      each: different images of each class.
      rng: draws.
    """
    rows = {c: np.flatnonzero(classes == c) for c in allowed}
    tasks = []
    for _ in range(count):
        drawn = rng.choice(allowed, ways, replace=False)
        tasks.append(np.stack([rng.choice(rows[c], each, replace=False) for c in drawn], axis=1).ravel())
    return np.array(tasks)
