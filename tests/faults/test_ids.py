"""Ids that are out of range, of any dtype, or no ids at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from tests import problems
from tests.rows import RULES, each

groups_of = each({name: row for name, row in RULES.items() if row.groups})
DTYPES = ("int8", "uint8", "int16", "uint16", "uint32")
LOSSES = np.float32([0.5, 1.5, 3.0, 0.7, 0.9])


@pytest.mark.parametrize(("dtype", "num_groups"), [("uint8", 300), ("uint8", 256), ("int8", 200), ("uint16", 70_000)])
def test_ids_of_a_narrow_dtype_count_though_the_number_of_groups_does_not_fit_it(dtype, num_groups):
    state = also_optax.reweight_by_also(num_groups).init(None)
    ids = np.array([0, 100, 127, np.iinfo(dtype).max], dtype)
    weights = also_optax.example_weights(state, jnp.ones(4), ids)
    assert (weights == 1).all()


@groups_of
def test_the_ends_of_every_integer_dtype_are_of_no_group(row):
    """The largest id is rejected, the smallest of a signed dtype is padding, and an unsigned -1 is a large id."""
    state = row.rule.trained_rule

    def seen(ids):
        losses = jnp.asarray(LOSSES)
        return row.rule.weights(state, losses, ids), row.rule.observe(state, losses, ids)

    batches = {
        dtype: np.array([0, 1, 2, np.iinfo(dtype).max, np.iinfo(dtype).min if dtype[0] == "i" else 200], dtype)
        for dtype in DTYPES
    }
    clean = np.array([0, 1, 2, -1, -1], np.int32)
    found, (weights, statistics) = jax.jit(
        lambda batches, clean: ({k: seen(v) for k, v in batches.items()}, seen(clean))
    )(batches, clean)
    for dtype, (weights_of, statistics_of) in found.items():
        np.testing.assert_array_equal(weights_of, weights, err_msg=dtype)
        assert statistics_of.count == 3 and statistics_of.rejected == 1 + (dtype[0] == "u")
        row.rule.expect_same(statistics_of._replace(rejected=statistics.rejected), statistics, dtype)


@pytest.mark.parametrize("lazy", [False, True])
def test_ids_of_64_bits_that_int32_would_wrap_are_of_no_group(lazy):
    tx = also_optax.reweight_by_also(3, lazy=lazy)
    ids = np.array([0, 2**31, 2**32 + 1, -(2**32) + 1, -(2**40)])
    _, rw = also_optax.reweight(tx.init(None), LOSSES, ids)
    assert rw.weights.tolist() == [1, 0, 0, 0, 0]
    _, state = tx.update(None, tx.init(None), **rw.extra_args)
    _, told = tx.update(None, tx.init(None), losses=LOSSES, groups=ids)
    unsigned = also_optax.observe(state, LOSSES[:2], np.array([0, 2**32 + 1], np.uint64))
    assert (state.rejected, told.rejected, unsigned.count, unsigned.rejected) == (2, 2, 1, 1)


@pytest.mark.parametrize("lazy", [False, True])
def test_ids_of_64_bits_are_what_they_say_in_float64(x64, lazy):
    tx = also_optax.reweight_by_also(3, lazy=lazy)
    ids = jnp.array([0, 2**31, 2**32 + 1, 2**62, -(2**32) + 1], jnp.int64)
    weights = jax.jit(lambda ids: also_optax.example_weights(tx.init(None), LOSSES, ids))(ids)
    assert weights.tolist() == [1, 0, 0, 0, 0]
    _, state = jax.jit(tx.update)(None, tx.init(None), losses=LOSSES, groups=ids)
    assert state.rejected == 3


@groups_of
@pytest.mark.parametrize(
    "ids", [np.ones(5, bool), np.ones(5, np.float32), np.ones(5, np.complex64), np.ones(5, jnp.bfloat16)]
)
def test_what_is_no_integer_is_an_error(row, ids):
    state = row.rule.start
    for arguments in ((LOSSES, ids), (LOSSES, jnp.asarray(ids))):
        with pytest.raises(TypeError, match=f"`groups` must be integer ids, got dtype {ids.dtype}"):
            row.rule.weights(state, *arguments)
        with pytest.raises(TypeError, match="`groups` must be integer ids"):
            row.rule.told(row.make(**row.hyperparams), state, *arguments)


@pytest.mark.parametrize("labels", [["cat", "dog"], np.array(["cat", "dog"]), np.array(["cat", None])])
def test_labels_that_are_no_numbers_are_an_error_that_says_how_to_number_them(labels):
    state = also_optax.reweight_by_also(2).init(None)
    with pytest.raises(
        TypeError, match=r"`groups` must be integer ids, got a (list|ndarray). Number .* return_inverse"
    ):
        also_optax.reweight(state, LOSSES[:2], labels)


def test_an_id_of_every_group_is_seen_and_no_other():
    state = also_optax.reweight_by_also(problems.NUM_GROUPS).init(None)
    ids = jnp.arange(-4, 7)
    weights = also_optax.example_weights(state, jnp.ones(11), ids)
    np.testing.assert_array_equal(weights > 0, (ids >= 0) & (ids < problems.NUM_GROUPS))
