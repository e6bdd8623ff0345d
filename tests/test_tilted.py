"""Tilted losses against their definition in NumPy, of examples and of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import problems
from tests.problems import assert_close
from tests.reference import tilted as reference_tilted

G = 4
LOSSES = jnp.array([0.3, 2.0, -0.4, 1.1, 0.9])


def weights_of(t, losses=LOSSES, groups=None, **settings):
    return also_optax.example_weights(also_optax.reweight_by_tilted(t, **settings).init(None), losses, groups)


# --- The equations ----------------------------------------------------------------------------------------------------


def test_two_hundred_batches_are_weighed_by_their_softmax():
    rng = np.random.default_rng(0)
    losses = rng.gamma(2.0, 1.0, (200, 7)).astype(np.float32) - 1
    t = rng.normal(size=200).astype(np.float32) * 3
    weights = jax.jit(jax.vmap(weights_of))(t, losses)
    for i in range(200):
        expected = reference_tilted.example_weights(losses[i].astype(float), float(t[i]))
        assert_close(weights[i] / max(expected), expected / max(expected), float32=3e-6)


@pytest.mark.parametrize("with_frequencies", [False, True])
def test_two_hundred_runs_of_groups_go_as_the_equations_say(with_frequencies):
    batches, rng = problems.plays(seed=3), np.random.default_rng(1)
    t = rng.normal(size=200).astype(np.float32)
    t[::10] = 0
    rate = rng.uniform(0.05, 1, 200).astype(np.float32)
    rate[::7] = 1
    frequencies = rng.dirichlet(np.full(G, 2.0), 200).astype(np.float32)

    @jax.jit
    @jax.vmap
    def play(t, rate, frequencies, batches):
        frequencies = frequencies if with_frequencies else None
        tx = also_optax.reweight_by_tilted(t, num_groups=G, averaging_rate=rate, group_frequencies=frequencies)
        state, (_, weights) = problems.played(tx, batches.losses, batches.groups, batches.where)
        return weights, also_optax.diagnostics(state)

    weights, found = play(t, rate, frequencies, batches)
    for i in range(200):
        # exp(0·loss) is always 1; what t = 0 stands for in the diagnostics is the limit
        exponent = float(t[i])
        q = frequencies[i].astype(float) / frequencies[i].sum()
        run = reference_tilted.Tilted(G, float(rate[i]), q if with_frequencies else None)
        for step in range(batches.losses.shape[1]):
            args = batches.losses[i, step].astype(float), batches.groups[i, step], batches.where[i, step]
            assert_close(weights[i, step], run.see(*args, exponent), float32=4e-6)
        seen = np.array([average is not None for average in run.average])
        if exponent and with_frequencies:
            averages = np.array([average or 1.0 for average in run.average])
            assert_close(found["group_losses"][i][seen], np.log(averages[seen]) / exponent, float32=1e-5)
            robust = np.log(q[seen] @ averages[seen] / q[seen].sum()) / exponent
            assert_close(found["robust_value"][i], robust, float32=1e-5)
            assert_close(
                found["erm_value"][i], q[seen] @ (np.log(averages[seen]) / exponent) / q[seen].sum(), float32=1e-5
            )


def test_at_t_of_zero_groups_keep_the_moving_average_of_their_losses():
    tx = also_optax.reweight_by_tilted(0.0, num_groups=2, averaging_rate=0.3, group_frequencies=[1, 3])
    state, (_, weights) = problems.played(tx, np.array([[1.0, 5.0], [2.0, 4.0]]), np.array([[0, 1], [0, 0]]))
    found = also_optax.diagnostics(state)
    assert (weights == 1).all()
    assert_close(found["group_losses"], [0.7 * 1 + 0.3 * 3, 5])
    assert_close([found["robust_value"], found["erm_value"]], 0.25 * 1.6 + 0.75 * 5)


# --- Special cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"num_groups": 3}, {"num_groups": 3, "group_frequencies": [1, 2, 9]}])
def test_t_of_zero_is_plain_training_to_the_last_bit(settings):
    groups = jnp.array([0, 2, 0, 1, 0]) if settings else None
    tx = also_optax.reweight_by_tilted(0.0, averaging_rate=0.4, **settings)
    _, (_, weights) = problems.played(
        tx, jnp.tile(LOSSES, (5, 1)), None if groups is None else jnp.tile(groups, (5, 1))
    )
    assert (weights == 1).all()
    assert (jax.jit(lambda t: weights_of(t, groups=groups, **settings))(0.0) == 1).all()
    assert (weights_of(jnp.array(0.0), groups=groups, **settings) == 1).all()
    assert (weights_of(lambda step: 0.0 * step, groups=groups, **settings) == 1).all()


@pytest.mark.parametrize("settings", [{}, {"num_groups": 5}, {"num_groups": 5, "group_frequencies": np.ones(5)}])
@pytest.mark.parametrize("t", [1e-30, -1e-30, 1e-12, 1e-6, -1e-6, 1e-3, -1e-3, 0.1, -0.1])
def test_a_tilt_of_any_smallness_is_exact(t, settings):
    weights = weights_of(t, groups=jnp.arange(5) if settings else None, **settings)
    assert_close(weights, reference_tilted.example_weights(np.asarray(LOSSES, float), t), float64=1e-12)


@pytest.mark.parametrize("t", [1e-44, 1e-39, 1e-37, -1e-37, 1e30, -1e30, 3e38, -3e38])
@pytest.mark.parametrize("num_groups", [None, 5])
def test_a_tilt_of_any_size_weighs_and_stays_finite(t, num_groups):
    groups = None if num_groups is None else jnp.arange(5)
    with jax.debug_nans(True):
        weights = weights_of(t, groups=groups, num_groups=num_groups)
    one = np.zeros(5)
    one[LOSSES.argmax() if t > 0 else LOSSES.argmin()] = 5
    assert_close(weights, one if abs(t) > 1 else np.ones(5))


@pytest.mark.parametrize("t", [2.0, -2.0])
def test_without_groups_it_is_absgd_at_the_inverse(t):
    losses = np.random.default_rng(2).gamma(1.0, 1.0, (10, 6))
    ours = problems.played(also_optax.reweight_by_tilted(t, averaging_rate=0.3), losses)
    theirs = problems.played(also_optax.reweight_by_absgd(1 / t, 0.3), losses)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("t", [1.5, -1.5])
def test_groups_of_one_example_are_examples(t):
    losses = np.random.default_rng(2).gamma(1.0, 1.0, (10, 6))
    groups = np.stack([np.random.default_rng(i).permutation(9)[:6] for i in range(10)])
    _, (_, ours) = problems.played(also_optax.reweight_by_tilted(t, num_groups=9), losses, groups)
    _, (_, alone) = problems.played(also_optax.reweight_by_tilted(t), losses)
    assert_close(ours, alone, float32=2e-6)


def test_the_gradient_is_that_of_the_tilted_objective():
    x = jnp.array([0.2, -1.0, 3.0])
    state = also_optax.reweight_by_tilted(1.7).init(None)
    ours = jax.grad(lambda w: also_optax.reweight(state, (w - x) ** 2)[0])(0.5)
    theirs = jax.grad(lambda w: jnp.log(jnp.exp(1.7 * (w - x) ** 2).mean()) / 1.7)(0.5)
    assert_close(ours, theirs, float32=2e-6)


def test_a_schedule_of_t_may_pass_through_zero_with_groups():
    """The averages are in units of the loss: at each t they stand for the same losses."""
    losses, groups = jnp.tile(jnp.array([1.0, 3.0]), (4, 1)), jnp.tile(jnp.array([0, 1]), (4, 1))
    tx = also_optax.reweight_by_tilted(lambda step: 1.0 - step, num_groups=2, averaging_rate=0.2)
    state, (_, weights) = problems.played(tx, losses, groups)
    assert_close(state.tilted_losses, [1, 3])
    for step, t in enumerate([1.0, 0.0, -1.0, -2.0]):
        assert_close(weights[step], reference_tilted.example_weights(np.array([1.0, 3.0]), t))


@pytest.mark.parametrize("t", [-2.0, 2.0])
def test_before_the_first_step_diagnostics_of_groups_are_zero(t):
    state = also_optax.reweight_by_tilted(t, num_groups=3, group_frequencies=[1, 1, 2]).init(None)
    found = also_optax.diagnostics(state)
    assert found["robust_value"] == 0 and found["erm_value"] == 0


@pytest.mark.parametrize("t", [-1.0, 0.0, 1.0])
def test_diagnostics_of_groups_are_the_tilted_mean(t):
    tx = also_optax.reweight_by_tilted(t, num_groups=3, group_frequencies=[1, 1, 2])
    state, _ = problems.played(tx, np.array([[1.0, 0.5]]), np.array([[0, 2]]))  # group 1 is not seen
    with jax.debug_nans(True), jax.disable_jit():
        found = also_optax.diagnostics(state)
    q, means = np.array([1 / 3, 2 / 3]), np.array([1.0, 0.5])
    assert_close(found["robust_value"], np.log(q @ np.exp(t * means)) / t if t else q @ means)
    assert_close(found["erm_value"], q @ means)


def test_absent_groups_weigh_on_those_present_where_frequencies_are_known():
    tx = also_optax.reweight_by_tilted(1.0, num_groups=2, group_frequencies=[1, 1])
    _, (_, weights) = problems.played(tx, np.array([[3.0], [1.0], [1.0]]), np.array([[0], [1], [0]]))
    e = np.exp
    assert_close(weights[:, 0], [1, e(1) / ((e(3) + e(1)) / 2), 1])


# --- Numbers of any size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "rate"), [(1.0, 1.0), (-1.0, 0.3), (1e-3, 1e-6), (1e10, 1e-6), (-1e30, 1.0), (-0.5, 0.3)]
)
def test_losses_to_1e30_leave_finite_weights(t, rate):
    rng = np.random.default_rng(4)
    groups = rng.integers(0, G, (40, 3))
    losses = rng.normal(size=groups.shape) * 10.0 ** rng.uniform(-30, 30, groups.shape)
    losses[::7], losses[::11] = 1e30, -1e30
    for frequencies in (None, [1, 2, 3, 4]):
        tx = also_optax.reweight_by_tilted(t, num_groups=G, averaging_rate=rate, group_frequencies=frequencies)
        with jax.debug_nans(True):
            state, (loss, weights) = problems.played(tx, losses.astype(np.float32), groups)
            found = also_optax.diagnostics(state)
        for leaf in jax.tree.leaves((state._replace(hyperparams=None), loss, weights, found)):
            assert np.isfinite(leaf).all()


def test_a_rate_of_one_forgets_the_largest_loss_at_once():
    tx = also_optax.reweight_by_tilted(1.0, num_groups=2)
    groups = np.tile([0, 1], (2, 1))
    state, _ = problems.played(tx, np.array([[1e30, -1e30], [1.0, 2.0]], np.float32), groups)
    assert state.tilted_losses.tolist() == [1, 2]


# --- The optimizer ----------------------------------------------------------------------------------------------------


def test_the_optimizer_is_adam_behind_the_rule():
    stacked = problems.batches(5)
    for settings, make in (
        ({}, optax.adam(0.02)),
        ({"optimizer": optax.scale_by_lion()}, optax.lion(0.02, weight_decay=0)),
    ):
        tx = also_optax.tilted(0.02, t=0.5, num_groups=3, averaging_rate=0.5, **settings)
        by_hand = optax.chain(also_optax.reweight_by_tilted(0.5, num_groups=3, averaging_rate=0.5), make)
        jax.tree.map(assert_close, problems.train(tx, stacked)[0], problems.train(by_hand, stacked)[0])


def test_t_of_zero_is_adam():
    problem = problems.reference.logistic_problem()
    actual = problems.trajectory(also_optax.tilted(0.05, t=0.0), problem)
    expected = problems.trajectory(optax.adam(0.05), problem, reweighted=False)
    assert_close(actual.params, expected.params, float32=1e-5)
