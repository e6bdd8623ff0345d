"""A radius or an effective sample size in place of a temperature or a penalty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import also_optax

INSTANCES, SIZE = 200, 40


def is_x64():
    return jnp.result_type(float) == jnp.float64


def instances():
    """Losses of all kinds, ``[INSTANCES, SIZE]``, with padding, as float64 values that float32 holds too."""
    rng = np.random.default_rng(3)
    scale = 10 ** rng.uniform(-2, 3, size=(INSTANCES, 1))
    losses = rng.normal(size=(INSTANCES, SIZE)) * scale
    losses[::4] -= 3 * scale[::4]
    losses[1::4] = np.round(losses[1::4] / scale[1::4] * 2) * scale[1::4]  # ties
    where = rng.random((INSTANCES, SIZE)) < rng.uniform(0.3, 1, size=(INSTANCES, 1))
    where[:, 0] = True
    return losses.astype(np.float32).astype(np.float64), where


def kl_of(losses, scale):
    log_p = scale * losses - special.logsumexp(scale * losses)
    return float(np.sum(np.exp(log_p) * (log_p + np.log(losses.size))))


def scale_in_ball(losses, radius):
    """1/lambda at which softmax(losses/lambda) is at the radius; infinite where even the largest losses are inside."""
    if np.log(losses.size / np.sum(losses == losses.max())) <= radius:
        return np.inf
    spread = losses.max() - losses.min()
    ends = np.log([1e-9 / spread, 1e9 / spread])
    return np.exp(optimize.brentq(lambda log_scale: kl_of(losses, np.exp(log_scale)) - radius, *ends, xtol=1e-14))


def softmax_weights(losses, scale):
    if np.isinf(scale):
        top = losses == losses.max()
        return top * losses.size / top.sum()
    return np.exp(scale * losses - special.logsumexp(scale * losses)) * losses.size


@functools.cache
def weights_in(radius=None, target_ess=None):
    losses, where = instances()
    state = also_optax.reweight_by_absgd(radius=radius, target_ess=target_ess, averaging_rate=1.0).init(None)
    of_all = jax.jit(jax.vmap(lambda losses, where: also_optax.example_weights(state, losses, where=where)))
    return np.asarray(of_all(jnp.asarray(losses, float), jnp.asarray(where)), np.float64)


@pytest.mark.parametrize("radius", [0.05, 0.7, -0.3])
def test_absgd_in_a_ball_weighs_as_at_the_temperature_of_its_dual(radius):
    losses, where = instances()
    found = weights_in(radius=radius)
    for row in range(INSTANCES):
        counted, weights = np.sign(radius) * losses[row, where[row]], found[row, where[row]]
        scale = scale_in_ball(counted, abs(radius))
        expected = softmax_weights(counted, scale)
        # Few digits of the weights are decided by those of the radius where two losses at the top are close.
        assert abs(weights @ counted - expected @ counted) <= (1e-12 if is_x64() else 1e-6) * np.abs(counted).sum()
        assert np.mean(special.xlogy(weights, weights)) <= abs(radius) * (1 + 1e-5)
        if is_x64():
            np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=1e-10)
        assert not found[row, ~where[row]].any()


@pytest.mark.parametrize("setting", [{"radius": 0.0}, {"target_ess": SIZE}], ids=["radius", "target_ess"])
def test_absgd_within_nothing_is_plain_training(setting):
    _, where = instances()
    np.testing.assert_allclose(weights_in(**setting), where, rtol=1e-6)


def test_a_tilt_in_a_ball_is_absgd_in_it():
    losses, where = (part[0] for part in instances())
    tilted = also_optax.reweight_by_tilted(radius=-0.3).init(None)
    expected = weights_in(radius=-0.3)[0]
    found = also_optax.example_weights(tilted, jnp.asarray(losses, float), where=jnp.asarray(where))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("target", [7.5, -3.0])
def test_absgd_has_the_effective_sample_size_that_it_was_given(target):
    losses, where = instances()
    found = weights_in(target_ess=target)
    for row in range(INSTANCES):
        counted, weights = np.sign(target) * losses[row, where[row]], found[row, where[row]]
        ties = np.sum(counted == counted.max())
        expected = np.clip(abs(target), ties, counted.size)
        np.testing.assert_allclose(weights.sum() ** 2 / np.sum(weights**2), expected, rtol=2e-5)
        assert (np.diff(weights[np.argsort(counted)]) >= -1e-6 * weights.max()).all()
