"""Per-example losses against their papers' equations in NumPy, their limits, and logits without mercy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from also_optax import losses
from tests.reference import losses as reference

COUNTS = np.array([5000, 700, 90, 10, 1])
CLASS_WEIGHTS = np.array([0.2, 0.5, 1.0, 1.3, 2.0])
RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(200, 5)) * RNG.choice([0.1, 1.0, 5.0], size=(200, 1)) + RNG.normal(size=(200, 1))
LABELS = RNG.integers(5, size=200)
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels

BY_PAPER = {
    "focal": (losses.softmax_focal_loss, reference.focal),
    "focal, gamma .5": (
        functools.partial(losses.softmax_focal_loss, gamma=0.5),
        functools.partial(reference.focal, gamma=0.5),
    ),
    "generalised": (losses.generalised_cross_entropy, reference.generalised),
    "symmetric": (losses.symmetric_cross_entropy, reference.symmetric),
    "symmetric, other": (
        functools.partial(losses.symmetric_cross_entropy, alpha=6.0, beta=0.3, log_zero=-7.0),
        functools.partial(reference.symmetric, alpha=6.0, beta=0.3, log_zero=-7.0),
    ),
    "logit-adjusted": (
        functools.partial(losses.logit_adjusted_cross_entropy, class_frequencies=COUNTS),
        functools.partial(reference.logit_adjusted, frequencies=COUNTS),
    ),
    "logit-adjusted, tau 1.7": (
        functools.partial(losses.logit_adjusted_cross_entropy, class_frequencies=COUNTS / COUNTS.sum(), tau=1.7),
        functools.partial(reference.logit_adjusted, frequencies=COUNTS, tau=1.7),
    ),
    "ldam": (
        functools.partial(losses.ldam_loss, class_counts=COUNTS),
        functools.partial(reference.ldam, counts=COUNTS),
    ),
    "ldam, weighted": (
        functools.partial(losses.ldam_loss, class_counts=COUNTS, max_margin=0.8, scale=3, class_weights=CLASS_WEIGHTS),
        functools.partial(reference.ldam, counts=COUNTS, max_margin=0.8, scale=3, class_weights=CLASS_WEIGHTS),
    ),
}
by_paper = pytest.mark.parametrize(("ours", "expected"), BY_PAPER.values(), ids=BY_PAPER.keys())


def _close(actual, desired, float32=2e-6, float64=1e-12):
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def _gradient(loss, logits, labels):
    return jax.jit(jax.grad(lambda logits: loss(logits, labels).sum()))(logits)


# --- The equations ----------------------------------------------------------------------------------------------------


@by_paper
def test_a_loss_is_that_of_its_paper(ours, expected):
    logits = np.asarray(LOGITS, jnp.result_type(float))  # what float32 holds of them, so that only ours rounds
    desired = [expected(z.astype(float), y) for z, y in zip(logits, LABELS, strict=True)]
    _close(ours(jnp.asarray(logits), LABELS), desired, float32=5e-6)


@by_paper
def test_a_gradient_is_that_of_finite_differences(x64, ours, expected):
    step = 1e-5
    rows, labels = LOGITS[:40], LABELS[:40]
    desired = np.array(
        [
            [(expected(z + e, y) - expected(z - e, y)) / (2 * step) for e in step * np.eye(5)]
            for z, y in zip(rows, labels, strict=True)
        ]
    )
    np.testing.assert_allclose(_gradient(ours, jnp.asarray(rows), labels), desired, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1 - 1e-9])
def test_class_balanced_weights_are_those_of_the_paper(beta):
    _close(losses.class_balanced_weights(COUNTS, beta), reference.class_balanced_weights(COUNTS, beta), float64=1e-10)


# --- What each equals -------------------------------------------------------------------------------------------------

CROSS_ENTROPIES = {
    "focal at gamma 0": functools.partial(losses.softmax_focal_loss, gamma=0.0),
    "generalised at q 0": functools.partial(losses.generalised_cross_entropy, q=0.0),
    "generalised at q 1e-9": functools.partial(losses.generalised_cross_entropy, q=1e-9),
    "symmetric without reverse": functools.partial(losses.symmetric_cross_entropy, alpha=1.0, beta=0.0),
    "logit-adjusted at tau 0": functools.partial(
        losses.logit_adjusted_cross_entropy, class_frequencies=[1, 0, 2, 3, 4], tau=0.0
    ),
    "logit-adjusted by equal frequencies": functools.partial(
        losses.logit_adjusted_cross_entropy, class_frequencies=np.full(5, 7)
    ),
    "ldam without margin": functools.partial(losses.ldam_loss, class_counts=COUNTS, max_margin=0.0, scale=1.0),
}


@pytest.mark.parametrize("ours", CROSS_ENTROPIES.values(), ids=CROSS_ENTROPIES.keys())
def test_a_special_case_is_the_cross_entropy_with_its_gradient(ours):
    logits = jnp.asarray(LOGITS, float)
    tolerances = {"float32": 5e-6, "float64": 1e-7 if "1e-09" in str(ours) else 1e-12}
    _close(ours(logits, LABELS), CROSS_ENTROPY(logits, LABELS), **tolerances)
    _close(_gradient(ours, logits, LABELS), _gradient(CROSS_ENTROPY, logits, LABELS), **tolerances)


@pytest.mark.parametrize(
    "ours",
    [
        functools.partial(losses.generalised_cross_entropy, q=1.0),
        functools.partial(losses.symmetric_cross_entropy, alpha=0.0, beta=1.0, log_zero=-1.0),
    ],
)
def test_a_special_case_is_one_minus_p(ours):
    logits = jnp.asarray(LOGITS, float)
    _close(ours(logits, LABELS), 1 - jax.nn.softmax(logits)[jnp.arange(200), LABELS])


def test_generalised_cross_entropy_leaves_cross_entropy_at_a_rate_of_half_its_square(x64):
    cross_entropy = CROSS_ENTROPY(LOGITS, LABELS)
    for q in (1e-15, 1e-6, 1e-3):
        away = losses.generalised_cross_entropy(LOGITS, LABELS, q) - cross_entropy
        np.testing.assert_allclose(away, -q * cross_entropy**2 / 2, rtol=0.02, atol=3e-14)


def test_focal_loss_of_two_classes_is_optax_sigmoid_focal_loss():
    logits, labels = jnp.asarray(LOGITS[:, :2], float), LABELS % 2
    _close(
        losses.softmax_focal_loss(logits, labels, gamma=1.3),
        optax.sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels, gamma=1.3),
    )


def test_equal_counts_weigh_classes_alike_and_give_them_the_same_margin():
    equal = np.full(5, 40)
    _close(losses.class_balanced_weights(equal), np.ones(5), float32=1e-6)
    _close(losses.class_balanced_weights(COUNTS, beta=0.0), np.ones(5), float32=1e-6)
    _close(losses.inverse_frequency_weights(equal), np.ones(5), float32=1e-6)
    logits = jnp.asarray(LOGITS, float)
    lowered = logits - 0.5 * jax.nn.one_hot(LABELS, 5)
    _close(losses.ldam_loss(logits, LABELS, equal, scale=2.0), CROSS_ENTROPY(2 * lowered, LABELS), float32=5e-6)


def test_inverse_frequency_weights_give_each_class_the_same_share():
    weights = losses.inverse_frequency_weights(COUNTS)
    _close(weights * COUNTS, np.full(5, (weights * COUNTS)[0]), float32=1e-5)
    _close(weights.mean(), 1)
    _close(weights, losses.class_balanced_weights(COUNTS, beta=1.0))


def test_a_class_without_examples_changes_nothing_for_the_others():
    with_empty, without = np.append(COUNTS, 0), COUNTS
    weights = losses.class_balanced_weights(with_empty)
    _close(weights[:5], losses.class_balanced_weights(without))
    assert weights[5] == 0
    logits = jnp.asarray(np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-30.0), float)
    ours = losses.ldam_loss(logits, LABELS, with_empty, scale=3.0)
    _close(ours, losses.ldam_loss(logits[:, :5], LABELS, without, scale=3.0), float32=5e-6)
    for loss in (losses.ldam_loss, losses.logit_adjusted_cross_entropy):
        of_empty = loss(logits, jnp.full(200, 5), with_empty)
        assert np.isfinite(of_empty).all() and (of_empty > 0).all()


def test_deferred_reweighting_is_a_change_of_the_class_weights():
    logits = jnp.asarray(LOGITS, float)
    late = losses.class_balanced_weights(COUNTS)

    @jax.jit
    def loss(step):
        return losses.ldam_loss(logits, LABELS, COUNTS, class_weights=jnp.where(step < 8, 1.0, late))

    plain = losses.ldam_loss(logits, LABELS, COUNTS)
    _close(loss(7), plain)
    _close(loss(8), late[LABELS] * plain)


# --- Extremes, precision, shapes --------------------------------------------------------------------------------------


@by_paper
def test_extreme_logits_have_finite_losses_and_gradients(ours, expected):
    extremes = np.array([1e4, -1e4, 0.0, 1e30, -1e30])
    rows = [np.roll(extremes, shift) for shift in range(5)] + [np.full(5, 1e4), -np.full(5, 1e4)]
    logits, labels = jnp.asarray(np.repeat(rows, 5, axis=0), float), np.tile(np.arange(5), 7)
    with jax.debug_nans(True):
        assert np.isfinite(jax.jit(ours)(logits, labels)).all()
        assert np.isfinite(_gradient(ours, logits, labels)).all()


@by_paper
def test_a_label_that_is_wrong_for_sure_still_has_its_gradient(ours, expected):
    """Where the published code clips probabilities, nothing would be learnt."""
    if expected is reference.generalised:
        pytest.skip("bounded by design: its gradient vanishes like p^q")
    gradient = _gradient(ours, jnp.array([[0.0, 40.0, 0.0, 0.0, 0.0]]), jnp.array([0]))
    assert gradient[0, 0] < -0.05


@by_paper
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits_give_the_losses_of_their_values_in_float32(ours, expected, dtype):
    logits = jnp.asarray(LOGITS, dtype)
    loss = jax.jit(ours)(logits, LABELS)
    assert loss.dtype in (jnp.float32, jnp.result_type(float))
    _close(loss, jax.jit(ours)(logits.astype(jnp.float32), LABELS), float64=1e-6)
    gradient = _gradient(ours, logits, LABELS)
    assert gradient.dtype == dtype
    assert np.isfinite(gradient.astype(jnp.float32)).all()


@by_paper
def test_losses_have_the_leading_shape_and_padding_is_harmless(ours, expected):
    logits, labels = jnp.asarray(LOGITS, float).reshape(10, 4, 5, 5), LABELS.reshape(10, 4, 5)
    _close(jax.jit(ours)(logits, labels).ravel(), jax.jit(ours)(logits.reshape(200, 5), LABELS))
    gradient = jax.jit(jax.grad(lambda z: ours(z, jnp.array([1, -1, 5, 1000, 2]))[0]))(logits[0, 0])
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1:], 0)


def test_a_single_class_costs_nothing():
    logits, labels = jnp.array([[3.0], [-4.0]]), jnp.array([0, 0])
    with jax.debug_nans(True):
        for ours in (losses.softmax_focal_loss, losses.generalised_cross_entropy, losses.symmetric_cross_entropy):
            np.testing.assert_array_equal(ours(logits, labels), 0)
            np.testing.assert_array_equal(_gradient(ours, logits, labels), 0)


@pytest.mark.parametrize(
    ("ours", "values"),
    [
        (losses.softmax_focal_loss, [0.0, 0.5, 2.0]),
        (losses.generalised_cross_entropy, [0.0, 1e-25, 0.3, 1.0]),
        (losses.symmetric_cross_entropy, [0.0, 0.1, 6.0]),
        (lambda z, y, tau: losses.logit_adjusted_cross_entropy(z, y, COUNTS, tau), [0.0, 1.0, 2.0]),
        (lambda z, y, margin: losses.ldam_loss(z, y, COUNTS, margin), [0.0, 0.5]),
        (lambda z, y, beta: losses.class_balanced_weights(COUNTS, beta), [0.0, 0.5, 1.0]),
    ],
)
def test_a_grid_of_parameters_is_one_vmap(ours, values):
    logits = jnp.asarray(LOGITS, float)
    grid = jax.jit(jax.vmap(lambda value: ours(logits, LABELS, value)))(jnp.array(values))
    _close(grid, [ours(logits, LABELS, value) for value in values], float32=5e-6)


# --- Bad input --------------------------------------------------------------------------------------------------------

Z, Y = jnp.zeros((2, 3)), jnp.array([0, 1])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.softmax_focal_loss(Y, Y), TypeError, "`logits` must be floating point"),
        (lambda: losses.softmax_focal_loss(Z, Z[:, 0]), TypeError, "`labels` must be integer"),
        (lambda: losses.softmax_focal_loss(Z, Y[:1]), ValueError, r"`labels` must have the shape.*\(1,\) for \(2, 3\)"),
        (lambda: losses.softmax_focal_loss(Z, Y, -1.0), ValueError, "`gamma` must be at least 0"),
        (lambda: losses.generalised_cross_entropy(Z, Y, 1.5), ValueError, r"`q` must be in \[0, 1\]"),
        (lambda: losses.symmetric_cross_entropy(Z, Y, -0.1), ValueError, "`alpha` must be at least 0"),
        (lambda: losses.symmetric_cross_entropy(Z, Y, beta=-1), ValueError, "`beta` must be at least 0"),
        (lambda: losses.symmetric_cross_entropy(Z, Y, log_zero=4), ValueError, "`log_zero` must be at most 0"),
        (lambda: losses.ldam_loss(Z, Y, [1, 2]), ValueError, r"`class_counts` must have one entry.*\(3,\), got shape"),
        (lambda: losses.ldam_loss(Z, Y, [1, 2, -1]), ValueError, "`class_counts` must be finite, not negative"),
        (lambda: losses.ldam_loss(Z, Y, [1, 2, 1], scale=0), ValueError, "`scale` must be above 0"),
        (lambda: losses.ldam_loss(Z, Y, [1, 2, 1], max_margin=-1), ValueError, "`max_margin` must be at least 0"),
        (lambda: losses.ldam_loss(Z, Y, [1, 2, 1], class_weights=[1]), ValueError, "`class_weights` must have one"),
        (lambda: losses.logit_adjusted_cross_entropy(Z, Y, [0, 0, 0]), ValueError, "not all zero"),
        (lambda: losses.logit_adjusted_cross_entropy(Z, Y, [1, 1, 1], np.nan), ValueError, "`tau` must be finite"),
        (lambda: losses.class_balanced_weights([3, 1], 1.1), ValueError, r"`beta` must be in \[0, 1\]"),
        (lambda: losses.class_balanced_weights(3), ValueError, r"`class_counts` must have one entry per class"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(make, error, message):
    with pytest.raises(error, match=message):
        make()
