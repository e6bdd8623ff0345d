"""Losses and parameters of any floating dtype, mixed: the adversary keeps its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from also_optax._read import find_rule_state
from tests import problems
from tests.rows import optimizers, rules

GROUPS = jnp.array([0, 1, 2, 1])
LOSSES = np.array([0.5, 1.5, 3.0, 0.25])  # which every dtype holds exactly
slow = pytest.mark.slow


@rules
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=slow)])
def test_losses_of_any_precision_weigh_and_move_alike(row, dtype):
    tx, own = row.make(**row.hyperparams), jnp.result_type(float)

    @jax.jit
    def step(state, losses):
        (loss, rw), gradient = jax.value_and_grad(
            lambda losses: row.rule.reweight(state, losses, GROUPS), has_aux=True
        )(losses)
        return loss, rw.weights, gradient, row.rule.told(tx, state, **_told(rw))

    def _told(rw):
        return {"losses": rw.losses, "groups": rw.groups}

    state = row.rule.trained_rule
    expected = step(state, jnp.asarray(LOSSES, own))
    found = step(state, jnp.asarray(LOSSES, dtype))
    assert (found[0].dtype, found[1].dtype, found[2].dtype) == (own, own, dtype)
    row.rule.expect_same((found[:2], found[3]), (expected[:2], expected[3]), "weights and state", rtol=1e-5)


@optimizers
@pytest.mark.parametrize(
    ("params_dtype", "losses_dtype"),
    [
        (jnp.bfloat16, jnp.float32),
        pytest.param(jnp.float32, jnp.bfloat16, marks=slow),
        pytest.param(jnp.float32, jnp.float16, marks=slow),
        pytest.param(jnp.float16, jnp.bfloat16, marks=slow),
        pytest.param(jnp.float16, jnp.float32, marks=slow),
    ],
)
def test_parameters_and_losses_of_two_dtypes_train(row, params_dtype, losses_dtype):
    tx = optax.apply_if_finite(row.make(**row.hyperparams), 3)
    batches = problems.batches(steps=3)

    def step(carry, batch):
        params, opt_state = carry

        def loss_fn(params):
            losses = problems.losses_of(params, batch).astype(losses_dtype)
            return also_optax.reweight(opt_state, losses, batch.groups, where=batch.where)

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return (optax.apply_updates(params, updates), opt_state), rw.weights

    params = problems.init_params(params_dtype)
    (trained, opt_state), weights = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches))()
    own = jnp.result_type(float)
    assert weights.dtype == own and np.isfinite(weights).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype(params_dtype)}
    assert all(np.isfinite(np.asarray(leaf, float)).all() for leaf in jax.tree.leaves(trained))
    state = find_rule_state(opt_state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(jnp.int32), jnp.dtype(own)}
    assert state.step == 3 and not np.array_equal(trained["w"], params["w"])


def test_losses_of_float64_beyond_float32_leave_finite_numbers(x64):
    tx = also_optax.reweight_by_also(3)
    losses = jnp.array([1e300, -1e300, 1.0])
    loss, rw = also_optax.reweight(tx.init(None), losses, GROUPS[:3])
    _, state = tx.update(None, tx.init(None), **rw.extra_args)
    assert np.isfinite(loss) and np.isfinite(rw.weights).all() and np.isfinite(state.tilt).all()
    assert state.rejected == 0


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
@pytest.mark.parametrize("name", ["losses", "reference_losses"])
def test_what_is_no_floating_number_is_an_error(name, dtype):
    arguments = {"losses": np.ones(3, np.float32), "reference_losses": np.ones(3, np.float32)}
    arguments[name] = np.ones(3, dtype)
    state = also_optax.reweight_by_rgd().init(None)
    with pytest.raises(TypeError, match=f"`{name}` must be floating point, got dtype {np.dtype(dtype)}"):
        also_optax.reweight(state, **arguments)
