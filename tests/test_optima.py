"""On whole batches of convex problems the optimizers end where a float64 solver ends: objective, model and weights."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def four_groups():
    """A logistic regression on groups of 1412, 76, 20 and 492, and its optima, with gradients of 1e-10."""
    return dict(np.load(Path(__file__).parent / "reference" / "four_groups_logistic.npz"))


def losses_of(params):
    problem = four_groups()
    return jax.nn.softplus(-problem["y"] * (problem["X"] @ params[:-1] + params[-1]))


def l2_of(params):
    return 0.5 * four_groups()["l2"] * jnp.sum(params[:-1] ** 2)


def decaying(learning_rate, steps):
    return optax.exponential_decay(learning_rate, steps, 1e-4)


def trained(tx, steps, groups=None):
    def step(_, carry):
        params, opt_state = carry

        def loss_fn(params):
            loss, rw = also_optax.reweight(opt_state, losses_of(params), groups)
            return loss + l2_of(params), rw

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return optax.apply_updates(params, updates), opt_state

    params = jnp.zeros(6)
    return jax.jit(lambda: jax.lax.fori_loop(0, steps, step, (params, tx.init(params))))()


def group_means(params):
    losses, groups = losses_of(params), four_groups()["groups"]
    return jnp.array([losses[groups == group].mean() for group in range(4)])


def log_mean_exp(values, temperature):
    return temperature * (jax.nn.logsumexp(values / temperature) - jnp.log(values.size))


def assert_optimal(name, objective, params):
    np.testing.assert_allclose(objective, four_groups()[f"{name}_objective"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(params, four_groups()[f"{name}_params"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("kl_penalty", "dual_learning_rate"), [(1.0, 1.0), (0.1, 0.5), (0.01, 0.3)])
def test_also_finds_the_saddle_point_of_the_groups(kl_penalty, dual_learning_rate):
    counts = np.bincount(four_groups()["groups"])
    tx = also_optax.also(
        decaying(0.05, 3000),
        4,
        dual_learning_rate=dual_learning_rate,
        kl_penalty=kl_penalty,
        group_frequencies=counts,
        weight_decay=0.0,
    )
    params, opt_state = trained(tx, 3000, jnp.asarray(four_groups()["groups"]))
    objective = log_mean_exp(group_means(params), kl_penalty) + l2_of(params)
    assert_optimal(f"kl_group_tau{kl_penalty}", objective, params)
    expected = four_groups()[f"kl_group_tau{kl_penalty}_pi"]
    np.testing.assert_allclose(also_optax.group_weights(opt_state), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kl_penalty", [1.0, 0.3])
def test_also_finds_the_saddle_point_of_single_examples(kl_penalty):
    tx = also_optax.also(decaying(0.05, 1500), 2000, dual_learning_rate=1.0, kl_penalty=kl_penalty, weight_decay=0.0)
    params, _ = trained(tx, 1500, jnp.arange(2000))
    assert_optimal(f"kl_sample_tau{kl_penalty}", log_mean_exp(losses_of(params), kl_penalty) + l2_of(params), params)


def test_also_within_a_radius_finds_the_saddle_point_of_the_ball():
    tx = also_optax.also(decaying(0.05, 800), 2000, dual_learning_rate=10.0, radius=0.2, weight_decay=0.0)
    params, opt_state = trained(tx, 800, jnp.arange(2000))
    losses, dual = losses_of(params), four_groups()["kl_ball0.2_dual"]
    pi = also_optax.group_weights(opt_state)
    assert_optimal("kl_ball0.2", pi @ losses + l2_of(params), params)
    np.testing.assert_allclose(pi, jax.nn.softmax(losses / dual), rtol=1e-3)
    found = also_optax.diagnostics(opt_state)
    np.testing.assert_allclose(found["kl"], 0.2, rtol=1e-9)
    assert 0 <= found["gap"] < 1e-6


@pytest.mark.parametrize("setting", [{"temperature": 0.3}, {"radius": 0.2}], ids=["temperature", "radius"])
def test_abadam_finds_the_optimum_of_the_batch(setting):
    tx = also_optax.abadam(decaying(0.05, 800), **setting, averaging_rate=1.0, weight_decay=0.0)
    params, _ = trained(tx, 800)
    losses = losses_of(params)
    if "radius" in setting:
        state = also_optax.reweight_by_absgd(radius=0.2, averaging_rate=1.0).init(None)
        name, value = "kl_ball0.2", jnp.mean(also_optax.example_weights(state, losses) * losses)
    else:
        name, value = "kl_sample_tau0.3", log_mean_exp(losses, 0.3)
    assert_optimal(name, value + l2_of(params), params)
