"""Where the adversary of ALSO comes to rest, and that every way of drawing examples leads there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax

COUNTS = np.array([1412, 76, 20, 492])
MEANS = np.array([0.9, 1.6, 2.28, 0.55])
FREQUENCIES = COUNTS / COUNTS.sum()
GROUPS = np.repeat(np.arange(4), COUNTS)


def _close(pi, desired):
    """In float32 the sum of 1412 losses, one after the other, is good to 1412 half units in the last place."""
    np.testing.assert_allclose(pi, desired, rtol=1e-9 if pi.dtype == jnp.float64 else 1e-4)


def _rest(losses, groups, **settings):
    """Pi after many steps on the same batch, and the gap that is left."""
    tx = also_optax.reweight_by_also(4, dual_learning_rate=0.5, kl_penalty=1.0, average_decay=0.0, **settings)
    losses, groups = jnp.asarray(losses, float), jnp.asarray(groups)

    def step(_, opt_state):
        return tx.update((), opt_state, losses=losses, groups=groups)[1]

    opt_state = jax.jit(lambda: jax.lax.fori_loop(0, 100, step, tx.init(())))()
    return also_optax.group_weights(opt_state), also_optax.diagnostics(opt_state)["gap"]


@pytest.mark.parametrize("settings", [{}, {"optimism": 0}, {"lookahead": True}], ids=["", "descent", "look-ahead"])
@pytest.mark.parametrize(
    ("group_frequencies", "expected"),
    [(None, [0.756, 0.076, 0.065, 0.102]), (FREQUENCIES, [0.130, 0.262, 0.517, 0.092])],
    ids=["the biggest group wins by sums", "the worst group wins by means"],
)
def test_the_adversary_rests_at_the_softmax_of_what_it_sees(group_frequencies, expected, settings):
    pi, gap = _rest(MEANS[GROUPS], GROUPS, group_frequencies=group_frequencies, **settings)
    np.testing.assert_allclose(pi, expected, rtol=0, atol=1e-3)
    seen = MEANS if group_frequencies is not None else 4 * FREQUENCIES * MEANS
    _close(pi, np.exp(seen) / np.exp(seen).sum())
    assert 0 <= gap < 1e-6


def test_the_prior_moves_the_resting_point():
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    pi, _ = _rest(MEANS[GROUPS], GROUPS, group_frequencies=FREQUENCIES, prior=prior)
    _close(pi, prior * np.exp(MEANS) / np.sum(prior * np.exp(MEANS)))


def test_batches_balanced_by_group_rest_at_the_worst_mean_without_frequencies():
    balanced = np.tile(np.arange(4), 5)
    pi, _ = _rest(MEANS[balanced], balanced)
    _close(pi, np.exp(MEANS) / np.exp(MEANS).sum())


@pytest.mark.parametrize("scheme", ["uniform over examples", "uniform over groups", "by pi"])
def test_every_way_of_drawing_examples_shows_the_same_game(scheme):
    """Of appendix A: weighted loss and dual gradient have the same expectation under all three."""
    pi = np.array([0.4, 0.3, 0.2, 0.1])
    drawn_by, group_frequencies = {
        "uniform over examples": (FREQUENCIES, FREQUENCIES),
        "uniform over groups": (np.full(4, 0.25), None),
        "by pi": (pi, "pi"),
    }[scheme]
    draws = 100_000
    rng = np.random.default_rng(11)
    groups = rng.choice(4, size=draws, p=drawn_by)
    losses = jnp.asarray(MEANS[groups] * rng.uniform(0.5, 1.5, size=draws), float)
    groups = jnp.asarray(groups)

    tx = also_optax.reweight_by_also(
        4, dual_learning_rate=0.0, prior=pi, group_frequencies=group_frequencies, average_decay=0.0
    )
    opt_state = tx.init(())
    loss, rw = also_optax.reweight(opt_state, losses, groups)
    _, opt_state = tx.update((), opt_state, **rw.extra_args)

    second_moment = MEANS**2 * (1 + 1 / 12)  # of a loss of each group
    error = np.sqrt((second_moment / drawn_by - MEANS**2) / draws)
    seen = also_optax.diagnostics(opt_state)["group_losses"]
    assert (np.abs(seen - MEANS) < 4 * error).all()
    error = np.sqrt((np.sum(pi**2 / drawn_by * second_moment) - (pi @ MEANS) ** 2) / draws)
    assert abs(loss - pi @ MEANS) < 4 * error
    assert abs(rw.weights.mean() - 1) < 4 * np.sqrt(np.sum(pi**2 / drawn_by) / draws)
