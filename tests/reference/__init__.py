"""The papers' equations in plain float64 NumPy, for comparison: nothing here knows of the package or of JAX.

Weights and averages are kept in linear space, one example at a time where that is what the equation says. Beside the
rules (one file each) there is a small logistic regression to train, and the model's half of the optimizers.
"""

from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
    """A logistic regression and the batches to train it on."""

    inputs: np.ndarray  # [n, d]
    labels: np.ndarray  # [n], 0 or 1
    groups: np.ndarray  # [n]
    batches: np.ndarray  # [T, B], rows of the data
    where: np.ndarray  # [T, B], False is padding


class Trajectory(NamedTuple):
    """What happened at each of T steps."""

    params: np.ndarray  # [T, d], after the step
    losses: np.ndarray  # [T, B]
    weights: np.ndarray  # [T, B], of the examples
    pi: np.ndarray | None = None  # [T, G], after the step


def logistic_problem(*, per_example: bool = False, steps: int = 40, batch_size: int = 7) -> Problem:
    """Five unequal groups (or one per example), inputs off zero, more of one label; some entries are padding."""
    rng = np.random.default_rng(7)
    num_examples, dimension = 60, 4
    groups = rng.choice(5, size=num_examples, p=[0.45, 0.25, 0.15, 0.1, 0.05])
    inputs = rng.normal(size=(num_examples, dimension)) + 0.4 * groups[:, None] + np.array([0.5, -0.2, 0.0, 1.0])
    scores = inputs @ np.array([1.0, -1.5, 0.3, 0.2]) * np.where(groups >= 3, -1, 1) + 0.5
    labels = (scores + rng.logistic(size=num_examples) > 0).astype(float)
    batches = rng.integers(num_examples, size=(steps, batch_size))
    where = rng.random((steps, batch_size)) < 0.85
    where[:, 0] = True
    if per_example:
        groups = np.arange(num_examples)
    return Problem(inputs, labels, groups, batches, where)


def logistic_losses(params, inputs, labels):
    """Cross-entropy of each example, ``[B]``, and its gradients, ``[B, d]``."""
    probabilities = 1 / (1 + np.exp(-inputs @ params))
    losses = -labels * np.log(probabilities) - (1 - labels) * np.log(1 - probabilities)
    return losses, (probabilities - labels)[:, None] * inputs


def at(schedule, step):
    """The value of a number or of a function of the step."""
    return schedule(step) if callable(schedule) else schedule


class Adam:
    """Kingma and Ba, algorithm 1, without the learning rate."""

    def __init__(self, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.calls, self.first, self.second = 0, 0.0, 0.0

    def __call__(self, gradient):
        self.calls += 1
        self.first = self.b1 * self.first + (1 - self.b1) * gradient
        self.second = self.b2 * self.second + (1 - self.b2) * gradient**2
        first = self.first / (1 - self.b1**self.calls)
        second = self.second / (1 - self.b2**self.calls)
        return first / (np.sqrt(second) + self.eps)


class HeavyBall:
    """Polyak's momentum, and Nesterov's."""

    def __init__(self, momentum, nesterov=False):
        self.momentum, self.nesterov, self.velocity = momentum, nesterov, 0.0

    def __call__(self, gradient):
        self.velocity = self.momentum * self.velocity + gradient
        return gradient + self.momentum * self.velocity if self.nesterov else self.velocity
