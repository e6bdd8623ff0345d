"""The maths on the simplex, on inputs that hypothesis chooses, against SciPy's optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import also_optax
from also_optax import _simplex

quickly = settings(max_examples=30, deadline=None, derandomize=True)


def _vectors(size, lowest, highest):
    return st.lists(st.floats(lowest, highest, width=32), min_size=size, max_size=size).map(np.array)


@st.composite
def _games(draw, sizes=(3, 5), zeros=False):
    """A prior, current weights as a tilt of it, losses and a pull, for 3 to 5 groups."""
    size = draw(st.integers(*sizes))
    prior = draw(_vectors(size, 0.125, 4))
    if zeros:
        prior[draw(st.integers(0, size - 1))] = 0
    return prior / prior.sum(), draw(_vectors(size, -2, 2)), draw(_vectors(size, -3, 3)), draw(st.floats(0, 4))


def _softmax(logits):
    return scipy.special.softmax(logits)


def _kl(p, q):
    return scipy.special.rel_entr(p, q).sum()


def _maximise(value_of, support):
    """The largest value over distributions on `support`, and where."""

    def distribution(free):
        p = np.zeros(len(support))
        p[support] = _softmax(np.append(free, 0))
        return p

    start = np.zeros(support.sum() - 1)
    found = scipy.optimize.minimize(lambda free: -value_of(distribution(free)), start, method="BFGS", tol=1e-9)
    return -found.fun, distribution(found.x)


def _in_float64(function):
    """`function`, compiled, from NumPy to NumPy."""
    function = jax.jit(function)

    @functools.wraps(function)
    def on_numpy(*args):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, function(*(jnp.asarray(arg, float) for arg in args)))

    return on_numpy


def _in_logs(prior, tilt):
    """(log prior, tilt, log normaliser), as the package keeps weights."""
    log_prior = jnp.log(prior)
    return log_prior, tilt, _simplex.log_partition(log_prior, tilt)


@_in_float64
def _weights(prior, tilt):
    return jnp.exp(_simplex.log_weights(*_in_logs(prior, tilt)))


@_in_float64
def _gap(prior, tilt, losses, penalty):
    return _simplex.adversary_gap(*_in_logs(prior, tilt), losses, penalty)


@_in_float64
def _kl_from_prior(prior, tilt):
    return _simplex.kl_from_prior(*_in_logs(prior, tilt))


_prox_step = _in_float64(_simplex.prox_step)


@quickly
@given(_games(), st.booleans())
def test_the_prox_step_is_the_exact_argmin(game, zero_in_the_prior):
    prior, tilt, ascent, pull = game
    if zero_in_the_prior:
        prior = np.append(prior[:-1], 0) / prior[:-1].sum()
    support = prior > 0
    before, after = _weights(prior, tilt), _weights(prior, _prox_step(tilt, ascent, pull))

    def value_of(p):
        return ascent @ p - pull * _kl(p, prior) - _kl(p, before)

    best, where = _maximise(value_of, support)
    assert value_of(after) >= best - 1e-12
    np.testing.assert_allclose(after, where, rtol=0, atol=1e-4)
    np.testing.assert_allclose(after.sum(), 1, rtol=0, atol=1e-12)
    assert (after[~support] == 0).all()


@quickly
@given(_games(zeros=True), st.floats(-50, 50))
def test_adding_a_constant_to_the_dual_gradient_changes_nothing(game, constant):
    prior, tilt, ascent, pull = game
    stepped = [_weights(prior, _prox_step(tilt, ascent + c, pull)) for c in (0, constant)]
    np.testing.assert_allclose(*stepped, rtol=1e-12, atol=0)


@quickly
@given(_games(zeros=True))
def test_the_gap_is_what_brute_force_gains(game):
    prior, tilt, losses, penalty = game
    penalty = penalty if penalty > 0.05 else 0.0
    gap, pi = _gap(prior, tilt, losses, penalty), _weights(prior, tilt)

    def value_of(p):
        return losses @ p - penalty * _kl(p, prior)

    best = losses[prior > 0].max() if penalty == 0 else _maximise(value_of, prior > 0)[0]
    np.testing.assert_allclose(gap, best - value_of(pi), rtol=1e-6, atol=1e-6)
    assert gap >= 0


@quickly
@given(_games(zeros=True), st.floats(0.125, 4))
def test_the_gap_is_the_penalty_times_the_kl_to_the_worst_case(game, penalty):
    prior, tilt, losses, _ = game
    worst = prior * np.exp(losses / penalty) / np.sum(prior * np.exp(losses / penalty))
    gap = _gap(prior, tilt, losses, penalty)
    np.testing.assert_allclose(gap, penalty * _kl(_weights(prior, tilt), worst), rtol=1e-9, atol=1e-12)
    assert 0 <= _gap(prior, losses / penalty, losses, penalty) < 1e-12


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6, 1e9])
def test_the_gap_is_precise_at_losses_far_above_the_penalty(spread):
    """In float32 too; sums over a group are that far above a penalty of 0.01."""
    prior, tilt, losses = np.array([0.3, 0.7]), np.array([0.3, -0.5]), np.array([0.0, spread])
    pi = prior * np.exp(tilt) / np.sum(prior * np.exp(tilt))
    worst = spread + 0.01 * np.log(0.7 + 0.3 * np.exp(-spread / 0.01))
    in_logs = _in_logs(jnp.asarray(prior, float), jnp.asarray(tilt, float))
    gap = _simplex.adversary_gap(*in_logs, jnp.asarray(losses, float), jnp.asarray(0.01))
    np.testing.assert_allclose(gap, worst - (pi @ losses - 0.01 * _kl(pi, prior)), rtol=2e-5)


@pytest.mark.parametrize("loss", [-1e30, 0.0, 5.0, 1e30])
def test_a_group_of_prior_zero_has_no_part_in_the_gap(loss):
    log_prior = jnp.log(jnp.array([0.3, 0.7, 0.0]))
    tilt = jnp.array([0.3, -0.5, 4.0])
    log_normalizer = _simplex.log_partition(log_prior, tilt)
    for penalty in (0.0, 1e-10, 2.0):
        gaps = [
            _simplex.adversary_gap(log_prior, tilt, log_normalizer, jnp.array([0.0, 1.0, last]), jnp.array(penalty))
            for last in (0.0, loss)
        ]
        np.testing.assert_allclose(*gaps, rtol=1e-6)
        assert np.isfinite(gaps[1])


@pytest.mark.parametrize("scale", [1e-34, 1e-20, 1e10])
def test_the_gap_is_in_units_of_the_losses(scale):
    log_prior, tilt, losses = (
        jnp.log(jnp.array([0.3, 0.7, 0.0])),
        jnp.array([0.3, -0.5, 4.0]),
        jnp.array([0.0, 1.0, 9.0]),
    )
    normalizer = _simplex.log_partition(log_prior, tilt)
    gap = _simplex.adversary_gap(log_prior, tilt, normalizer, losses, jnp.array(2.0))
    scaled = _simplex.adversary_gap(log_prior, tilt, normalizer, scale * losses, jnp.array(2.0 * scale))
    np.testing.assert_allclose(scaled, scale * gap, rtol=2e-5)


@quickly
@given(_games(zeros=True))
def test_the_kl_from_the_prior_is_that_of_scipy(game):
    prior, tilt, _, _ = game
    pi = _weights(prior, tilt)
    np.testing.assert_allclose(_kl_from_prior(prior, tilt), _kl(pi, prior), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(pi, prior * np.exp(tilt) / np.sum(prior * np.exp(tilt)), rtol=1e-12)


def test_values_of_prior_zero_are_above_the_highest_that_counts_by_nothing():
    log_prior = jnp.log(jnp.array([0.3, 0.7, 0.0]))
    found = _simplex.below_highest(log_prior, jnp.array([0.5, 2.0, 1e30]))
    np.testing.assert_array_equal(found, [-1.5, 0, 0])


def test_without_a_penalty_the_gap_is_what_the_largest_loss_has_over_the_mean():
    zero = jnp.zeros(3)
    log_prior = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    with jax.debug_nans(True):
        normalizer = _simplex.log_partition(log_prior, zero)
        gap = _simplex.adversary_gap(log_prior, zero, normalizer, jnp.array([1.0, 2.0, 4.0]), jnp.array(0.0))
    np.testing.assert_allclose(gap, 4 - (0.5 + 0.6 + 0.8), rtol=1e-6)


def test_terms_of_divergences_have_them_for_their_mean_and_vanish_at_weights_of_one():
    weights = jnp.array([0.0, 0.4, 1.0, 1.6, 2.0])
    p = np.asarray(weights, np.float64) / 5
    kl, chi2 = _simplex.kl_terms(weights), _simplex.chi2_terms(weights)
    np.testing.assert_allclose(kl.mean(), _kl(p, np.full(5, 0.2)), rtol=1e-6)
    np.testing.assert_allclose(chi2.mean(), np.mean((5 * p - 1) ** 2) / 2, rtol=1e-6)
    assert (kl >= 0).all() and kl[2] == 0 and (chi2 >= 0).all() and chi2[2] == 0


@quickly
@given(st.integers(1, 6).flatmap(lambda size: _vectors(size, 2**-20, 2**20)), st.booleans())
def test_log_simplex_normalises(values, zeros):
    if zeros and len(values) > 1:
        values[0] = 0
    simplex = np.exp(_simplex.log_simplex("prior", values, len(values), zeros=zeros))
    np.testing.assert_allclose(simplex, values / values.sum(), rtol=1e-5)
    assert (simplex[values == 0] == 0).all()


@pytest.mark.parametrize("size", [1, 3, 10_000_000])
def test_no_values_are_uniform_as_one_scalar(size):
    log_prior = _simplex.log_simplex("prior", None, size, zeros=False)
    assert np.shape(log_prior) == ()
    np.testing.assert_allclose(np.exp(np.float64(log_prior)), 1 / size, rtol=1e-6)


@jax.jit
def _pi_after_three_steps(losses, dual_learning_rate, kl_penalty):
    tx = also_optax.reweight_by_also(
        losses.size, dual_learning_rate=dual_learning_rate, kl_penalty=kl_penalty, average_decay=None
    )
    opt_state = tx.init(())
    for _ in range(3):
        _, opt_state = tx.update((), opt_state, losses=losses, groups=jnp.arange(losses.size))
    return also_optax.group_weights(opt_state)


@quickly
@given(st.integers(3, 5).flatmap(lambda size: _vectors(size, 0, 8)), st.floats(0.0625, 0.5), st.floats(0, 2))
def test_a_group_of_larger_loss_gets_a_larger_weight(losses, dual_learning_rate, kl_penalty):
    """From a uniform prior, on the same losses at every step."""
    pi = np.asarray(_pi_after_three_steps(jnp.asarray(losses, float), dual_learning_rate, kl_penalty))
    order = np.argsort(losses)
    steps, apart = np.diff(pi[order]), np.diff(losses[order]) > 0.01
    assert (steps >= -1e-7).all()
    assert (steps[apart] > 0).all()
