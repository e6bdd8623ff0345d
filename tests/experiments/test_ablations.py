"""The parts of the experiments on domains, ablations and tasks that have maths of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.optimize import minimize

from benchmarks import metrics, plots
from benchmarks.data.domains import coloured, halved, rotated
from benchmarks.data.tasks import few_shot, sinusoids
from benchmarks.experiments import ablations, domains
from benchmarks.maml import Maml, Points, Ways
from benchmarks.networks import ViT, patches
from benchmarks.training import Pool, training_set

RNG = np.random.default_rng(0)


# Ablations


def test_the_robust_objective_is_the_maximum_of_the_game():
    losses, prior, temperature = RNG.exponential(size=5), RNG.dirichlet(np.ones(5)), 0.3

    def negative(logits):
        pi = np.exp(logits) / np.exp(logits).sum()
        return -(pi @ losses - temperature * pi @ np.log(pi / prior))

    found = -minimize(negative, np.zeros(5), tol=1e-12).fun
    assert metrics.robust_objective(losses, prior, temperature) == pytest.approx(found, rel=1e-6)
    assert metrics.robust_objective(losses + 1e4, prior, 1e-3) == pytest.approx(1e4 + losses.max(), rel=1e-6)


def test_the_objective_of_the_variants_leaves_padding_out_and_balances_classes():
    targets = np.array([0, 0, 0, 1])
    sets = [training_set(np.arange(4), targets, size=size, num_classes=2) for size in (4, 9)]
    outputs = RNG.normal(size=(9, 2))
    values = [ablations.objective(found, outputs[: len(found.rows)]) for found in sets]
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(outputs[:4], jnp.float32), targets)
    prior = np.array([1, 1, 1, 3]) / 6
    expected = ablations.TEMPERATURE * np.log(prior @ np.exp(np.asarray(losses) / ablations.TEMPERATURE))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_grid_has_every_pair_of_its_values_once():
    for grid in ablations.GRIDS:
        pairs = {(setting[grid.y], setting[grid.x]) for setting in grid.settings}
        assert len(grid.settings) == len(pairs) == len(grid.xs) * len(grid.ys)


def test_no_name_has_the_colour_or_the_marker_of_a_known_one():
    looks = plots.styles(["static", "a", "sgd", "b", "c"])
    assert len({look["color"] for look in looks.values()}) == len({look["marker"] for look in looks.values()}) == 5


# Domains


def test_a_quarter_turn_is_that_of_numpy_and_domains_are_as_large_as_each_other():
    images = RNG.integers(0, 255, (10, 6, 6)).astype(np.uint8)
    found = rotated(images, np.arange(10), (0, 90), seed=3)
    assert np.bincount(found.domains).tolist() == [5, 5] and found.features.shape == (10, 6, 6, 1)
    for image, turned, domain in zip(images, found.features[..., 0], found.domains, strict=True):
        np.testing.assert_array_equal(turned, np.rot90(image, domain))  # counter-clockwise


def test_colours_agree_with_labels_and_labels_with_digits_as_often_as_said():
    images, classes = np.full((30_000, 2, 2), 9, np.uint8), np.arange(30_000) % 10
    found = coloured(images, classes, (0.95, 0.9, 0.05), noise=0.25, seed=0)
    assert (found.features.sum((1, 2)) == 36).sum(1).tolist() == [1] * 30_000  # one colour each
    colour = (found.features[:, 0, 0, 1] > 0).astype(int)
    assert np.mean(found.classes == (classes >= 5)) == pytest.approx(0.75, abs=0.01)
    for domain, chance in enumerate((0.95, 0.9, 0.05)):
        of_domain = found.domains == domain
        assert np.mean(colour[of_domain] == found.classes[of_domain]) == pytest.approx(chance, abs=0.01)
    assert domains.names_of(domains.Protocol(), "coloured") == ["+90 %", "+80 %", "-90 %"]


def test_an_image_is_halved_by_means():
    image = np.arange(30, dtype=np.uint8).reshape(1, 5, 6)
    expected = [[image[0, i : i + 2, j : j + 2].mean() for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_array_equal(halved(image)[0], np.array(expected).astype(np.uint8))


def test_the_domain_left_out_is_neither_trained_nor_validated_on():
    which = np.arange(100) % 4
    training, validation = domains.split(which, 2, seed=0)
    assert not {2} & set(which[training]) | {2} & set(which[validation])
    assert sorted([*training, *validation]) == np.flatnonzero(which != 2).tolist()
    assert np.bincount(which[validation]).tolist() == [5, 5, 0, 5]


# Tasks and the transformer


def test_sinusoids_have_one_amplitude_and_one_phase_each():
    tasks = sinusoids(50, 20, np.random.default_rng(0))
    for x, y in tasks.transpose(0, 2, 1):
        basis = np.stack([np.sin(x), np.cos(x)], axis=1)
        coefficients, residual, *_ = np.linalg.lstsq(basis, y, rcond=None)
        assert residual < 1e-8 and 0.1 <= np.hypot(*coefficients) <= 5 and coefficients[1] <= 1e-5  # phase in [0, pi]


def test_a_task_has_different_images_of_its_own_classes_in_turn():
    classes = np.repeat(np.arange(6), 8)
    tasks = few_shot(classes, np.array([1, 2, 3, 5]), 40, ways=3, each=4, rng=np.random.default_rng(0))
    for task in tasks:
        of_task = classes[task].reshape(4, 3)
        assert (of_task == of_task[0]).all() and len(set(of_task[0])) == 3 and len(set(task)) == 12
    assert set(classes[tasks].ravel()) == {1, 2, 3, 5}


def test_an_example_of_several_members_has_all_their_features():
    features, members = RNG.normal(size=(6, 2)).astype(np.float32), np.array([[0, 5, 5], [1, 2, 3]])
    pool = Pool(jnp.asarray(features), jnp.float32(2), jnp.asarray(members))
    np.testing.assert_allclose(pool.inputs(jnp.array([1, 0])), features[members[[1, 0]]] / 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_linear_model_adapts_as_numpy_does(steps):
    tasks = RNG.normal(size=(2, 9, 2)).astype(np.float32)
    maml = Maml(nn.Dense(1), Points(shots=5), rate=0.1, steps=steps)
    params = maml.init(jax.random.key(0), tasks)
    answers, expected = maml.apply(params, tasks), []
    for x, y in tasks.transpose(0, 2, 1):
        w, b = float(params["params"]["kernel"][0, 0]), 0.0
        for _ in range(steps):
            residual = w * x[:5] + b - y[:5]
            w, b = w - 0.2 * np.mean(residual * x[:5]), b - 0.2 * np.mean(residual)
        expected.append(w * x[5:] + b - y[5:])
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-6)
    outer = maml.kind.outer(answers, None, None, {})
    np.testing.assert_allclose(outer, maml.kind.errors(np.array(expected)), rtol=1e-4)


def test_the_outer_gradient_goes_through_the_inner_steps():
    tasks = RNG.normal(size=(3, 9, 2)).astype(np.float32)
    maml = Maml(nn.Dense(1), Points(shots=5), rate=0.1)
    params = maml.init(jax.random.key(0), tasks)

    def outer(w):
        moved = {"params": {"kernel": jnp.full((1, 1), w), "bias": params["params"]["bias"]}}
        return maml.kind.outer(maml.apply(moved, tasks), None, None, {}).mean()

    w = float(params["params"]["kernel"][0, 0])
    outer = jax.jit(outer)
    slope = float(outer(w + 0.05) - outer(w - 0.05)) / 0.1  # exact, of a quadratic function
    assert float(jax.grad(outer)(w)) == pytest.approx(slope, rel=2e-2)


def test_classes_of_a_task_go_round_in_support_and_query():
    kind = Ways(shots=2, ways=3)
    _, support, query, classes = kind.parts(jnp.zeros((4, 12, 5)))
    assert support[0].tolist() == [0, 1, 2] * 2 and classes[0].tolist() == [0, 1, 2] * 2 and query.shape == (4, 6, 5)
    logits = np.eye(3)[[[0, 1, 2, 0, 0, 0]]].reshape(1, -1)
    assert kind.errors(logits).tolist() == [pytest.approx(2 / 6)]
    expected = np.mean(np.logaddexp.reduce([1.0, 0, 0]) - np.array([1, 1, 1, 1, 0, 0]))
    assert kind.outer(jnp.asarray(logits), None, None, {})[0] == pytest.approx(expected, rel=1e-5)


def test_patches_are_squares_of_the_image_row_by_row():
    images = RNG.normal(size=(2, 6, 9, 2)).astype(np.float32)
    found = np.asarray(patches(jnp.asarray(images), 3))
    expected = [images[:, i : i + 3, j : j + 3].reshape(2, -1) for i in (0, 3) for j in (0, 3, 6)]
    np.testing.assert_array_equal(found, np.stack(expected, axis=1))


def test_a_transformer_sees_where_a_patch_is():
    model, images = ViT(3, patch=2, width=8, blocks=1, heads=2), jnp.asarray(RNG.normal(size=(2, 4, 4, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)
    apply = jax.jit(model.apply)
    outputs = apply(params, images)
    assert outputs.shape == (2, 3) and np.isfinite(outputs).all()
    assert np.abs(outputs - apply(params, images[:, ::-1])).max() > 1e-6
