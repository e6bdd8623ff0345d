"""A moving average of very many entries of which a step sees few: a table, and a scale that decays in its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _groups
from also_optax._precise import Scale

SMALLEST_DECAY = 2.0**-60


class SparseAverage(NamedTuple):
    """average' = decay·average + (1 - decay)·(what the step saw, zero where it saw nothing).

    Attributes:
      table: the averages in units of the scale, ``[n]``.
      scale: a :class:`Scale`, ``[2]``.
    """

    table: jax.Array
    scale: jax.Array

    def updated(self, ids: jax.Array, terms: jax.Array, decay: jax.Array) -> "SparseAverage":
        """The average after a step that saw `terms` at `ids`, ``[B]``; ids outside ``[0, n)`` have no part."""
        scale = Scale(*self.scale).divided(-jnp.log(jnp.maximum(decay, SMALLEST_DECAY)))
        table = _groups.put_more(self.table, ids, (1 - decay) * terms / scale.value)

        def multiply(carry: tuple[jax.Array, Scale]) -> tuple[jax.Array, Scale]:
            table, scale = carry
            factor, scale = scale.parted()
            return table * factor, scale

        table, scale = jax.lax.while_loop(lambda carry: carry[1].worn, multiply, (table, scale))
        return SparseAverage(table, jnp.stack(scale))

    def value(self) -> jax.Array:
        """The averages, ``[n]``; not debiased."""
        return self.table * Scale(*self.scale).value


def start(size: int, dtype: jnp.dtype) -> SparseAverage:
    """Averages of zero."""
    return SparseAverage(jnp.zeros((size,), dtype), jnp.zeros((2,), dtype))
