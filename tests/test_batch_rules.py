"""The rules of a whole batch against sorting, one-dimensional duals and pooling one entry at a time, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import also_optax
from also_optax import spectra
from tests import problems
from tests.reference import chi2, cvar, kl_cvar, spectral_risk
from tests.rows import RULES

SIZE = 24
INSTANCES = 240
SHARES = (1e-3, 1 / SIZE, 0.1, 0.25, 0.5, 0.9, 1.0)


def instances(seed=0):
    """Batches of all kinds, ``[INSTANCES, SIZE]``, exact in float32, and which entries count."""
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=(INSTANCES, SIZE)) * 10 ** rng.uniform(-2, 2, (INSTANCES, 1))
    kind = np.arange(INSTANCES) % 8
    losses[kind == 1] = rng.integers(0, 4, losses[kind == 1].shape)  # ties
    losses[kind == 2] = rng.normal(size=(np.sum(kind == 2), 1))  # all equal
    losses[kind == 3] *= -1
    losses[kind == 4, ::5] += 1e4
    losses[kind == 5] = losses[kind == 5] - losses[kind == 5].mean(axis=1, keepdims=True)
    where = np.arange(SIZE) < np.where(kind == 6, rng.integers(1, SIZE, INSTANCES), SIZE)[:, None]
    where = rng.permuted(where, axis=1)
    return losses.astype(np.float32).astype(np.float64), where


def float32s(values):
    return np.asarray(values, np.float32).astype(np.float64)


def spread(losses, where):
    """By which penalties are scaled, so that they are neither nothing nor everything."""
    return float32s([np.ptp(batch[part]) or 1.0 for batch, part in zip(losses, where, strict=True)])


RNG = np.random.default_rng(1)
ALPHAS = float32s(RNG.choice(SHARES, INSTANCES))
PENALTIES = 10 ** RNG.uniform(-3, 2, INSTANCES)
RADII = float32s(RNG.choice([0.0, 1e-3, 0.05, 0.3, 1.0, 3.0, 30.0], INSTANCES))
POWERS = float32s(RNG.choice([1.0, 1.5, 3.0, 20.0], INSTANCES))
TABLE = np.sort(np.random.default_rng(2).exponential(size=SIZE) ** 3)


def smoothed(spectrum, reference, smoothing):
    """A row of CASES for a smoothed spectral risk."""
    return (
        lambda parameter, penalty: also_optax.reweight_by_spectral_risk(
            spectrum(parameter), penalty=penalty, smoothing=smoothing
        ),
        lambda losses, parameter, penalty: spectral_risk.smoothed_weights(
            losses, reference(len(losses), parameter), penalty, smoothing
        ),
        lambda losses, parameter, penalty: spectral_risk.smoothed_value(
            losses, reference(len(losses), parameter), penalty, smoothing
        ),
    )


def plain(spectrum, reference):
    def weights(losses, parameter):
        return spectral_risk.weights(losses, reference(len(losses), parameter))

    return (
        lambda parameter: also_optax.reweight_by_spectral_risk(spectrum(parameter)),
        weights,
        lambda losses, parameter: np.dot(reference(len(losses), parameter), np.sort(losses)),
    )


# The rule, its weights and its value in the reference, and the hyperparameters of each instance; penalties are times
# the spread of the losses.
CASES = {
    "cvar": (also_optax.reweight_by_cvar, cvar.weights, cvar.value, ALPHAS),
    "kl_cvar": (also_optax.reweight_by_kl_cvar, kl_cvar.weights, kl_cvar.value, ALPHAS, PENALTIES),
    "chi2_penalty": (
        lambda penalty: also_optax.reweight_by_chi2(penalty=penalty),
        chi2.penalty_weights,
        chi2.penalty_value,
        PENALTIES,
    ),
    "chi2_ball": (lambda radius: also_optax.reweight_by_chi2(radius=radius), chi2.ball_weights, chi2.ball_value, RADII),
    "superquantile": (*plain(spectra.superquantile, spectral_risk.superquantile), ALPHAS),
    "extremile": (*plain(spectra.extremile, spectral_risk.extremile), POWERS),
    "esrm": (*plain(spectra.esrm, spectral_risk.esrm), POWERS),
    "superquantile_chi2": (*smoothed(spectra.superquantile, spectral_risk.superquantile, "chi2"), ALPHAS, PENALTIES),
    "superquantile_kl": (*smoothed(spectra.superquantile, spectral_risk.superquantile, "kl"), ALPHAS, PENALTIES),
    "extremile_chi2": (*smoothed(spectra.extremile, spectral_risk.extremile, "chi2"), POWERS, PENALTIES),
    "extremile_kl": (*smoothed(spectra.extremile, spectral_risk.extremile, "kl"), POWERS, PENALTIES),
}
BATCH_RULES = (
    "cvar",
    "kl_cvar",
    "chi2_penalty",
    "chi2_ball",
    "spectral_risk",
    "spectral_risk_chi2",
    "spectral_risk_kl",
)
batch_rules = pytest.mark.parametrize("name", BATCH_RULES)


def is_x64():
    return jnp.result_type(float) == jnp.float64


def read(tx, losses, where=None):
    """Weights and values of a batch, on both sides."""
    state = tx.init(None)
    _, after = tx.update(None, state, losses=losses, where=where)
    values = also_optax.diagnostics(after)
    return also_optax.example_weights(state, losses, where=where), values["robust_value"], values["erm_value"]


def weights_of(tx, losses, where=None):
    return np.asarray(_weights(tx.init(None), jnp.asarray(losses, float), where))


@jax.jit
def _weights(state, losses, where):
    return also_optax.example_weights(state, losses, where=where)


@functools.cache
def answers(name, x64):
    """Of all instances of a case, in one compilation; with the hyperparameters as the rule had them."""
    del x64
    losses, where = instances()
    make, _, _, *hyperparams = CASES[name]
    if hyperparams[-1] is PENALTIES:
        hyperparams[-1] = float32s(PENALTIES * spread(losses, where))
    together = jax.jit(jax.vmap(lambda losses, where, *values: read(make(*values), losses, where)))
    found = together(jnp.asarray(losses, float), where, *(jnp.asarray(values, float) for values in hyperparams))
    return losses, where, hyperparams, [np.asarray(part, np.float64) for part in found]


# --- Every instance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_weights_and_values_are_those_of_the_reference(name):
    losses, where, hyperparams, (weights, values, plain_values) = answers(name, is_x64())
    _, expected_weights, expected_value, *_ = CASES[name]
    tolerance = 1e-10 if is_x64() else 1e-6
    for i in range(INSTANCES):
        batch, given = losses[i][where[i]], [column[i] for column in hyperparams]
        expected, found = expected_weights(batch, *given), weights[i][where[i]]
        np.testing.assert_allclose(found, expected, atol=tolerance * expected.max(), rtol=0, err_msg=f"{i}, {given}")
        scale = np.abs(batch).max() + np.finfo(float).tiny
        np.testing.assert_allclose(values[i] / scale, expected_value(batch, *given) / scale, atol=3 * tolerance, rtol=0)
        np.testing.assert_allclose(plain_values[i] / scale, batch.mean() / scale, atol=tolerance, rtol=0)
        assert not weights[i][~where[i]].any()


@pytest.mark.parametrize("name", CASES)
def test_weights_are_monotone_of_mean_one_and_equal_for_equal_losses(name):
    losses, where, _, (weights, *_) = answers(name, is_x64())
    tolerance = 1e-12 if is_x64() else 2e-6
    for batch, found in ((losses[i][where[i]], weights[i][where[i]]) for i in range(INSTANCES)):
        order = np.argsort(batch)
        rises, same = np.diff(found[order]), np.diff(batch[order]) == 0
        assert found.min() >= 0 and rises.min(initial=0) >= -tolerance * found.max()
        assert not rises[same].any()
        assert abs(found.mean() - 1) <= tolerance


# --- Every rule ------------------------------------------------------------------------------------------------------


def state_of(name):
    return RULES[name].make(**RULES[name].hyperparams).init(None)


@batch_rules
def test_weights_move_with_the_losses_and_padding_changes_nothing(name):
    rng = np.random.default_rng(3)
    losses, order = jnp.asarray(rng.exponential(size=SIZE), float), rng.permutation(SIZE)
    weights_of, every = functools.partial(_weights, state_of(name)), jnp.ones(SIZE, bool)
    weights = weights_of(losses, every)
    np.testing.assert_allclose(weights_of(losses[order], every), weights[order], atol=1e-6 * weights.max(), rtol=0)
    short = weights_of(losses, every.at[SIZE // 2 :].set(False))
    padded = weights_of(losses.at[SIZE // 2 :].set(1e30), every.at[SIZE // 2 :].set(False))
    np.testing.assert_array_equal(short, padded)
    assert not weights_of(losses, ~every).any()


@batch_rules
def test_adding_a_constant_to_every_loss_changes_no_weight(name):
    losses, every = jnp.arange(SIZE) % 7 / 4.0, jnp.ones(SIZE, bool)
    weights_of = functools.partial(_weights, state_of(name))
    for constant in (-4096.0, 64.0):
        np.testing.assert_allclose(weights_of(losses + constant, every), weights_of(losses, every), rtol=1e-6)


@batch_rules
@pytest.mark.parametrize("huge", [1e4, 1e30, -1e30])
def test_huge_losses_have_weights_of_mean_one(name, huge):
    every = jnp.ones(SIZE, bool)
    losses = jnp.where(jnp.arange(SIZE) % 5 == 0, huge, jnp.arange(SIZE) / 8.0)
    for batch in (losses, -losses, jnp.full(SIZE, huge)):
        weights = _weights(state_of(name), batch, every)
        assert (weights >= 0).all() and abs(weights.mean() - 1) < 1e-5


@batch_rules
def test_the_parts_of_a_batch_have_the_weights_of_the_whole(name):

    @jax.jit
    def both(state, losses):
        statistics = also_optax.merge(*(also_optax.observe(state, part) for part in losses))
        parts = [also_optax.example_weights(state, part, statistics=statistics) for part in losses]
        return jnp.stack(parts), also_optax.example_weights(state, losses)

    parts, whole = both(state_of(name), jnp.array([[0.5, 3.0, 1.0, 1.0], [0.2, 1.0, 4.0, 3.0]]))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@batch_rules
def test_an_empty_batch_weighs_nothing(name):
    row = RULES[name]
    with jax.debug_nans(True):
        tx = row.make(**row.hyperparams)
        loss, rw = also_optax.reweight(tx.init(None), jnp.zeros(0))
        _, after = tx.update(None, tx.init(None), **rw.extra_args)
    assert loss == 0 and int(after.step) == 0


# --- Special cases ---------------------------------------------------------------------------------------------------

LOSSES = np.array([0.3, 2.0, -0.1, 0.7, 2.0, 0.5, -1.2, 0.7])
UNEVEN = np.array([0.3, 2.1, -0.1, 0.7, 2.0, 0.5, -1.2, 0.8])


def same(one, other, rtol=1e-6, losses=LOSSES):
    np.testing.assert_allclose(weights_of(one, losses), weights_of(other, losses), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("radius", [0.0, 0.4])
def test_equal_losses_make_no_nan_in_a_chi2_ball_outside_of_jit_either(radius):
    with jax.debug_nans(True), jax.disable_jit():
        state = also_optax.reweight_by_chi2(radius=radius).init(None)
        weights = also_optax.example_weights(state, jnp.full(3, 0.7))
    assert (weights == 1).all()


def test_all_of_the_batch_is_plain_training():
    for tx in (
        also_optax.reweight_by_cvar(1.0),
        also_optax.reweight_by_spectral_risk(spectra.superquantile(1.0)),
        also_optax.reweight_by_chi2(radius=0.0),
        also_optax.reweight_by_chi2(penalty=jnp.inf),
        also_optax.reweight_by_kl_cvar(0.1, jnp.inf),
    ):
        assert (weights_of(tx, LOSSES) == 1).all()
    for tx in (
        also_optax.reweight_by_kl_cvar(1.0, 0.3),
        also_optax.reweight_by_spectral_risk(spectra.extremile(1.0)),
        also_optax.reweight_by_spectral_risk(spectra.esrm(0.0)),
        also_optax.reweight_by_spectral_risk(np.ones(5)),
        also_optax.reweight_by_spectral_risk(spectra.extremile(9.0), penalty=jnp.inf, smoothing="chi2"),
        also_optax.reweight_by_spectral_risk(spectra.extremile(9.0), penalty=jnp.inf, smoothing="kl"),
    ):
        np.testing.assert_allclose(weights_of(tx, LOSSES), 1, rtol=1e-6)


def test_the_largest_loss_alone():
    expected = len(LOSSES) / 2 * (LOSSES == LOSSES.max())  # two are largest
    for tx in (
        also_optax.reweight_by_cvar(1 / len(LOSSES)),
        also_optax.reweight_by_cvar(1e-30),
        also_optax.reweight_by_cvar(1e-60),
        also_optax.reweight_by_kl_cvar(1e-60, 0.0),
        also_optax.reweight_by_chi2(penalty=0.0),
        also_optax.reweight_by_chi2(penalty=1e-40),
        also_optax.reweight_by_chi2(radius=(len(LOSSES) - 1) / 2),
        also_optax.reweight_by_chi2(radius=(len(LOSSES) / 2 - 1) / 2),  # all mass on the ties is in the ball
        also_optax.reweight_by_chi2(radius=jnp.inf),
        also_optax.reweight_by_spectral_risk([0.0, 0, 0, 0, 0, 0, 0, 3]),
    ):
        np.testing.assert_allclose(weights_of(tx, LOSSES), expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", SHARES)
def test_kl_cvar_lies_between_cvar_and_the_softmax(alpha):
    same(also_optax.reweight_by_kl_cvar(alpha, 0.0), also_optax.reweight_by_cvar(alpha))
    same(also_optax.reweight_by_kl_cvar(alpha, 1e-9), also_optax.reweight_by_cvar(alpha))
    softmax = also_optax.reweight_by_absgd(0.5, averaging_rate=1.0)
    same(also_optax.reweight_by_kl_cvar(1 / len(LOSSES), 0.5), softmax)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.99])
def test_kl_cvar_is_accurate_at_any_penalty(alpha, penalty):
    losses = float32s(np.linspace(-3, 7, 50) ** 3 / 34)
    alpha, penalty = float32s([alpha, penalty])
    expected = kl_cvar.weights(losses, alpha, penalty)
    found = weights_of(also_optax.reweight_by_kl_cvar(alpha, penalty), losses)
    np.testing.assert_allclose(found, expected, atol=(1e-10 if is_x64() else 1e-6) * expected.max(), rtol=0)
    assert abs(found - 1).max() > 1e-9


@pytest.mark.parametrize("alpha", SHARES)
@pytest.mark.parametrize("penalty", [0.01, 0.5, 10.0])
def test_the_superquantile_is_cvar_and_smoothed_by_kl_it_is_kl_cvar(alpha, penalty):
    spectrum = spectra.superquantile(alpha)
    same(also_optax.reweight_by_spectral_risk(spectrum), also_optax.reweight_by_cvar(alpha), rtol=2e-6)
    tx = also_optax.reweight_by_spectral_risk(spectrum, penalty=penalty, smoothing="kl")
    same(tx, also_optax.reweight_by_kl_cvar(alpha, penalty), rtol=2e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.5, 10.0])
def test_all_mass_on_the_largest_smoothed_by_chi2_is_the_chi2_penalty(penalty):
    for spectrum in (spectra.superquantile(1e-3), [0.0] * 7 + [1.0]):
        tx = also_optax.reweight_by_spectral_risk(spectrum, penalty=penalty, smoothing="chi2")
        same(tx, also_optax.reweight_by_chi2(penalty=penalty), rtol=2e-6)


@pytest.mark.parametrize("smoothing", ["chi2", "kl"])
def test_a_penalty_of_zero_smoothes_nothing(smoothing):
    for spectrum in (spectra.extremile(3.0), spectra.superquantile(0.3)):
        tx = also_optax.reweight_by_spectral_risk(spectrum, penalty=0.0, smoothing=smoothing)
        same(tx, also_optax.reweight_by_spectral_risk(spectrum), rtol=2e-6)


@pytest.mark.parametrize("smoothing", ["chi2", "kl"])
def test_smoothing_makes_the_weights_continuous_where_two_losses_change_places(smoothing):
    def weights(difference, **settings):
        losses = np.array([0.1, 1.0 + difference, 1.0, 3.0])
        return weights_of(also_optax.reweight_by_spectral_risk(spectra.extremile(4.0), **settings), losses)

    jump = np.abs(weights(1e-3) - weights(-1e-3)).max()
    assert (
        jump > 0.5
        and np.abs(
            weights(1e-3, penalty=1.0, smoothing=smoothing) - weights(-1e-3, penalty=1.0, smoothing=smoothing)
        ).max()
        < 5e-3
    )


def test_the_robust_value_in_a_small_ball_is_mean_plus_standard_deviation():
    _, value, plain_value = read(also_optax.reweight_by_chi2(radius=0.02), jnp.asarray(LOSSES, float))
    np.testing.assert_allclose(value, LOSSES.mean() + np.sqrt(2 * 0.02) * LOSSES.std(), rtol=1e-6)
    np.testing.assert_allclose(plain_value, LOSSES.mean(), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
def test_weights_in_a_chi2_ball_know_no_unit_of_the_losses(scale):
    tx = also_optax.reweight_by_chi2(radius=0.4)
    expected, _, _ = read(tx, jnp.asarray(LOSSES, float))
    found, _, _ = read(tx, jnp.asarray(scale * LOSSES, float))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("radius", [0.25 * (1 - 3e-7), 0.25, 0.25 * (1 + 3e-7)])
def test_a_chi2_ball_that_just_holds_two_losses_apart_by_their_last_digit_has_weights_of_mean_one(radius):
    two = np.float32(8.1), np.nextafter(np.float32(8.1), np.float32(9))
    found = weights_of(also_optax.reweight_by_chi2(radius=radius), np.array([*two, -0.7]))
    np.testing.assert_allclose(found.sum(), 3, rtol=1e-6)
    np.testing.assert_allclose(found, [1.5, 1.5, 0], atol=1e-2)


# --- Spectra ---------------------------------------------------------------------------------------------------------


def _square(u, scale):
    return (u**2 + scale * u) / (1 + scale)


def test_masses_of_ones_own_weigh_the_ranks_and_need_not_be_normalised():
    masses = np.sort(np.random.default_rng(0).exponential(size=8))
    found = weights_of(also_optax.reweight_by_spectral_risk(50 * masses), UNEVEN)
    np.testing.assert_allclose(found, spectral_risk.weights(UNEVEN, masses / masses.sum()), rtol=1e-6)


def test_the_spectrum_may_be_named():
    same(also_optax.reweight_by_spectral_risk(spectrum=[1.0, 3.0]), also_optax.reweight_by_spectral_risk([1.0, 3.0]))


def test_masses_are_stretched_to_batches_of_another_size():
    tx = also_optax.reweight_by_spectral_risk([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(weights_of(tx, [1.0, 2.0]), [0.6, 1.4], rtol=1e-6)
    np.testing.assert_allclose(
        weights_of(tx, UNEVEN)[np.argsort(UNEVEN)], np.repeat([0.4, 0.8, 1.2, 1.6], 2), rtol=1e-6
    )
    where = np.array([True, False, True, True, False, True, False, False])
    np.testing.assert_allclose(weights_of(tx, UNEVEN, where)[where], [0.8, 0.4, 1.6, 1.2], rtol=1e-6)


def test_masses_of_large_batches_keep_their_digits():
    masses = np.arange(1.0, 30_001)
    losses = np.random.default_rng(0).permutation(30_000).astype(float)
    found = weights_of(also_optax.reweight_by_spectral_risk(masses), losses)
    np.testing.assert_allclose(found, (losses + 1) * 30_000 / masses.sum(), rtol=1e-5)
    for spectrum, reference in (
        (spectra.extremile(5.0), spectral_risk.extremile(30_000, 5.0)),
        (spectra.esrm(5.0), spectral_risk.esrm(30_000, 5.0)),
    ):
        found = weights_of(also_optax.reweight_by_spectral_risk(spectrum), losses)
        np.testing.assert_allclose(found, 30_000 * reference[losses.astype(int)], rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("make", [spectra.superquantile, spectra.extremile, spectra.esrm])
def test_the_mass_of_a_spectrum_is_what_its_cdf_gains(make):
    parameter = 0.3 if make is spectra.superquantile else 3.0
    cdf, (value,), mass = make(parameter)
    edges = jnp.arange(21) / 20.0
    ranks = jnp.arange(20.0)
    np.testing.assert_allclose(mass(ranks, 1.0, 19 - ranks, value), np.diff(cdf(edges, value)), atol=1e-6)
    np.testing.assert_allclose(cdf(edges[jnp.array([0, 20])], value), [0, 1], atol=1e-6)


def test_the_cdf_of_masses_is_linear_from_rank_to_rank():
    cdf, parameters, _ = spectra.as_spectrum([1.0, 3.0])
    parameters = [jnp.asarray(part, float) for part in parameters]
    np.testing.assert_allclose(cdf(jnp.array([0.0, 0.25, 0.5, 0.75, 1.0]), *parameters), [0, 0.125, 0.25, 0.625, 1])


def test_a_spectrum_of_ones_own_weighs_and_its_parameters_may_be_schedules_and_traced():
    def weights(scale):
        return also_optax.example_weights(
            also_optax.reweight_by_spectral_risk(spectra.Spectrum(_square, (scale,))).init(None), jnp.asarray(UNEVEN)
        )

    sigma = np.diff(_square(np.arange(9) / 8, 0.5))
    np.testing.assert_allclose(weights(0.5), spectral_risk.weights(UNEVEN, sigma), rtol=1e-5)
    np.testing.assert_allclose(weights(optax.constant_schedule(0.5)), weights(0.5))
    np.testing.assert_allclose(jax.jit(jax.vmap(weights))(jnp.array([0.5, 2.0]))[0], weights(0.5), rtol=1e-6)


def test_states_of_one_spectrum_are_of_one_type():
    def structure(spectrum, **settings):
        return jax.tree.structure(also_optax.reweight_by_spectral_risk(spectrum, **settings).init(None))

    assert structure(spectra.extremile(2.0)) == structure(spectra.extremile(3.0))
    assert structure(spectra.extremile(2.0)) != structure(spectra.esrm(2.0))
    smooth = {"penalty": 1.0, "smoothing": "kl"}
    assert structure(spectra.extremile(2.0), **smooth) != structure(spectra.extremile(2.0))
    assert isinstance(also_optax.reweight_by_spectral_risk([1.0]).init(None), also_optax.SpectralRiskState)


# --- Size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", ["chi2", "kl"])
@pytest.mark.parametrize("spectrum", ["superquantile", "extremile"])
def test_large_batches_are_smoothed_as_the_reference_does(spectrum, smoothing):
    count = 5_000
    losses = float32s(np.random.default_rng(4).exponential(size=count))
    parameter = float32s(0.1 if spectrum == "superquantile" else 3.0)
    sigma = getattr(spectral_risk, spectrum)(count, parameter)
    rule = getattr(spectra, spectrum)
    make = jax.jit(
        lambda penalty, losses: also_optax.example_weights(
            also_optax.reweight_by_spectral_risk(rule(parameter), penalty=penalty, smoothing=smoothing).init(None),
            losses,
        )
    )
    for penalty in (1e-3, 0.5, 100.0):
        penalty = float32s(penalty)
        found = make(jnp.asarray(penalty, float), jnp.asarray(losses, float))
        expected = spectral_risk.smoothed_weights(losses, sigma, penalty, smoothing)
        np.testing.assert_allclose(found, expected, atol=(1e-10 if is_x64() else 1e-5) * expected.max(), rtol=0)


# --- The references --------------------------------------------------------------------------------------------------


def permutahedron_maximum(losses, sigma, penalty, divergence):
    """By a generic solver: p is a doubly stochastic matrix times sigma."""
    count = len(losses)

    def weights(matrix):
        return count * matrix.reshape(count, count) @ sigma

    def objective(matrix):
        w = np.maximum(weights(matrix), 1e-12)
        paid = (w - 1) ** 2 / 2 if divergence == "chi2" else w * np.log(w)
        return penalty * paid.mean() - (w * losses).mean()

    sums = np.vstack([np.kron(np.eye(count), np.ones(count)), np.kron(np.ones(count), np.eye(count))])
    found = optimize.minimize(
        objective,
        np.full(count**2, 1 / count),
        method="SLSQP",
        bounds=[(0, 1)] * count**2,
        constraints={"type": "eq", "fun": lambda matrix: sums[:-1] @ matrix - 1, "jac": lambda matrix: sums[:-1]},
        options={"maxiter": 500, "ftol": 1e-13},
    )
    return weights(found.x), -found.fun


@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_the_reference_of_smoothed_spectral_risks_is_what_a_solver_finds(divergence):
    losses = np.array([0.3, 1.1, 0.2, 0.9, 2.0])
    for sigma in (spectral_risk.extremile(5, 3.0), spectral_risk.superquantile(5, 0.5)):
        weights, value = permutahedron_maximum(losses, sigma, 0.4, divergence)
        np.testing.assert_allclose(spectral_risk.smoothed_weights(losses, sigma, 0.4, divergence), weights, atol=1e-3)
        np.testing.assert_allclose(spectral_risk.smoothed_value(losses, sigma, 0.4, divergence), value, atol=1e-6)


@pytest.mark.parametrize("name", ["kl_cvar", "chi2_penalty", "chi2_ball"])
def test_the_references_are_what_a_solver_finds(name):
    losses = np.array([0.3, 1.1, 0.2, 0.9, 2.0, 0.95])
    penalty, radius, alpha = 0.4, 0.3, 0.4

    def objective(w):
        paid = {"kl_cvar": w * np.log(np.maximum(w, 1e-12)), "chi2_penalty": (w - 1) ** 2 / 2, "chi2_ball": 0 * w}
        return penalty * paid[name].mean() - (w * losses).mean()

    constraints = [{"type": "eq", "fun": lambda w: w.mean() - 1}]
    if name == "chi2_ball":
        constraints.append({"type": "ineq", "fun": lambda w: radius - ((w - 1) ** 2).mean() / 2})
    bounds = [(0, 1 / alpha if name == "kl_cvar" else None)] * 6
    found = optimize.minimize(objective, np.ones(6), bounds=bounds, constraints=constraints, options={"ftol": 1e-14})
    _, weights, value, *_ = CASES[name]
    given = {"kl_cvar": (alpha, penalty), "chi2_penalty": (penalty,), "chi2_ball": (radius,)}[name]
    np.testing.assert_allclose(weights(losses, *given), found.x, atol=1e-4)
    np.testing.assert_allclose(value(losses, *given), -found.fun, atol=1e-8)


def test_the_reference_of_cvar_is_the_linear_program():
    losses = np.array([0.3, 1.1, 0.2, 0.9, 2.0, 0.9])
    for alpha in (0.1, 0.4, 0.75, 1.0):
        found = optimize.linprog(-losses, A_eq=[[1.0] * 6], b_eq=[1.0], bounds=[(0, 1 / (6 * alpha))] * 6)
        np.testing.assert_allclose(cvar.value(losses, alpha), -found.fun)
        np.testing.assert_allclose(cvar.weights(losses, alpha) @ losses / 6, -found.fun)


# --- The optimizer ---------------------------------------------------------------------------------------------------


def test_cvar_of_the_whole_batch_is_adam():
    stacked = problems.batches(steps=6)
    params, _ = problems.train(also_optax.cvar(0.02, alpha=1.0), stacked)
    expected, _ = problems.train(optax.chain(also_optax.reweight_by_rgd(1e-30), optax.adam(0.02)), stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected)


def test_another_optimizer_takes_the_place_of_adam_in_cvar():
    stacked = problems.batches(steps=6)
    params, _ = problems.train(also_optax.cvar(0.02, alpha=0.4, optimizer=optax.trace(0.9)), stacked)
    other = optax.chain(also_optax.reweight_by_cvar(0.4), optax.sgd(0.02, momentum=0.9))
    expected, _ = problems.train(other, stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected)
