"""Weights that are touched only at the batch's entries, against all of them in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from also_optax import _histogram, _precise

B = 64


def dense(batches, losses, prior, eta, tau, optimism):
    """The rule's equations on all weights, float64, one exponential for each in every step: log pi and the tilt."""
    tilt, previous = np.zeros(prior.size), None
    for ids, batch in zip(batches, losses, strict=True):
        gradient = np.zeros(prior.size)
        inside = ids >= 0
        np.add.at(gradient, ids[inside], batch[inside] * prior.size / inside.sum())
        previous = gradient if previous is None else previous
        tilt = (tilt + eta * ((1 + optimism) * gradient - optimism * previous)) / (1 + eta * tau)
        previous = gradient
    with np.errstate(divide="ignore"):
        log_weights = np.log(prior) + tilt
    peak = log_weights.max()
    return log_weights - peak - np.log(np.exp(log_weights - peak).sum()), tilt


@functools.cache
def _runner(size, optimism, lazy, with_prior):
    def make(prior, eta, tau):
        return also_optax.reweight_by_also(
            size,
            dual_learning_rate=eta,
            kl_penalty=tau,
            optimism=optimism,
            prior=prior if with_prior else None,
            lazy=lazy,
        )

    @jax.jit
    def run(batches, losses, prior, eta, tau):
        tx = make(prior, eta, tau)

        def step(state, batch):
            ids, losses = batch
            return tx.update(None, state, losses=losses, groups=ids)[1], None

        return jax.lax.scan(step, tx.init(None), (batches, losses))[0]

    return run


def check(batches, losses, *, size, eta, tau, optimism=1.0, prior=None, lazy=True, visits=1):
    """Both ways on the same floats; returns the worst error over what it may be, and the state."""
    eta, tau = np.float32(eta), np.float32(tau)
    batches, losses = batches.astype(np.int32), losses.astype(np.float32)
    weights = np.full(size, 1 / size) if prior is None else prior / prior.sum()
    expected, tilt = dense(batches, losses.astype(np.float64), weights, float(eta), float(tau), float(optimism))
    run = _runner(size, optimism, lazy, prior is not None)
    state = run(batches, losses, jnp.asarray(weights, jnp.float32), eta, tau)
    found = np.asarray(state.log_prior + state.scores.log_ratios(state.step), np.float64)
    seen = expected > np.log(1e-30)
    error = np.abs(found[seen] - expected[seen]).max()
    digits = 1.2e-7 * np.abs(expected[seen]).max()
    bar = 1e-6 + digits + 5e-7 * np.abs(tilt[weights > 0]).max() * np.sqrt(visits)
    assert error <= bar, (error, bar)
    assert (np.asarray(also_optax.group_weights(state))[~seen] <= 1e-29).all()
    return error / bar, state


def epochs(rng, size, count, batch=B):
    """Indices of `count` passes without replacement."""
    each = size // batch
    return np.concatenate([rng.permutation(size)[: each * batch].reshape(each, batch) for _ in range(count)])


SIZE = 20_000
MARKS = [1e-5, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("tau", [1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("eta", MARKS)
def test_twenty_epochs_of_one_weight_per_example(eta, tau, optimism):
    rng = np.random.default_rng(0)
    batches = epochs(rng, SIZE, 20, batch=256)
    losses = rng.gamma(1.0, 1.0, SIZE)[batches] * rng.uniform(0.5, 1.5, batches.shape)
    _, state = check(batches, losses, size=SIZE, eta=eta, tau=tau, optimism=optimism)
    again = _histogram.made(state.scores.values, _precise.Scale(*state.scores.scale).value, state.log_prior)
    assert again.counts.sum() == SIZE or not again.window[2]


N = 3_000


def _problem(name):
    rng = np.random.default_rng(len(name))
    batches = epochs(rng, N, 6)
    noise = rng.uniform(0.9, 1.1, batches.shape)
    settings = {"size": N, "eta": 3e-3, "tau": 0.05}
    match name:
        case "clusters":
            losses = np.where(batches % 3 == 0, 5.0, 0.01) * (1 + 1e-4 * noise)
        case "ties":
            losses = np.full(batches.shape, 0.7)
        case "an outlier":
            losses = noise * np.where(batches == 17, 1000.0, 1.0)
        case "a prior":
            losses, settings["prior"] = noise, rng.gamma(0.3, 1.0, N) + 1e-9
        case "a prior with zeros":
            losses, settings["prior"] = noise * (batches % 5), rng.uniform(0, 1, N) * (np.arange(N) % 3 > 0)
        case "negative losses":
            losses = -noise * rng.gamma(1.0, 1.0, N)[batches]
        case "losses of both signs":
            losses = 4 * rng.normal(size=batches.shape)
        case "repeats within a batch":
            batches = rng.integers(0, N, batches.shape)
            batches[:, 1] = batches[:, 0]
            batches[:, 5:9] = batches[:, :1]
            losses = rng.gamma(1.0, 1.0, N)[batches]
        case "the same batch over and over":
            batches = np.repeat(batches[:3], 60, axis=0)
            losses, settings["visits"] = rng.gamma(1.0, 1.0, N)[batches], 60
        case "padding":
            losses = noise * (batches % 7)
            batches = np.where(rng.random(batches.shape) < 0.4, -1, batches)
        case "all examples in a batch":
            batches = np.stack([rng.permutation(N) for _ in range(20)])
            losses, settings["visits"] = rng.gamma(1.0, 1.0, N)[batches], 20
            settings["eta"] = 0.2
        case "scores beyond the window":
            losses, settings["eta"], settings["tau"] = 3 * noise * rng.gamma(1.0, 1.0, N)[batches], 0.5, 1e-3
        case "a top that falls":
            early = np.arange(len(batches))[:, None] < len(batches) // 3
            losses = np.where(early, 1.0, -1.0) * noise * (1 + batches % 11)
            settings["eta"], settings["tau"] = 0.3, 1e-3
        case "a strong pull":
            losses, settings["eta"], settings["tau"] = noise * (batches % 7), 0.5, 0.8
        case "losses that vanish":
            losses = noise * (1 + batches % 11) * np.exp(-np.arange(len(batches)) / 8)[:, None]
            settings["eta"], settings["tau"] = 0.5, 0.1
    return batches, losses, settings


PROBLEMS = [
    "clusters",
    "ties",
    "an outlier",
    "a prior",
    "a prior with zeros",
    "negative losses",
    "losses of both signs",
    "repeats within a batch",
    "the same batch over and over",
    "padding",
    "all examples in a batch",
    "scores beyond the window",
    "a top that falls",
    "a strong pull",
    "losses that vanish",
]


@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_hard_cases(name, optimism):
    batches, losses, settings = _problem(name)
    check(batches, losses, optimism=optimism, **settings)
