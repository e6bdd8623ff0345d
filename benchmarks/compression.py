"""Perm-K with shares: the coordinates of a gradient are dealt out to workers, each of which sends its own alone.

In a step a permutation that all workers know from a shared seed puts the d coordinates in order, and worker i owns the
next ``shares[i] * d`` of them. What it sends is scaled by ``weights[i] / shares[i]``, so that the sum over workers, in
which every coordinate has one term, has the mean ``sum_i weights[i] g_i``. Equal shares and weights are Perm-K (arXiv
2110.03300); where the shares are the weights nothing needs to be scaled.

The order is drawn once, and each step begins at another place of it: every coordinate is then each worker's with the
right chance, which is all that the mean and the mean squared error of a step depend on, and costs no sort of d numbers.
"""

import jax
import jax.numpy as jnp

BITS = 32
"""Of a number that is sent. Of indices nothing is: they follow from the seed."""


def edges(shares: jax.Array, size: int, offset: jax.Array) -> jax.Array:
    """Where each worker's part begins and, in the next entry, ends, int ``[M + 1]``.

    Args:
      shares: of the workers, ``[M]``, with sum 1.
      size: d.
      offset: in [0, 1); with uniform offsets the mean length of a part is exactly its share of d.
    """
    inner = jnp.floor(jnp.cumsum(shares)[:-1] * size + offset).astype(jnp.int32)
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.clip(inner, 0, size), jnp.full(1, size, jnp.int32)])


def piece(
    gradient: jax.Array, positions: jax.Array, worker: jax.Array, ends: jax.Array, factor: jax.Array
) -> jax.Array:
    """What a worker sends, with zeros where it sends nothing, ``[d]``.

    Args:
      gradient: the worker's own, ``[d]``.
      positions: of the coordinates in this step's order, ``[d]``.
      worker: its number.
      ends: of :func:`edges`.
      factor: ``weights[worker] / shares[worker]``.
    """
    owned = (positions >= ends[worker]) & (positions < ends[worker + 1])
    return jnp.where(owned, factor * gradient, 0.0)
