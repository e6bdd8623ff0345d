"""A moving average of very many entries of which a step sees few: a table, and a scale that decays in its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _groups
from also_optax._precise import Scale, power_of_two

MOST_HALVINGS = 40
SMALLEST_DECAY = 2.0**-60


class SparseAverage(NamedTuple):
    """average' = decay·average + (1 - decay)·(what the step saw, zero where it saw nothing).

    Attributes:
      table: the averages in units of the scale, ``[n]``.
      scale: a :class:`Scale`, ``[3]``.
    """

    table: jax.Array
    scale: jax.Array

    def updated(self, ids: jax.Array, terms: jax.Array, decay: jax.Array) -> "SparseAverage":
        """The average after a step that saw `terms` at `ids`, ``[B]``; ids outside ``[0, n)`` have no part."""
        scale = Scale(*self.scale).divided(-jnp.log(jnp.maximum(decay, SMALLEST_DECAY)))
        table = _groups.put_more(self.table, ids, (1 - decay) * terms / scale.value)

        def multiply(carry: tuple[jax.Array, Scale]) -> tuple[jax.Array, Scale]:
            table, scale = carry
            return table * power_of_two(-scale.halvings), scale._replace(halvings=jnp.zeros_like(scale.halvings))

        table, scale = jax.lax.while_loop(lambda carry: carry[1].halvings >= MOST_HALVINGS, multiply, (table, scale))
        return SparseAverage(table, jnp.stack(scale))

    def value(self) -> jax.Array:
        """The averages, ``[n]``; not debiased."""
        return self.table * Scale(*self.scale).value


def start(size: int, dtype: jnp.dtype) -> SparseAverage:
    """Averages of zero."""
    return SparseAverage(jnp.zeros((size,), dtype), jnp.zeros((3,), dtype))
