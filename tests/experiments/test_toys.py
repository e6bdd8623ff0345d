"""The two toys of which the answer is known: samples, steps and closed forms against NumPy."""

import jax
import numpy as np
import pytest

import also_optax
from benchmarks.toys import boundary, regression
from benchmarks.toys.boundary import Weighting
from benchmarks.toys.regression import Regression

RNG = np.random.default_rng(0)


def test_rare_directions_are_seen_as_rarely_as_said_and_targets_are_sums_and_noise():
    sizes = Regression(directions=3, chance=0.1, noise=0.5, batch=20_000)
    x, y = (np.asarray(part) for part in regression.sample(sizes, jax.random.key(0)))
    rare = (x[:, 3:] != 0).any(1)
    assert ((x[:, :3] != 0).all(1) ^ rare).all() and rare.mean() == pytest.approx(0.1, abs=0.01)
    assert (y - x.sum(1)).std() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_errors_of_the_regression_are_those_of_a_plain_loop(clip):
    sizes = Regression(directions=2, chance=0.3, batch=4, steps=6, records=2)
    rule = None if clip is None else also_optax.reweight_by_rgd(clip=clip)
    found = regression.errors(sizes, rule, np.array([0.1, 0.3]), np.array([7]))
    assert found.shape == (2, 1, 2, 2)
    for rate, of_rate in zip([0.1, 0.3], found[:, 0], strict=True):
        params, expected = np.zeros(4), []
        for number in range(6):
            x, y = (np.asarray(p) for p in regression.sample(sizes, jax.random.fold_in(jax.random.key(7), number)))
            residual = x @ params - y
            weights = 1.0 if clip is None else np.exp(np.minimum(residual**2 / 2, clip) / (clip + 1))
            params = params - rate * x.T @ (weights * residual) / 4
            if number in (2, 5):
                expected.append(((params - 1) ** 2).reshape(2, 2).mean(1))
        np.testing.assert_allclose(of_rate, expected, rtol=1e-4)


def test_the_expected_loss_is_the_mean_loss_of_fresh_examples_without_their_noise():
    sizes, params = Regression(chance=0.2, noise=0.0, batch=200_000), np.repeat([0.5, -1.0], 5)
    x, y = regression.sample(sizes, jax.random.key(1))
    errors = np.array([0.25, 4.0])
    expected = regression.expected_loss(sizes, errors)
    assert np.mean((np.asarray(x) @ params - np.asarray(y)) ** 2 / 2) == pytest.approx(expected, rel=0.02)


def test_the_best_boundary_has_no_better_neighbour_and_its_accuracy_is_that_of_many_points():
    best = np.append(boundary.BEST, 0.0)
    around = best + 0.05 * RNG.normal(size=(200, 3))
    assert boundary.balanced_accuracy(best) >= boundary.balanced_accuracy(around).max()
    turned = boundary.start(3, 40.0)
    assert boundary.angle(turned) == pytest.approx(40) and boundary.angle(-turned) == pytest.approx(140)
    points, classes = boundary.sample(0, (200_000, 200_000))
    right = (points @ turned[:2] + turned[2] > 0) == classes
    assert boundary.balanced_accuracy(turned) == pytest.approx(right.mean(), abs=3e-3)


def test_a_boundary_moves_along_the_weighted_mean_of_the_gradients():
    rule = also_optax.reweight_by_absgd(temperature=2.0, averaging_rate=1.0)
    after = boundary.train(Weighting("", rule), np.array([0.7]), np.array([4]), (30, 5), 1, 60.0)[0, 0]
    points, classes = boundary.sample(4, (30, 5))
    w = boundary.start(4, 60.0)
    np.testing.assert_allclose(after[0], w, rtol=1e-6)
    margin = points @ w[:2] + w[2]
    losses = np.logaddexp(0, margin) - classes * margin
    weights = np.exp(losses / 2) / np.exp(losses / 2).mean()
    slopes = weights * (1 / (1 + np.exp(-margin)) - classes)
    gradient = np.append(points.T @ slopes, slopes.sum()) / 35
    np.testing.assert_allclose(after[1], w - 0.7 * gradient, rtol=1e-4)
