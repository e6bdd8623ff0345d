"""docs/migration.md runs as it stands, and its optimizers walk as the published code does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import pages, test_official

page = functools.cache(lambda: pages.run(pages.ROOT / "docs" / "migration.md"))


def test_the_page_runs_and_every_adversary_has_moved():
    found = page()
    for name in ("opt_state", "dro_state"):
        assert jnp.abs(also_optax.group_weights(found[name]) - 1 / 3).max() > 0.05, name
    assert also_optax.diagnostics(found["ab_state"])["robust_value"] > 0
    pages.assert_links_lead_somewhere(pages.ROOT / "docs" / "migration.md")


# --- ALSO -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["da_groups", "da_prior", "opt_groups", "opt_samples"])
def test_the_authors_settings_give_the_authors_trajectories(case):
    official = test_official.load(case)
    tx = page()["authors_also"](
        int(official["num_groups"]),
        lr=float(official["lr"]),
        weight_decay=float(official["wd"]),
        pi_lr=float(official["pi_lr"]),
        pi_decay=float(official["tau"]),
        mode=str(official["mode"]),
        alpha=float(official["alpha"]),
        pi_reg=official["prior"],
        eps=1e-30,
    )
    params, pi, _ = test_official.train(tx, official)
    np.testing.assert_allclose(params, official["params"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(pi, official["pi"], rtol=0, atol=1e-10)


def two_point_adam(official, weight_decay, lr=0.01, pi_lr=0.5, tau=0.1):
    """The authors' two-point form in NumPy: each Adam step adds the decay of the base point to the gradient."""
    x, y, groups = official["X"], official["y"], official["groups"]
    params, previous, moments, step = np.zeros(x.shape[1]), None, np.zeros((2, x.shape[1])), 0
    log_prior = np.log(official["prior"] / official["prior"].sum())
    log_pi, h, path = log_prior, np.zeros(log_prior.size), []

    def adam(params, gradient):
        nonlocal moments, step
        step += 1
        gradient = gradient + weight_decay * params
        moments = np.array([0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2])
        mean, square = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
        return params - lr * mean / (np.sqrt(square) + 1e-30)

    def prox(log_pi, h):
        log_pi = (log_pi + pi_lr * (tau * log_prior + h)) / (1 + pi_lr * tau)
        return log_pi - np.logaddexp.reduce(log_pi)

    for rows in official["batches"]:
        ahead = params if previous is None else adam(params, previous)
        pi_ahead = np.exp(log_pi if previous is None else prox(log_pi, h))
        logits = x[rows] @ ahead
        losses = np.logaddexp(0, logits) - y[rows] * logits
        scale = log_prior.size / len(rows)
        pull = scale * pi_ahead[groups[rows]] * (1 / (1 + np.exp(-logits)) - y[rows])
        previous = x[rows].T @ pull
        h = scale * np.bincount(groups[rows], losses, log_prior.size)
        params, log_pi = adam(params, previous), prox(log_pi, h)
        path.append(params)
    return np.stack(path)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_weight_decay_is_coupled_in_both_steps_as_in_the_authors_code(weight_decay):
    official = test_official.load("opt_groups")
    expected = two_point_adam(official, weight_decay)
    if not weight_decay:
        np.testing.assert_allclose(expected, official["params"], rtol=0, atol=1e-10)
    tx = page()["authors_also"](
        4, lr=0.01, weight_decay=weight_decay, pi_lr=0.5, pi_decay=0.1, pi_reg=official["prior"], eps=1e-30
    )
    params, _, _ = test_official.train(tx, official)
    np.testing.assert_allclose(params, expected, rtol=0, atol=1e-10)


# --- ABSGD ------------------------------------------------------------------------------------------------------------


def ab_weights(losses, temperature, gamma, start):
    """Weights of batches ``[T, B]`` by the published recursion, from an average of `start`; 1 is plain."""
    average, weights = start, []
    for batch in losses:
        terms = np.exp(batch / temperature)
        average = (1 - gamma) * average + gamma * terms.mean()
        weights.append(terms / average)
    return np.stack(weights)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("abgamma", [0.9, 0.3])
