"""Negative momentum and the extrapolated point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax

GRADIENTS = np.array([[1.0, -2.0], [0.5, 1.0], [-3.0, 0.25], [2.0, 2.0]])


def updates_of(tx, gradients, dtype=float):
    state = tx.init(jnp.zeros(2, dtype))
    updates = []
    for gradient in gradients:
        update, state = tx.update(jnp.asarray(gradient, dtype), state, jnp.zeros(2, dtype))
        updates.append(update)
    return np.stack(updates), state


@pytest.mark.parametrize("optimism", [0.5, 1.0])
def test_optimistic_gradient_takes_the_previous_gradient_off(optimism):
    previous = np.concatenate([GRADIENTS[:1], GRADIENTS[:-1]])
    updates, _ = updates_of(also_optax.optimistic_gradient(optimism), GRADIENTS)
    np.testing.assert_allclose(updates, (1 + optimism) * GRADIENTS - optimism * previous, rtol=1e-6)


def test_optimism_of_zero_keeps_no_gradient():
    tx = also_optax.optimistic_gradient(0)
    assert not jax.tree.leaves(tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates_of(tx, GRADIENTS)[0], GRADIENTS)
    opt_state = also_optax.also(1e-3, 2, optimism=0).init(jnp.zeros(7))
    assert sum(leaf.size == 7 for leaf in jax.tree.leaves(opt_state)) == 2  # Adam's moments alone


def test_a_traced_optimism_keeps_the_dtype_of_the_gradients():
    def last(optimism):
        tx = also_optax.optimistic_gradient(optimism)
        state = tx.init(jnp.zeros(2, jnp.bfloat16))
        return tx.update(jnp.ones(2, jnp.bfloat16), state)[0]

    assert jax.jit(last)(jnp.array(1.0)).dtype == jnp.bfloat16


def test_past_extragradient_with_sgd_is_optimistic_gradient_at_the_extrapolated_points():
    """The two forms walk the same path of points where the gradient is taken, as the paper says of SGD."""
    matrix = jnp.array([[0.0, 1.0], [-1.0, 0.3]])

    def points(tx):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(matrix @ params, state, params)
            return (optax.apply_updates(params, updates), state), params

        start = jnp.array([1.0, -0.5])
        return jax.lax.scan(body, (start, tx.init(start)), length=30)[1]

    # From the second step on: the first look-ahead is along the first gradient, which negative momentum repeats.
    two_point = points(also_optax.past_extragradient(optax.sgd(0.1)))
    momentum = points(optax.chain(_optimistic_from_zero(), optax.sgd(0.1)))
    np.testing.assert_allclose(two_point, momentum, rtol=1e-4, atol=1e-6)


def _optimistic_from_zero():
    """Optimistic gradient with g_{-1} = 0, which is what Popov's first point amounts to."""

    def update(updates, state, params=None):
        return 2 * updates - state, updates

    return optax.GradientTransformation(jnp.zeros_like, update)


def test_eval_params_is_the_point_itself():
    tx = also_optax.past_extragradient(optax.sgd(0.1), optimism=0.5)
    params, state = jnp.array([1.0, 2.0]), tx.init(jnp.array([1.0, 2.0]))
    point = params
    for gradient in GRADIENTS:
        updates, state = tx.update(jnp.asarray(gradient, float), state, params)
        params = optax.apply_updates(params, updates)
        point = point - 0.1 * gradient
        np.testing.assert_allclose(also_optax.eval_params(state, params), point, rtol=1e-5)
        np.testing.assert_allclose(params, point - 0.1 * 0.5 * gradient, rtol=1e-5)


def test_eval_params_returns_params_where_nothing_looks_ahead():
    params = {"w": jnp.ones(2)}
    assert also_optax.eval_params(also_optax.rgd(0.1).init(params), params) is params


def test_an_optimism_of_zero_at_the_extrapolated_point_is_the_inner_optimizer_for_sgd():
    updates, _ = updates_of(also_optax.past_extragradient(optax.sgd(0.1), optimism=0.0), GRADIENTS)
    np.testing.assert_allclose(updates, -0.1 * GRADIENTS, rtol=1e-6)


def test_optimism_converges_on_a_bilinear_game_where_descent_ascent_does_not():
    """min_x max_p p' A x has p' A = 0 at its saddle point; shown is how far the last iterate is from that."""
    payoff = jnp.array([[1.0, 0.2], [-0.6, 1.0], [-0.3, -1.1]])

    def distance(optimism):
        tx = optax.chain(
            also_optax.reweight_by_also(
                3, dual_learning_rate=0.3, kl_penalty=0.0, optimism=optimism, group_frequencies=jnp.ones(3)
            ),
            also_optax.optimistic_gradient(optimism),
            optax.sgd(0.1),
        )
        groups = jnp.arange(3)

        def body(carry, _):
            params, state = carry
            fn = also_optax.value_and_grad(lambda p: payoff @ p)
            (_, rw), grads = fn(params, state, groups=groups)
            updates, state = tx.update(grads, state, params, **rw.extra_args)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.array([0.5, -0.2])
        (_, state), _ = jax.lax.scan(body, (start, tx.init(start)), length=3000)
        return float(jnp.abs(payoff.T @ also_optax.group_weights(state)).max())

    assert distance(1.0) < 1e-3 < 0.1 < distance(0)
