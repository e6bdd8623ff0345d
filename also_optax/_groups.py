"""The segment_sum kernel: sums of examples by group, and each example's entry of a table of groups.

Both ignore ids outside ``[0, G)``: those add nothing and read 0. Both work on a mesh whose axes are Explicit, where
JAX asks for the sharding of a scatter's or gather's result: sums by group are replicated (the batch's shards are added
up), and entries read by a batch are sharded like the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from also_optax._examples import Examples
from also_optax._hyperparams import LARGEST_LOG


def segment_sum(values: jax.Array, groups: jax.Array, num_groups: int) -> jax.Array:
    """Sums of `values` by group.

    Args:
      values: ``[B]`` (or ``[B, ...]``, with `groups` of the same shape).
      groups: int ids; those outside ``[0, num_groups)`` add nothing.
      num_groups: G.

    Returns:
      Sums, ``[G]``, in the dtype of `values`.
    """
    return (
        jnp.zeros((num_groups,), values.dtype)
        .at[groups]
        .add(values, mode="drop", wrap_negative_indices=False, out_sharding=_replicated(values))
    )


def take(table: jax.Array, groups: jax.Array) -> jax.Array:
    """Entries of `table`, ``[G]`` or a scalar for all groups, at `groups`; 0 at ids outside ``[0, G)``."""
    if table.ndim == 0:
        return table
    sharding = jax.typeof(groups).sharding if _replicated(groups) is not None else None
    return table.at[groups].get(mode="fill", fill_value=0, wrap_negative_indices=False, out_sharding=sharding)


def add_at(table: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """`table`, ``[n]``, with `values` added at `ids`; ids outside ``[0, n)`` add nothing."""
    return table.at[ids].add(values, mode="drop", wrap_negative_indices=False)


def all_gather(array: jax.Array, axis_name: str | tuple[str, ...]) -> jax.Array:
    """The shards of `array` along mapped axes, one behind the other, the same on all of them."""
    shards = jax.lax.psum(1, axis_name)
    whole = jnp.zeros((shards, *array.shape), jnp.int32 if array.dtype == bool else array.dtype)
    whole = whole.at[jax.lax.axis_index(axis_name)].set(array.astype(whole.dtype))
    return jax.lax.psum(whole, axis_name).reshape(-1, *array.shape[1:]).astype(array.dtype)


def put(table: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """`table`, ``[n]``, with `values` at `ids`; ids outside ``[0, n)`` put nothing, and no others may repeat."""
    return table.at[ids].set(values, mode="drop", wrap_negative_indices=False)


def mass_of(log_prior: jax.Array, num_groups: int) -> jax.Array:
    """Prior times G, which is 1 where it is uniform: a scalar prior stands for that."""
    return jnp.ones([], log_prior.dtype) if log_prior.ndim == 0 else jnp.exp(log_prior + np.log(num_groups))


def mass_at(log_prior: jax.Array, ids: jax.Array, num_groups: int) -> jax.Array:
    """Prior times G of the entries at `ids`, ``[B]``."""
    return jnp.broadcast_to(mass_of(take(log_prior, ids), num_groups), ids.shape)


def inverse_of(log_frequencies: jax.Array, num_groups: int) -> jax.Array:
    """1/q; a scalar stands for 1/G, and gives G to the last digit."""
    if log_frequencies.ndim == 0:
        return jnp.full([], num_groups, log_frequencies.dtype)
    return jnp.exp(jnp.minimum(-log_frequencies, LARGEST_LOG))


def loss_sums(examples: Examples, num_groups: int) -> jax.Array:
    """Sums of the losses by group, ``[G]``; the entries of one row of ``[B, T]`` are added up first."""
    assert examples.groups is not None  # noqa: S101 (as_examples has required them)
    per_id = examples.losses.sum(axis=_trailing_axes(examples))
    return segment_sum(per_id, examples.groups, num_groups)


def _trailing_axes(examples: Examples) -> Sequence[int]:
    return tuple(range(examples.groups.ndim, examples.losses.ndim))  # type: ignore[union-attr]


def _replicated(array: jax.Array) -> NamedSharding | None:
    """The replicated sharding on `array`'s mesh if all its axes are Explicit, else None: nothing to ask for."""
    mesh = jax.typeof(array).sharding.mesh
    if mesh.empty or any(axis_type != AxisType.Explicit for axis_type in mesh.axis_types):
        return None
    return NamedSharding(mesh, PartitionSpec())
