"""Numbers in more digits than one float has: sums in two parts, exact powers of two, and a scale that only shrinks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LN2_HEAD = 0.693145751953125
"""log 2 to 16 bits, so that a few hundred times it is exact in float32."""
LN2_TAIL = 1.4286068203094172e-06
MOST_HALVINGS = 40


def two_sum(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum as a float, and what it leaves out, exactly (Knuth)."""
    total = first + second
    of_second = total - first
    return total, (first - (total - of_second)) + (second - of_second)


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2 to a float of whole value, exactly, in the exponent's dtype; saturated at the normal range."""
    information = jnp.finfo(exponent.dtype)
    bias, integer = -int(information.minexp) + 1, jnp.int32 if information.bits == 32 else jnp.int64
    biased = jnp.clip(exponent, information.minexp, -information.minexp).astype(integer) + bias
    return jax.lax.bitcast_convert_type(biased << information.nmant, exponent.dtype)


class Scale(NamedTuple):
    """A positive number a = exp(log_head + log_tail), which thousands of small divisions leave exact.

    Attributes:
      log_head: at most 0.
      log_tail: what it leaves out.
    """

    log_head: jax.Array
    log_tail: jax.Array

    @property
    def value(self) -> jax.Array:
        """a."""
        return jnp.exp(self.log_head) * (1 + self.log_tail)

    @property
    def worn(self) -> jax.Array:
        """Whether a is so small that it should be multiplied into the table that it scales."""
        return self.log_head < -MOST_HALVINGS * (LN2_HEAD + LN2_TAIL)

    def divided(self, log_divisor: jax.Array) -> "Scale":
        """a/exp(log_divisor), for a divisor of at least 1."""
        head, error = two_sum(self.log_head, -log_divisor)
        return Scale(*two_sum(head, self.log_tail + error))

    def parted(self) -> tuple[jax.Array, "Scale"]:
        """A power of two, and a scale in (1/2, 1], of which a is the product."""
        halvings = jnp.floor(-self.log_head / (LN2_HEAD + LN2_TAIL))
        head, error = two_sum(self.log_head, halvings * LN2_HEAD)
        return power_of_two(-halvings), Scale(*two_sum(head, self.log_tail + error + halvings * LN2_TAIL))
