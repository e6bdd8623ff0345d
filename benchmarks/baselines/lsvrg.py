r"""LSVRG for distributionally robust objectives of linear models (arXiv 2212.05149, algorithm 2).

The problem, with features :math:`x_i`, an ambiguity set and its penalty :math:`\Omega` behind ``worst_weights``, is

.. math:: \min_\theta \max_q \sum_i q_i \ell(x_i^\top \theta, y_i) - \Omega(q) + \frac{\mu}{2} \|\theta\|^2.

At a checkpoint :math:`\bar\theta` all losses are computed, the weights :math:`\bar q` that are worst for them, and the
full gradient :math:`\bar g = \sum_i \bar q_i \nabla\ell_i(\bar\theta)`. A step draws i uniformly and goes along

.. math:: n \bar q_i (\nabla\ell_i(\theta) - \nabla\ell_i(\bar\theta)) + \bar g + \mu\theta.

A linear model's gradients are multiples of its features, so the table is of n numbers, not n×d. Deviation: checkpoints
come every n steps, as in the authors' experiments, not with chance 1/n; a pass is then one `jax.lax.scan`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def lsvrg(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    worst_weights: Callable[[jax.Array], jax.Array],
    features: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    learning_rate: float,
    weight_decay: float,
    passes: int,
) -> tuple[jax.Array, jax.Array]:
    """Trains a linear model by variance-reduced steps of single examples.

    Args:
      loss: of a score and a label, convex and smooth in the score, both scalars.
      worst_weights: of losses ``[n]``, the worst weights on the simplex; unique and continuous (a penalised set).
      features: ``[n, d]``.
      labels: ``[n]``.
      key: a key of `jax.random`.
      learning_rate: below 1 / (2 n max(q) L).
      weight_decay: mu, above 0.
      passes: how many checkpoints.

    Returns:
      The parameters, ``[d]``, and their worst weights, ``[n]``.
    """
    num_examples, dimension = features.shape
    slope = jax.grad(loss)

    def checkpoint(params: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = features @ params
        return worst_weights(jax.vmap(loss)(scores, labels)), jax.vmap(slope)(scores, labels)

    def one_pass(params: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        weights, slopes = checkpoint(params)
        full = (weights * slopes) @ features

        def step(params: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            change = slope(features[i] @ params, labels[i]) - slopes[i]
            direction = num_examples * weights[i] * change * features[i] + full + weight_decay * params
            return params - learning_rate * direction, None

        return jax.lax.scan(step, params, jax.random.randint(key, (num_examples,), 0, num_examples))

    params, _ = jax.lax.scan(one_pass, jnp.zeros(dimension, features.dtype), jax.random.split(key, passes))
    return params, checkpoint(params)[0]
