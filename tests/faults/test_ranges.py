"""The ends of the ranges: what float32 could lose, and does not."""

import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from also_optax import _simplex

LOSSES = np.concatenate([np.linspace(0.1, 3.0, 90), np.full(10, 3.0)])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1e-10, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e10])
def test_the_first_mean_weight_of_absgd_is_one_at_any_temperature(size, sign):
    state = also_optax.reweight_by_absgd(sign * size).init(None)
    weights = also_optax.example_weights(state, jnp.asarray(LOSSES, float))
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1e-10, 1e-3, 1.0, 1e3, 1e6, 1e10])
def test_the_robust_value_of_absgd_is_between_mean_and_extreme_at_any_temperature(size, sign):
    tx = also_optax.reweight_by_absgd(sign * size)
    _, state = tx.update(None, tx.init(None), losses=jnp.asarray(LOSSES, float))
    peak = LOSSES.max() if sign > 0 else LOSSES.min()
    expected = peak + sign * size * np.log1p(np.expm1((LOSSES - peak) / (sign * size)).mean())
    np.testing.assert_allclose(also_optax.diagnostics(state)["robust_value"], expected, rtol=1e-5)


def test_a_temperature_of_1e10_is_plain_training_also_for_the_stage_after_it():
    tx, later = (also_optax.reweight_by_absgd(temperature, 0.1) for temperature in (1e10, 0.5))
    _, state = tx.update(None, tx.init(None), losses=jnp.asarray(LOSSES, float))
    state = state._replace(hyperparams=later.init(None).hyperparams)
    weights = also_optax.example_weights(state, jnp.asarray(LOSSES, float))
    scaled = np.exp(LOSSES / 0.5)  # the average of stage one is the mean loss
    expected = scaled / (0.9 * np.exp(LOSSES.mean() / 0.5) + 0.1 * scaled.mean())
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e300, 1e-50, 1.0])
def test_priors_and_frequencies_of_any_scale_are_normalised(scale):
    state = also_optax.reweight_by_also(2, prior=[scale, 3 * scale], group_frequencies=np.array([scale, scale])).init(
        None
    )
    np.testing.assert_allclose(also_optax.group_weights(state), [0.25, 0.75], rtol=1e-6)
    weights = also_optax.example_weights(state, jnp.ones(2), jnp.array([0, 1]))
    np.testing.assert_allclose(weights, [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("clip", [1.0, 10.0, 1e4, 1e6, 1e8])
def test_reverse_kl_gives_the_clipped_loss_its_weight_at_any_clip(clip):
    weights = also_optax.divergences.reverse_kl.weight_fn(jnp.array([0.0, clip, 2 * clip]), jnp.array(clip))
    np.testing.assert_allclose(weights, [1, clip + 1, clip + 1], rtol=1e-5)


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3, 1e5, 1e8])
def test_the_gap_of_the_best_response_is_nothing_at_any_penalty(penalty):
    losses = jnp.array([0.9, 1.6, 2.28, 0.55])
    log_prior = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    tilt = losses / penalty
    gap = _simplex.adversary_gap(log_prior, tilt, _simplex.log_partition(log_prior, tilt), losses, jnp.array(penalty))
    assert 0 <= gap < 1e-5


def test_optimism_beyond_reason_does_not_undo_a_dual_learning_rate_of_zero():
    tx = also_optax.reweight_by_also(2, dual_learning_rate=0.0, optimism=1e10)
    state = tx.init(None)
    for losses in ([1e30, -1e30], [-1e30, 1e30]):
        _, state = tx.update(None, state, losses=jnp.array(losses), groups=jnp.array([0, 1]))
    np.testing.assert_allclose(also_optax.group_weights(state), 0.5, rtol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 1e-37, 2.060245e-26, 1e-10])
@pytest.mark.parametrize("loss", [3e29, 1e30])
def test_the_gap_at_losses_of_1e30_is_what_the_weights_leave_at_any_small_penalty(penalty, loss):
    tx = also_optax.reweight_by_also(2, dual_learning_rate=0.0, kl_penalty=penalty, prior=[0.2, 0.8])
    _, state = tx.update(None, tx.init(None), losses=jnp.array([0.0, loss]), groups=jnp.array([1, 0]))
    found = also_optax.diagnostics(state)
    np.testing.assert_allclose(found["gap"], 0.8 * found["group_losses"][0], rtol=1e-5)
