"""Other adversaries for ALSO: in a ball, with Adam, above a floor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import also_optax
from also_optax import _simplex
from tests import reference
from tests.reference import also as reference_also

PRIOR = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
GROUPS = np.array([0, 1, 1, 2, 3, 3, 4])
STEPS = 30


def is_x64():
    return jnp.result_type(float) == jnp.float64


def close(actual, desired, float32=2e-6, float64=1e-10):
    tolerance = float64 if is_x64() else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def batches():
    return np.random.default_rng(5).exponential(size=(STEPS, GROUPS.size)) * (1 + GROUPS)


def weights_after(losses, **settings):
    """pi after each step, ``[STEPS, G]``, and the last state."""
    settings = {"dual_learning_rate": 0.3, "prior": PRIOR} | settings
    tx = also_optax.reweight_by_also(PRIOR.size, **settings)

    def step(opt_state, losses):
        _, opt_state = tx.update(None, opt_state, losses=losses, groups=jnp.asarray(GROUPS))
        return opt_state, also_optax.group_weights(opt_state)

    state, found = jax.jit(lambda losses: jax.lax.scan(step, tx.init(None), losses))(jnp.asarray(losses, float))
    return np.asarray(found, np.float64), state


def dual_gradient(losses):
    """h of eq. (4), ``[G]``: sums."""
    return PRIOR.size / GROUPS.size * np.bincount(GROUPS, losses, PRIOR.size)


def kl_from_prior(pi):
    has_prior = PRIOR > 0
    return np.sum(pi[has_prior] * np.log(np.maximum(pi[has_prior], 1e-300) / PRIOR[has_prior]))


def ess_of(pi):
    has_prior = PRIOR > 0
    return PRIOR.size / np.sum(pi[has_prior] ** 2 / PRIOR[has_prior])


def projected(pi, is_inside):
    """The point on the way from `pi` to the prior that is just inside, by bisection of the mixing exponent."""

    def between(exponent):
        mixed = pi**exponent * PRIOR ** (1 - exponent)
        return mixed / mixed.sum()

    if is_inside(pi):
        return pi
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if is_inside(between(middle)) else (low, middle)
    return between(low)


def worst_case_in_ball(seen, radius):
    """The weights of the largest mean of what is seen, among those of KL(pi, PRIOR) <= radius."""

    def at(log_scale):
        unnormalised = PRIOR * np.exp(np.exp(log_scale) * (seen - seen.max()))
        return unnormalised / unnormalised.sum()

    return at(optimize.brentq(lambda log_scale: kl_from_prior(at(log_scale)) - radius, -9, 5, xtol=1e-14))


def floored(y, floor):
    """max(scale·y, floor) of sum 1."""

    def at(scale):
        return np.where(PRIOR > 0, np.maximum(scale * y, floor), 0)

    return at(optimize.brentq(lambda scale: at(scale).sum() - 1, 0.1, 1, xtol=1e-15))


@pytest.mark.parametrize(
    ("setting", "is_inside"),
    [
        ({"radius": 0.15}, lambda pi: kl_from_prior(pi) <= 0.15),
        ({"target_ess": 3.5}, lambda pi: ess_of(pi) >= 3.5),
    ],
    ids=["radius", "target_ess"],
)
def test_a_bound_projects_each_step_of_exponentiated_gradient(setting, is_inside):
    losses = batches()
    found, _ = weights_after(losses, optimism=0, **setting)
    pi = PRIOR
    for batch, actual in zip(losses, found, strict=True):
        pi = pi * np.exp(0.3 * dual_gradient(batch))
        pi = projected(pi / pi.sum(), is_inside)
        close(actual, pi, float32=1e-5)


@pytest.mark.parametrize("setting", [{"radius": 5.0}, {"target_ess": 1e-3}, {"kl_penalty": 0.0}])
def test_a_bound_that_holds_anyway_changes_nothing(setting):
    found, _ = weights_after(batches(), **setting)
    expected, _ = weights_after(batches(), kl_penalty=0.0)
    close(found, expected)


@pytest.mark.parametrize("setting", [{"radius": 0.0}, {"target_ess": 5.0}, {"target_ess": 50.0}])
def test_a_bound_of_nothing_keeps_the_prior(setting):
    found, _ = weights_after(batches(), **setting)
    close(found, np.broadcast_to(PRIOR, found.shape))


def test_the_gap_in_a_ball_is_what_a_better_adversary_would_gain():
    losses = batches()
    for steps in (1, 4, STEPS):
        pi, state = weights_after(losses[:steps], radius=0.15, average_decay=0.0)
        seen = dual_gradient(losses[steps - 1])
        found = also_optax.diagnostics(state)
        best = worst_case_in_ball(seen, 0.15)
        np.testing.assert_allclose(found["gap"], best @ seen - pi[-1] @ seen, rtol=1e-4, atol=1e-6)
        close(found["robust_value"], pi[-1] @ seen, float32=1e-5)


def test_the_gap_in_a_ball_that_holds_the_worst_group_alone_is_to_that_group():
    losses = batches()
    pi, state = weights_after(losses[:3], radius=30.0, average_decay=0.0)
    seen = dual_gradient(losses[2])
    np.testing.assert_allclose(also_optax.diagnostics(state)["gap"], seen[:4].max() - pi[-1] @ seen, rtol=1e-4)


def test_adam_for_the_adversary_is_the_mirror_step_along_adams_direction():
    losses = batches()
    found, _ = weights_after(losses, dual_adam=True, kl_penalty=0.2, dual_learning_rate=0.1)
    adam, pi, previous = reference.Adam(), PRIOR, None
    for batch, actual in zip(losses, found, strict=True):
        seen = dual_gradient(batch)
        direction = adam(2 * seen - (seen if previous is None else previous))
        previous = seen
        pi = reference_also.prox(pi, direction, PRIOR, 0.1, 0.2)
        close(actual, pi, float32=1e-5)


def test_no_weight_falls_below_the_floor_and_the_rest_keep_their_ratios():
    losses = batches() * 3
    found, _ = weights_after(losses, optimism=0, kl_penalty=0.1, min_weight=0.4)
    floor, pi = 0.4 / 5, PRIOR
    for batch, actual in zip(losses, found, strict=True):
        pi = floored(reference_also.prox(pi, dual_gradient(batch), PRIOR, 0.3, 0.1), floor)
        close(actual, pi)
    assert (np.isclose(found[-1], floor, rtol=1e-5)).sum() >= 2


def test_the_floored_weights_are_nearest_in_kl():
    rng = np.random.default_rng(0)
    for _ in range(3):
        y = rng.dirichlet(np.ones(5) * 0.5)
        tilt = _simplex.floored(jnp.asarray(-np.log(5.0)), jnp.asarray(np.log(y)), jnp.asarray(np.log(0.1)))
        found = np.asarray(jax.nn.softmax(tilt), np.float64)
        nearest = optimize.minimize(
            lambda p, y: np.sum(p * np.log(p / y)),
            np.full(5, 0.2),
            args=(y,),
            bounds=[(0.1, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(found, nearest.x, atol=1e-5)


def test_a_weight_that_falls_below_the_floor_when_others_are_lifted_is_lifted_too():
    pi, floor = np.array([0.9, 0.06, 0.04]), 0.0595
    with jax.debug_nans(True):
        tilt = _simplex.floored(jnp.log(jnp.full(3, 1 / 3)), jnp.asarray(np.log(3 * pi), float), jnp.log(floor))
    np.testing.assert_allclose(jnp.exp(tilt) / 3, [1 - 2 * floor, floor, floor], rtol=1e-5)