def test_the_settings_of_ab_loss_give_its_weights(abgamma):
    tx = page()["ab_loss_and_sgd"](0.1, mylambda=2.0, milestone=2, steps_per_epoch=3, abgamma=abgamma)
    losses = np.random.default_rng(0).gamma(2.0, 1.0, size=(40, 5))
    state, weights = tx.init(jnp.zeros(1)), []
    for batch in losses:
        _, rw = also_optax.reweight(state, batch)
        _, state = tx.update(jnp.zeros(1), state, jnp.zeros(1), **rw.extra_args)
        weights.append(rw.weights)
    weights, second = np.stack(weights), losses[6:]
    assert (weights[:6] == 1).all()
    first_mean = np.exp(second[0] / 2).mean()
    np.testing.assert_allclose(weights[6:], ab_weights(second, 2.0, abgamma, first_mean), rtol=1e-10)
    published = ab_weights(second, 2.0, abgamma, 0.0)
    np.testing.assert_allclose(published[0], weights[6] / abgamma, rtol=1e-10)
    np.testing.assert_allclose(published[-1], weights[-1], rtol=2 * (1 - abgamma) ** len(second) + 1e-10)


def test_a_scale_of_the_average_is_one_of_the_learning_rate():
    losses = np.random.default_rng(0).gamma(2.0, 1.0, size=(5, 4))
    plain, scaled = ab_weights(losses, 2.0, 0.5, 0.0), losses * 0
    average = 0.0
    for t, batch in enumerate(losses):
        terms = np.exp(batch / 2)
        average = 0.5 * average + 0.5 * 0.2 * terms.mean()
        scaled[t] = terms / average
    np.testing.assert_allclose(scaled, plain / 0.2, rtol=1e-12)
    params = jnp.ones(2)
    updates = []
    for abalpha in (0.2, 1.0):
        tx = page()["ab_loss_and_sgd"](0.1, mylambda=2.0, milestone=0, steps_per_epoch=1, abalpha=abalpha)
        updates.append(tx.update(params, tx.init(params), params, losses=losses[0])[0])
    np.testing.assert_allclose(updates[0], updates[1] / 0.2, rtol=1e-6)


# --- Group DRO --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("adj", [0.0, 2.0])
def test_the_settings_of_the_loss_computer_give_its_weights_loss_and_steps(adj):
    """On batches that have every group, with SGD's decay and momentum."""
    rng = np.random.default_rng(0)
    counts, groups = np.array([50, 9, 4]), np.tile([0, 0, 0, 1, 1, 2], (12, 1))
    x, y = rng.normal(size=(12, 6, 3)), rng.normal(size=(12, 6)) + groups
    tx = page()["loss_computer_and_sgd"](0.05, counts, step_size=0.3, adj=adj, weight_decay=0.1)
    params, state = jnp.zeros(3), tx.init(jnp.zeros(3))
    weights, theirs, velocity = np.ones(3) / 3, np.zeros(3), np.zeros(3)
    member = groups[0] == np.arange(3)[:, None]
    means = member / member.sum(1, keepdims=True)

    def losses_of(params, x, y):
        return (x @ params - y) ** 2

    for batch_x, batch_y, batch_groups in zip(x, y, groups, strict=True):
        errors = batch_x @ theirs - batch_y
        of_groups = means @ errors**2
        weights = weights * np.exp(0.3 * (of_groups + adj / np.sqrt(counts)))
        weights /= weights.sum()
        gradient = batch_x.T @ (2 * errors * (weights @ means)) + 0.1 * theirs
        velocity = 0.9 * velocity + gradient
        theirs = theirs - 0.05 * velocity

        gradient_of = also_optax.value_and_grad(losses_of)
        (loss, rw), grads = gradient_of(params, state, batch_x, batch_y, groups=batch_groups)
        updates, state = tx.update(grads, state, params, **rw.extra_args)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(loss, weights @ of_groups, rtol=1e-10)
        np.testing.assert_allclose(also_optax.group_weights(state), weights, rtol=1e-10)
        np.testing.assert_allclose(params, theirs, rtol=0, atol=1e-10)
    assert jax.numpy.abs(weights - 1 / 3).max() > 0.1
