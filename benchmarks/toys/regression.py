"""Linear regression of which some directions are seen rarely, after RGD's example (arXiv 2306.09222).

An example is Gaussian in the frequent directions, and zero in the rare ones; or, with a small chance, the other way
round. The target is the sum of its entries plus noise, so that the error in each direction starts at 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.toys import descent
from benchmarks.toys.descent import Rule


class Regression(NamedTuple):
    """The sizes.

    Attributes:
      directions: frequent ones, and as many rare ones.
      chance: that an example is of the rare directions.
      noise: its standard deviation in the targets.
      batch: B.
      steps: of the optimizer.
      records: how often errors are noted; divides `steps`.
    """

    directions: int = 5
    chance: float = 0.02
    noise: float = 0.1
    batch: int = 16
    steps: int = 2000
    records: int = 50


def errors(sizes: Regression, rule: Rule, learning_rates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Mean squared errors in frequent and in rare directions, ``[R, S, records, 2]``.

    Args:
      sizes: of the problem.
      rule: that weighs examples; None is plain SGD.
      learning_rates: of SGD, ``[R]``.
      seeds: of the examples, ``[S]``; the same examples for every rule and learning rate.
    """
    return np.asarray(_errors(sizes, rule, jnp.asarray(learning_rates), jnp.asarray(seeds)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _errors(sizes: Regression, rule: Rule, learning_rates: jax.Array, seeds: jax.Array) -> jax.Array:
    def of_run(learning_rate: jax.Array, seed: jax.Array) -> jax.Array:
        def step(state: Any, number: jax.Array) -> tuple[Any, None]:
            x, y = sample(sizes, jax.random.fold_in(jax.random.key(seed), number))
            return descent.step(rule, learning_rate, lambda params: jnp.square(x @ params - y) / 2, state), None

        def record(state: Any, numbers: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = jax.lax.scan(step, state, numbers)
            return state, jnp.square(state[0] - 1).reshape(2, -1).mean(1)

        params = jnp.zeros(2 * sizes.directions)
        numbers = jnp.arange(sizes.steps).reshape(sizes.records, -1)
        return jax.lax.scan(record, (params, descent.sgd(rule, learning_rate).init(params)), numbers)[1]

    return jax.vmap(lambda rate: jax.vmap(lambda seed: of_run(rate, seed))(seeds))(learning_rates)


def sample(sizes: Regression, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features ``[B, 2 directions]``, frequent ones first, and targets ``[B]``."""
    of_rare, of_x, of_noise = jax.random.split(key, 3)
    rare = jax.random.bernoulli(of_rare, sizes.chance, (sizes.batch, 1))
    entries = jax.random.normal(of_x, (sizes.batch, 2, sizes.directions))
    x = (entries * jnp.stack([~rare, rare], axis=1)).reshape(sizes.batch, -1)
    return x, x.sum(1) + sizes.noise * jax.random.normal(of_noise, (sizes.batch,))


def expected_loss(sizes: Regression, errors: np.ndarray) -> np.ndarray:
    """The mean loss over the distribution without its noise, from errors ``[..., 2]``."""
    return sizes.directions / 2 * (errors @ np.array([1 - sizes.chance, sizes.chance]))
