"""The segment_sum kernel: sums of examples by group, and each example's entry of a table of groups, read or written.

All ignore ids outside ``[0, G)``: those add nothing and read 0. All work on a mesh whose axes are Explicit, where
JAX asks for the sharding of a scatter's or gather's result: sums by group are sharded like the table that they are for
(the batch's shards are added up), and entries read by a batch are sharded like the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from also_optax._examples import Examples
from also_optax._hyperparams import LARGEST_LOG


def segment_sum(values: jax.Array, groups: jax.Array, num_groups: int, *, like: jax.Array | None = None) -> jax.Array:
    """Sums of `values` by group.

    Args:
      values: ``[B]`` (or ``[B, ...]``, with `groups` of the same shape).
      groups: int ids; those outside ``[0, num_groups)`` add nothing.
      num_groups: G.
      like: the table ``[G]`` that the sums are for, whose sharding they get on an Explicit mesh; None: replicated.

    Returns:
      Sums, ``[G]``, in the dtype of `values`.
    """
    sharding = None if like is None else _explicit_sharding(like)
    if like is None or sharding is None or sharding.is_fully_replicated:
        table, sharding = jnp.zeros((num_groups,), values.dtype), _replicated(values)
    else:  # few pairs to every shard of the table, in place of a whole table from every shard of the batch
        table = jnp.zeros((num_groups,), values.dtype, device=sharding)
        values, groups = (jax.sharding.reshard(of, _replicated(like)) for of in (values, groups))
    return table.at[groups].add(values, mode="drop", wrap_negative_indices=False, out_sharding=sharding)


def take(table: jax.Array, groups: jax.Array) -> jax.Array:
    """Entries of `table`, ``[G]`` or a scalar for all groups, at `groups`; 0 at ids outside ``[0, G)``."""
    if table.ndim == 0:
        return table
    sharding = _explicit_sharding(groups) or _replicated(table)
    return table.at[groups].get(mode="fill", fill_value=0, wrap_negative_indices=False, out_sharding=sharding)


def put(table: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """`table`, ``[n]``, with `values` at `ids`; ids outside ``[0, n)`` put nothing, and no others may repeat."""
    sharding = _explicit_sharding(table)
    return table.at[ids].set(values, mode="drop", wrap_negative_indices=False, out_sharding=sharding)


def put_more(table: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """`table`, ``[n]``, with `values` added at `ids`; ids outside ``[0, n)`` add nothing."""
    sharding = _explicit_sharding(table)
    return table.at[ids].add(values, mode="drop", wrap_negative_indices=False, out_sharding=sharding)


def everywhere(array: jax.Array) -> jax.Array:
    """`array`, small, whole on every device of the mesh that is in its type or in the context."""
    if _explicit_sharding(array) is not None:
        return jax.sharding.reshard(array, _replicated(array))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(axis_type != AxisType.Auto for axis_type in mesh.axis_types):
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec())


def folded(table: jax.Array, rows: int) -> jax.Array:
    """`table`, ``[n]``, as ``[rows, n / rows]``, split over the rows as it was."""
    sharding = _explicit_sharding(table)
    if sharding is not None:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec, None))
    return jax.lax.reshape(table, (rows, table.size // rows), out_sharding=sharding)


def all_gather(array: jax.Array, axis_name: str | tuple[str, ...]) -> jax.Array:
    """The shards of `array` along mapped axes, one behind the other; the result is known to be the same on all."""
    shards = jax.lax.psum(1, axis_name)
    whole = jnp.zeros((shards, *array.shape), array.dtype).at[jax.lax.axis_index(axis_name)].set(array)
    return jax.lax.psum(whole, axis_name).reshape(-1, *array.shape[1:])


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


def loss_sums(examples: Examples, num_groups: int, *, like: jax.Array | None = None) -> jax.Array:
    """:func:`segment_sum` of the losses, ``[G]``; the entries of one row of ``[B, T]`` are added up first."""
    assert examples.groups is not None  # noqa: S101 (as_examples has required them)
    per_id = examples.losses.sum(axis=examples.trailing_axes)
    return segment_sum(per_id, examples.groups, num_groups, like=like)


def _replicated(array: jax.Array) -> NamedSharding | None:
    """The replicated sharding on `array`'s mesh if all its axes are Explicit, else None."""
    sharding = _explicit_sharding(array)
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def _explicit_sharding(array: jax.Array) -> NamedSharding | None:
    """The sharding in `array`'s type if all axes of its mesh are Explicit, else None: nothing to ask for."""
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty or any(axis_type != AxisType.Explicit for axis_type in sharding.mesh.axis_types):
        return None
    return sharding
