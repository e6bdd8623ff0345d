"""The segment_sum kernel and its read side, with every kind of id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from also_optax import _groups

IDS = jnp.array([0, 2, -1, 5, 2, 1, -3, 4])
VALUES = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])


def test_ids_outside_the_groups_add_nothing():
    np.testing.assert_array_equal(_groups.segment_sum(VALUES, IDS, 4), [1, 32, 18, 0])


def test_ids_outside_the_groups_read_zero():
    table = jnp.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(_groups.take(table, IDS), [0.1, 0.3, 0, 0, 0.3, 0.2, 0, 0], rtol=1e-6)


def test_a_scalar_table_serves_all_groups():
    assert _groups.take(jnp.array(7.0), IDS) == 7


def test_the_mass_of_a_prior_is_its_multiple_of_the_uniform_one():
    log_prior = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(_groups.mass_of(log_prior, 4), [0.4, 0.8, 1.2, 1.6], rtol=1e-6)
    np.testing.assert_allclose(_groups.mass_at(log_prior, jnp.array([3, 0]), 4), [1.6, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(_groups.mass_at(jnp.log(0.25), jnp.array([3, 0]), 4), [1, 1])


def test_shards_of_mapped_axes_are_gathered_one_behind_the_other():
    gathered = jax.vmap(lambda part: _groups.all_gather(part, "shards"), axis_name="shards")(VALUES.reshape(4, 2))
    np.testing.assert_array_equal(gathered, np.tile(VALUES, (4, 1)))
    rows = VALUES.reshape(2, 2, 2)
    gathered = jax.vmap(lambda part: _groups.all_gather(part, "shards"), axis_name="shards")(rows)
    np.testing.assert_array_equal(gathered, np.tile(VALUES.reshape(4, 2), (2, 1, 1)))


def test_sums_of_many_equal_values_are_exact():
    np.testing.assert_array_equal(_groups.segment_sum(jnp.ones(100_000), jnp.zeros(100_000, int), 2), [100_000, 0])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("shape", [(8,), (4, 2)])
def test_a_sharded_batch_gives_replicated_sums_and_reads_entries_where_it_lies(axis_type, shape):
    mesh = jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(axis_type,) * len(shape))
    by_data = NamedSharding(mesh, PartitionSpec("data"))
    table = jnp.array([0.1, 0.2, 0.3, 0.4])
    with jax.set_mesh(mesh):
        values, ids = jax.device_put((VALUES, IDS), by_data)
        replicated = jax.device_put(table, NamedSharding(mesh, PartitionSpec()))
        sums = jax.block_until_ready(jax.jit(_groups.segment_sum, static_argnums=2)(values, ids, 4))
        entries = jax.block_until_ready(jax.jit(_groups.take)(replicated, ids))
    np.testing.assert_array_equal(sums, [1, 32, 18, 0])
    assert sums.sharding.is_fully_replicated
    assert entries.sharding.is_equivalent_to(by_data, 1)
    np.testing.assert_allclose(entries, [0.1, 0.3, 0, 0, 0.3, 0.2, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_what_is_small_is_whole_on_every_device_of_the_mesh_in_context_and_stays_where_there_is_none(axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    values = jax.device_put(VALUES, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        found = jax.block_until_ready(jax.jit(lambda values: _groups.everywhere(2 * values))(values))
    assert found.sharding.is_fully_replicated
    np.testing.assert_array_equal(found, 2 * VALUES)
    np.testing.assert_array_equal(jax.jit(_groups.everywhere)(VALUES), VALUES)


def test_what_is_on_the_shards_of_a_shard_map_stays_there():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    found = jax.jit(jax.shard_map(_groups.everywhere, mesh=mesh, in_specs=split, out_specs=split))(VALUES)
    np.testing.assert_array_equal(found, VALUES)
