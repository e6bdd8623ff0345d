"""What rules share whose weights come from the losses of one batch, without a memory of earlier ones.

A weight is a function of the loss alone, given the batch: so equal losses have equal weights, and a micro-batch or a
shard can be weighed as a part of the whole.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from also_optax import _groups
from also_optax._examples import Examples
from also_optax._hyperparams import saturated, statistics_dtype
from also_optax._pairs import Pairs, entries_of


class Batch(NamedTuple):
    """The losses of a whole batch.

    Attributes:
      losses: ``[P]``; 0 where not `valid`.
      valid: which of them count, ``[P]``.
      count: how many, scalar, at least 1.
      lowest: the smallest loss, scalar; 0 without any.
      highest: the largest loss, scalar; 0 without any.
    """

    losses: jax.Array
    valid: jax.Array
    count: jax.Array  # type: ignore[assignment]  # tuple.count, which nobody needs here
    lowest: jax.Array
    highest: jax.Array

    def total(self, terms: jax.Array) -> jax.Array:
        """Sum of `terms`, ``[P]``, over the entries that count."""
        return jnp.sum(jnp.where(self.valid, terms, 0))

    def ascending(self) -> jax.Array:
        """The losses in ascending order, ``[P]``: the first `count` of them, then the largest again and again."""
        ordered = jnp.sort(jnp.where(self.valid, self.losses, jnp.inf))
        return jnp.minimum(ordered, self.highest)


_State = TypeVar("_State", bound="WholeBatchState")


class WholeBatchState(NamedTuple):
    """State of a rule that weighs a batch by its own losses.

    Attributes:
      step: how many batches were seen.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      robust_value: what the adversary's weights make of the last batch's losses, penalty included.
      erm_value: the last batch's mean loss.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: Any
    robust_value: jax.Array
    erm_value: jax.Array

    @property
    def num_groups(self) -> None:
        """These rules have no groups."""

    def observe(self, examples: Examples) -> Pairs:
        """The losses of the batch."""
        return entries_of(examples)

    def advance(self: _State, statistics: Pairs) -> _State:
        """The values of the batch; there is no memory beside."""
        batch = _batch_of(statistics)
        weights = self.weights(batch, batch.losses)
        erm_value = saturated(batch.total(batch.losses) / batch.count)
        robust_value = saturated(batch.total(weights * batch.losses) / batch.count - self.penalty_of(batch, weights))
        # Uniform weights are always among the possible ones, and free: a large penalty magnifies what rounding leaves.
        return self._replace(robust_value=jnp.maximum(robust_value, erm_value), erm_value=erm_value)

    def weigh(self, statistics: Pairs, examples: Examples) -> jax.Array:
        """The weights of the examples, as a part of the batch with `statistics`."""
        return self.weights(_batch_of(statistics), examples.losses)

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The weights of `losses`, of any shape, that are among those of `batch`."""
        raise NotImplementedError

    def penalty_of(self, batch: Batch, weights: jax.Array) -> jax.Array | float:
        """What the adversary pays for `weights`, ``[P]``; a hard constraint costs nothing."""
        del batch, weights
        return 0.0

    def diagnostics(self) -> dict[str, jax.Array]:
        """The values of the last batch."""
        return {"rejected": self.rejected, "robust_value": self.robust_value, "erm_value": self.erm_value}


def start(state_type: type[_State], hyperparams: Any, step: jax.Array) -> _State:
    """The state before the first batch."""
    zero = jnp.zeros([], statistics_dtype())
    return state_type(step, jnp.zeros([], jnp.int32), hyperparams, jnp.copy(zero), jnp.copy(zero))


def number_below(ascending: jax.Array, losses: jax.Array, *, or_equal: bool = False) -> jax.Array:
    """How many of `ascending`, ``[P]``, are below each of `losses`, int of their shape; or not above, if `or_equal`."""

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) // 2
        entry = _groups.take(ascending, middle)
        is_open, is_below = low < high, entry <= losses if or_equal else entry < losses
        return jnp.where(is_open & is_below, middle + 1, low), jnp.where(is_open & ~is_below, middle, high)

    zero = (losses * 0).astype(jnp.int32)
    low, _ = jax.lax.fori_loop(0, ascending.size.bit_length(), halve, (zero, zero + ascending.size))
    return low


def _batch_of(statistics: Pairs) -> Batch:
    valid = statistics.ids >= 0
    any_valid = statistics.count > 0
    lowest = jnp.min(statistics.losses, where=valid, initial=jnp.inf)
    highest = jnp.max(statistics.losses, where=valid, initial=-jnp.inf)
    return Batch(
        losses=statistics.losses,
        valid=valid,
        count=jnp.maximum(statistics.count, 1),
        lowest=jnp.where(any_valid, lowest, 0),
        highest=jnp.where(any_valid, highest, 0),
    )
