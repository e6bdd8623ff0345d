"""Roots and order statistics by halving, in a fixed number of steps: exact to the last bit, under any transformation.

Floats of one sign are ordered as their bits are, so an interval is halved not by its length but by how many floats it
has: 32 steps (64 in x64) leave two neighbours of any interval, whatever its scale.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def largest(holds: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The largest float in ``[low, high]`` of which `holds` is true.

    Args:
      holds: of a scalar, whether it is low enough: true up to some float, false beyond.
      low: the answer where `holds` is nowhere true, finite, scalar.
      high: the largest answer possible, finite, scalar; not below `low`.

    Returns:
      A scalar in the dtype of `low`.
    """
    dtype = low.dtype

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        lower, upper = ends
        middle = lower + (upper - lower) // 2 + (upper - lower) % 2
        inside = holds(_float(middle, dtype)) | (middle == lower)  # that is, there is nothing left to halve
        return jnp.where(inside, middle, lower), jnp.where(inside, upper, middle - 1)

    ends = _rank(low), jnp.maximum(_rank(high), _rank(low))
    lower, _ = jax.lax.fori_loop(0, 8 * dtype.itemsize, halve, ends)
    return _float(lower, dtype)


def _rank(value: jax.Array) -> jax.Array:
    """How many-th float a value is, unsigned: in the order of the values."""
    bits = jax.lax.bitcast_convert_type(value + 0, _unsigned(value.dtype))  # + 0: there is one zero
    top = jnp.array(1, bits.dtype) << (8 * bits.dtype.itemsize - 1)
    return jnp.where(bits >= top, ~bits, bits | top)


def _float(rank: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The value of a rank."""
    top = jnp.array(1, rank.dtype) << (8 * rank.dtype.itemsize - 1)
    return jax.lax.bitcast_convert_type(jnp.where(rank >= top, rank ^ top, ~rank), dtype)


def _unsigned(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.dtype(f"uint{8 * dtype.itemsize}")
