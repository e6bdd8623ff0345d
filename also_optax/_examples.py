"""A batch as the rules see it: which entries count, in float32, each with the id of its group."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from also_optax._hyperparams import saturated, statistics_dtype

LARGEST_ID = 2**31 - 1
"""Of int32, and at least the number of groups: it is of no group."""

NUMBER_THEM = "Number the groups from 0: `np.unique(labels, return_inverse=True)[1]`."
"""What to do with labels that are no ids."""


class Examples(NamedTuple):
    """A batch of losses after validation; the shapes are those of the user's losses.

    Attributes:
      losses: what the rule sees of the losses, ``[B, ...]``: less any reference losses, gradient stopped, 0 where not
        `valid`, saturated at ``±1e30``.
      groups: ids in ``[0, G)``, of a leading shape of `losses`; None where the user gave none.
      valid: the entries that count, ``[B, ...]``: finite, not padding, id and loss in range.
      rejected: the entries that should have counted but cannot, ``[B, ...]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> valid = jnp.array([True, True, False])  # the last one is padding
      >>> examples = base.Examples(jnp.array([1.0, 2.0, 0.0]), jnp.array([0, 1, 0]), valid, jnp.zeros(3, bool))
      >>> print(examples.each(examples.groups))
      [0 1 0]
    """

    losses: jax.Array
    groups: jax.Array | None
    valid: jax.Array
    rejected: jax.Array

    @property
    def trailing_axes(self) -> tuple[int, ...]:
        """The axes of the losses that share an id."""
        assert self.groups is not None  # noqa: S101 (as_examples has required them)
        return tuple(range(self.groups.ndim, self.losses.ndim))

    def each(self, values: jax.Array) -> jax.Array:
        """`values`, one for each of the ids, for every entry: of the shape of the losses."""
        return jnp.broadcast_to(expand_like(values, self.losses), self.losses.shape)


def as_examples(
    losses: ArrayLike,
    groups: ArrayLike | None,
    where: ArrayLike | None,
    *,
    num_groups: int | None,
    max_loss: jax.Array,
    reference_losses: ArrayLike | None = None,
) -> Examples:
    """Checks a batch and marks the entries that count.

    Padding (`where` false, or a negative id) is left out silently. A loss that is not finite or above `max_loss` and
    an id of `num_groups` or more are left out too, and marked as rejected.

    Args:
      losses: per-example losses, not averaged, ``[B]`` or ``[B, T, ...]``.
      groups: int ids, of the leading shape of `losses` (``[B]`` serves ``[B, T]``), or None.
      where: bool mask, of the leading shape of `losses`, or None for all true.
      num_groups: G for rules that have groups (then `groups` is required), else None.
      max_loss: losses above it are rejected; a scalar.
      reference_losses: what is taken off the losses before a rule sees them, of their shape, or None.

    Returns:
      The batch as :class:`Examples`.

    Raises:
      TypeError: if losses are not floating, `groups` not integer, `where` not bool, or `groups` are missing.
      ValueError: if a shape does not fit.
    """
    losses = _floating("losses", losses)
    if losses.ndim == 0:
        raise ValueError("`losses` must be per-example, of shape [B] or [B, ...], got a scalar. Was it averaged?")
    eligible = jnp.ones_like(losses, dtype=bool)
    acceptable = jnp.isfinite(losses) & (losses <= max_loss)
    if reference_losses is not None:
        reference = _floating("reference_losses", reference_losses)
        if reference.shape != losses.shape:
            raise ValueError(
                f"`reference_losses` must have the shape of `losses`, here {losses.shape}, got shape {reference.shape}."
            )
        acceptable &= jnp.isfinite(reference)
        losses = saturated(losses) - saturated(reference)

    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != jnp.bool_:
            raise TypeError(f"`where` must be a bool mask, got dtype {where.dtype}. Pass `mask.astype(bool)`.")
        eligible &= _like_losses("where", where, losses)
    if groups is not None:
        groups = as_ids(groups)
        if groups.dtype.itemsize < 4:  # G itself may not fit into a narrow dtype, and would wrap
            groups = groups.astype(jnp.int32)
        ids = _like_losses("groups", groups, losses)
        eligible &= ids >= 0
        if num_groups is not None:
            acceptable &= ids < num_groups
    elif num_groups is not None:
        raise TypeError(
            "this rule weighs groups and needs the batch's `groups`, int ids of shape [B] (for one weight per example, "
            "the index of each example)."
        )
    valid = eligible & acceptable
    losses = jnp.where(valid, saturated(losses), 0)
    return Examples(losses, groups, valid, eligible & ~acceptable)


def no_examples() -> Examples:
    """A batch without entries, of which a rule's statistics are what merging leaves unchanged."""
    return Examples(
        losses=jnp.zeros((0,), statistics_dtype()),
        groups=jnp.zeros((0,), jnp.int32),
        valid=jnp.zeros((0,), bool),
        rejected=jnp.zeros((0,), bool),
    )


def as_ids(groups: ArrayLike) -> jax.Array:
    """`groups` as an array: JAX would wrap ids of 64 bits that do not fit into 32, and those of no group be of one.

    Raises:
      TypeError: if they are not integer.
    """
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu" and groups.dtype.itemsize == 8:
        groups = np.minimum(groups, LARGEST_ID)
        groups = np.maximum(groups, -1) if groups.dtype.kind == "i" else groups
    try:
        ids = jnp.asarray(groups)
    except TypeError as error:
        raise TypeError(f"`groups` must be integer ids, got a {type(groups).__name__}. {NUMBER_THEM}") from error
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`groups` must be integer ids, got dtype {ids.dtype}. {NUMBER_THEM}")
    return ids


def expand_like(array: jax.Array, losses: jax.Array) -> jax.Array:
    """Appends axes of size 1 until `array`, of a leading shape of `losses`, has as many as `losses`."""
    return jax.lax.expand_dims(array, range(array.ndim, losses.ndim))


def _floating(name: str, losses: ArrayLike) -> jax.Array:
    losses = jnp.asarray(losses)
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"`{name}` must be floating point, got dtype {losses.dtype}.")
    return jax.lax.stop_gradient(losses).astype(statistics_dtype())


def _like_losses(name: str, array: jax.Array, losses: jax.Array) -> jax.Array:
    if array.ndim == 0 or array.shape != losses.shape[: array.ndim]:
        one_hot = " Ids of rows that are one-hot: `groups.argmax(-1)`." if name == "groups" and array.ndim > 1 else ""
        raise ValueError(
            f"`{name}` must have the leading shape of `losses`, here {losses.shape}, got shape {array.shape}.{one_hot}"
        )
    return expand_like(array, losses)
