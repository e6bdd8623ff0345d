"""MAML (arXiv 1703.03400): a model whose answer is that of a network after a few gradient steps on the task itself.

To the engine a task is an example: its inputs are everything of the task, its support first, and its outputs are those
on the query part. The outer gradient goes through the inner steps.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.training import TrainingSet
from benchmarks.tuning import Setting


class Points(NamedTuple):
    """Tasks of regression, ``[B, points, 2]``: x and y.

    Attributes:
      shots: points of the support; the others are the query.
    """

    shots: int

    def parts(self, tasks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Inputs and targets of the support, then of the query."""
        x, y = tasks[..., :1], tasks[..., 1]
        return x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :]

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean squared error on one task's points."""
        return jnp.square(self.answer(outputs, targets)).mean()

    def answer(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """How far off each prediction is."""
        return jnp.asarray(outputs)[:, 0] - targets

    def outer(self, answers: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
        """The loss of each task, ``[B]``."""
        return jnp.square(answers).mean(-1)

    def errors(self, answers: np.ndarray) -> np.ndarray:
        """The mean squared error on each task, ``[B]``."""
        return np.square(answers).mean(-1)


class Ways(NamedTuple):
    """Tasks of classification, ``[B, images, ...]``: an image of each of the task's classes, then the next of each.

    Attributes:
      shots: images of each class in the support; the others are the query.
      ways: how many classes.
    """

    shots: int
    ways: int

    def parts(self, tasks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Inputs and classes of the support, then of the query."""
        images, split = tasks.shape[1], self.shots * self.ways
        classes = jnp.broadcast_to(jnp.arange(images) % self.ways, tasks.shape[:2])
        return tasks[:, :split], classes[:, :split], tasks[:, split:], classes[:, split:]

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean cross-entropy on one task's images."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    def answer(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """All logits, flat."""
        return jnp.ravel(outputs)

    def outer(self, answers: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
        """The loss of each task, ``[B]``."""
        logits = answers.reshape(len(answers), -1, self.ways)
        classes = jnp.broadcast_to(jnp.arange(logits.shape[1]) % self.ways, logits.shape[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean(-1)

    def errors(self, answers: np.ndarray) -> np.ndarray:
        """The share of wrong answers on each task, ``[B]``."""
        predicted = answers.reshape(len(answers), -1, self.ways).argmax(-1)
        return (predicted != np.arange(predicted.shape[1]) % self.ways).mean(-1)


@dataclass(frozen=True)
class Maml:
    """A model of tasks, for the engine.

    Attributes:
      network: what is adapted.
      kind: of the tasks.
      rate: of the inner steps.
      steps: how many.
    """

    network: nn.Module
    kind: Points | Ways
    rate: float
    steps: int = 1

    def init(self, key: jax.Array, tasks: jax.Array) -> Any:
        """The network's parameters."""
        return self.network.init(key, self.kind.parts(tasks)[0][0])

    def apply(self, params: Any, tasks: jax.Array) -> jax.Array:
        """Answers ``[B, ...]`` after the inner steps on each task."""

        def of_task(inputs: jax.Array, targets: jax.Array, query: jax.Array, query_targets: jax.Array) -> jax.Array:
            return self.kind.answer(self._outputs(self.adapted(params, inputs, targets), query), query_targets)

        return jax.vmap(of_task)(*self.kind.parts(tasks))

    def adapted(self, params: Any, inputs: jax.Array, targets: jax.Array) -> Any:
        """The parameters after the inner steps on one task's support."""
        for _ in range(self.steps):
            gradient = jax.grad(lambda params: self.kind.loss(self._outputs(params, inputs), targets))(params)
            params = jax.tree.map(lambda p, g: p - self.rate * g, params, gradient)
        return params

    def _outputs(self, params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(self.network.apply(params, inputs))
