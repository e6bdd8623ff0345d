"""ABSGD against its equations in NumPy, its special cases, and what it must survive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import problems, reference
from tests.problems import START, trajectory
from tests.reference import absgd as reference_absgd

LOSSES = np.array([0.3, 2.0, 0.1, 5.0, 0.8, 1.1])


def _moving(step):
    """Down from 3 to about 1/2, or up from it, but never across 0."""
    return 0.5 + 2.5 / (1 + 0.2 * step)


def _falling_below_zero(step):
    return -_moving(step)


def _decaying(step):
    return 0.06 / (1 + 0.2 * step)


def _rising_to_one(step):
    return 1 - 0.8 / (1 + 0.3 * step)


def _close(actual, desired, float32=1e-5, float64=1e-10):
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def _compare_with_reference(optimizer, settings, **reference_only):
    problem = reference.logistic_problem()
    expected = reference_absgd.trajectory(problem, START, **settings, **reference_only)
    actual = trajectory(optimizer(**settings, max_log_ratio=jnp.inf), problem)
    _close(actual.params, expected.params)
    _close(actual.weights, expected.weights)
    _close(actual.losses * problem.where, expected.losses * problem.where)


def _step(tx, opt_state, losses):
    """Weights of the batch, and the state after it."""
    losses = jnp.asarray(losses, float)
    weights = also_optax.example_weights(opt_state, losses)
    return weights, tx.update((), opt_state, losses=losses)[1]


# --- The equations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature",
    [np.array([0.4, 5.0, -0.5, -3.0]), _moving, _falling_below_zero],
    ids=["constants", "schedule", "schedule below zero"],
)
def test_the_weights_are_those_of_the_recursion(x64, temperature):
    batches = np.random.default_rng(2).gamma(1.0, size=(25, 6)) * (1 + np.arange(25) % 3)[:, None]
    rates = [0.1, 0.5, 0.9, 1.0]
    grid = [(t, r) for t in ([temperature] if callable(temperature) else temperature) for r in rates]

    @jax.jit
    @jax.vmap
    def run(temperature_now, averaging_rate):
        tx = also_optax.reweight_by_absgd(
            temperature if callable(temperature) else temperature_now,
            averaging_rate=averaging_rate,
            max_log_ratio=jnp.inf,
        )

        def step(opt_state, losses):
            weights, opt_state = _step(tx, opt_state, losses)
            return opt_state, (weights, also_optax.diagnostics(opt_state)["robust_value"])

        return jax.lax.scan(step, tx.init(()), jnp.asarray(batches))[1]

    weights, robust = run(jnp.array([reference.at(t, 0) for t, _ in grid]), jnp.array([r for _, r in grid]))

    for case, (schedule, rate) in enumerate(grid):
        average = previous = None
        for t, losses in enumerate(batches):
            lam = reference.at(schedule, t)
            if average is not None:
                average = average ** (previous / lam)
            expected, average = reference_absgd.weights_of(losses, np.ones(6, bool), average, lam, rate)
            previous = lam
            _close(weights[case, t], expected)
            _close(robust[case, t], lam * np.log(average))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5, "averaging_rate": 0.5},
        {"temperature": -0.7, "averaging_rate": 0.1, "momentum": 0.5, "weight_decay": 0.2},
        {"temperature": 2.0, "averaging_rate": _rising_to_one, "nesterov": True, "weight_decay": 0.1},
        {"temperature": 0.5, "momentum": None},
        {"temperature": _moving, "averaging_rate": 0.3, "learning_rate": _decaying},
        {"temperature": -0.5},
    ],
    ids=["robust", "noise, weight decay", "Nesterov", "no momentum", "schedules", "defaults"],
)
def test_absgd_walks_the_path_of_the_equations(x64, settings):
    reference_only = {"momentum": 0.0} if "momentum" in settings and settings["momentum"] is None else {}
    problem = reference.logistic_problem()
    settings = {"learning_rate": 0.05} | settings
    expected = reference_absgd.trajectory(problem, START, **(settings | reference_only))
    actual = trajectory(also_optax.absgd(**settings, max_log_ratio=jnp.inf), problem)
    _close(actual.params, expected.params)
    _close(actual.weights, expected.weights)


def test_absgd_walks_the_path_of_the_equations_in_the_default_precision():
    _compare_with_reference(
        also_optax.absgd,
        {"learning_rate": 0.05, "temperature": 0.5, "averaging_rate": 0.5, "weight_decay": 0.1},
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5, "averaging_rate": 0.5},
        {"temperature": -0.7, "averaging_rate": 0.1, "weight_decay": 0.2, "learning_rate": _decaying},
    ],
    ids=["robust", "noise, weight decay"],
)
def test_abadam_walks_the_path_of_the_equations(x64, settings):
    _compare_with_reference(also_optax.abadam, {"learning_rate": 0.05} | settings, adam=True)


# --- Special cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "nesterov"), [(np.inf, False), (-np.inf, True)])
def test_at_an_infinite_temperature_absgd_is_sgd_with_momentum(temperature, nesterov):
    problem = reference.logistic_problem(steps=200)
    tx = also_optax.absgd(_decaying, temperature=temperature, momentum=0.8, nesterov=nesterov)
    plain = optax.sgd(_decaying, momentum=0.8, nesterov=nesterov)
    actual, expected = trajectory(tx, problem), trajectory(plain, problem, reweighted=False)
    np.testing.assert_array_equal(actual.weights, problem.where)
    _close(actual.params, expected.params, float32=1e-6, float64=1e-14)


@pytest.mark.parametrize("temperature", [np.inf, -np.inf])
def test_plain_training_has_no_robust_value(temperature):
    tx = also_optax.reweight_by_absgd(temperature)
    _, opt_state = _step(tx, tx.init(()), LOSSES)
    assert also_optax.diagnostics(opt_state)["robust_value"] == 0


def test_at_an_infinite_temperature_abadam_is_adamw():
    problem = reference.logistic_problem(steps=200)
    settings = {"b1": 0.8, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1}
    tx = also_optax.abadam(_decaying, temperature=jnp.inf, **settings)
    actual, expected = (
        trajectory(tx, problem),
        trajectory(optax.adamw(_decaying, **settings), problem, reweighted=False),
    )
    _close(actual.params, expected.params, float32=2e-6, float64=1e-13)


def test_abadam_decays_no_weights_by_default():
    problem = reference.logistic_problem(steps=50)
    actual = trajectory(also_optax.abadam(0.05, temperature=jnp.inf), problem)
    _close(
        actual.params,
        trajectory(optax.adam(0.05), problem, reweighted=False).params,
        float32=2e-6,
        float64=1e-13,
    )


def test_another_optimizer_takes_the_place_of_the_momentum():
    problem = reference.logistic_problem(steps=50)
    tx = also_optax.absgd(0.05, temperature=jnp.inf, optimizer=optax.scale_by_lion(), weight_decay=0.1)
    plain = optax.chain(optax.add_decayed_weights(0.1), optax.scale_by_lion(), optax.sgd(0.05))
    _close(
        trajectory(tx, problem).params,
        trajectory(plain, problem, reweighted=False).params,
        float32=1e-6,
        float64=1e-14,
    )


@pytest.mark.parametrize("temperature", [0.3, -0.5])
def test_at_gamma_one_the_gradient_is_that_of_the_tilted_loss(temperature):
    problem = reference.logistic_problem()
    x, y = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float)
    tx = also_optax.reweight_by_absgd(temperature, averaging_rate=1.0, max_log_ratio=jnp.inf)
    _, opt_state = _step(tx, tx.init(()), LOSSES)  # a past that must not matter
    params = jnp.asarray(START, float)

    def losses_of(params):
        return optax.sigmoid_binary_cross_entropy(x @ params, y)

    def tilted(params):
        return temperature * jnp.log(jnp.mean(jnp.exp(losses_of(params) / temperature)))

    grads = jax.jit(jax.grad(lambda params: also_optax.reweight(opt_state, losses_of(params))[0]))(params)
    _close(grads, jax.jit(jax.grad(tilted))(params), float32=2e-6, float64=1e-13)


@pytest.mark.parametrize("temperature", [0.5, -2.0])
def test_adding_a_constant_to_every_loss_changes_no_weight_at_gamma_one(temperature):
    tx = also_optax.reweight_by_absgd(temperature, averaging_rate=1.0)
    _, opt_state = _step(tx, tx.init(()), LOSSES[::-1] * 0.7)
    weights, _ = _step(tx, opt_state, LOSSES)
    shifted, _ = _step(tx, opt_state, LOSSES + 3.25)
    _close(shifted, weights, float32=5e-6, float64=1e-13)
    assert np.ptp(weights) > 0.3


def test_adding_a_constant_to_every_loss_scales_the_weights_below_gamma_one():
    tx = also_optax.reweight_by_absgd(0.5, averaging_rate=0.5)
    _, opt_state = _step(tx, tx.init(()), LOSSES)
    weights, _ = _step(tx, opt_state, LOSSES)
    shifted, _ = _step(tx, opt_state, LOSSES + 1)
    assert (shifted > 1.1 * weights).all()


def test_a_negative_temperature_gives_an_outlier_less_weight_and_a_positive_one_more():
    for temperature, order in ((-1.0, -1), (1.0, 1)):
        weights, _ = _step(tx := also_optax.reweight_by_absgd(temperature), tx.init(()), LOSSES)
        assert (np.diff(weights[np.argsort(LOSSES)]) * order > 0).all()


@pytest.mark.parametrize("temperature", [0.1, 2.0, 1e6, -0.1, -2.0])
@pytest.mark.parametrize("averaging_rate", [0.1, 0.9])
def test_the_mean_weight_of_the_first_visit_is_one(temperature, averaging_rate):
    tx = also_optax.reweight_by_absgd(temperature, averaging_rate=averaging_rate)
    weights, _ = _step(tx, tx.init(()), LOSSES)
    _close(weights.mean(), 1, float32=1e-5, float64=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 30.0, 1e6])
def test_the_mean_weight_of_the_first_visit_is_one_in_a_batch_of_a_million(temperature):
    """As of tokens: one example far above the rest, and all of them close together."""
    losses = jnp.linspace(0.0, 1.0, 1_000_000).at[3].set(20.0)
    weights = also_optax.example_weights(also_optax.reweight_by_absgd(temperature).init(()), losses)
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)


def test_the_robust_value_of_one_high_loss_among_ten_thousand_keeps_its_digits():
    losses = jnp.zeros(10_000).at[7].set(20.0)
    _, opt_state = _step(tx := also_optax.reweight_by_absgd(1.0), tx.init(()), losses)
    expected = 20 + np.log((1 + 9_999 * np.exp(-20.0)) / 10_000)
    _close(opt_state.robust_value, expected, float32=5e-7, float64=1e-14)


@pytest.mark.parametrize(("temperature", "scale"), [(1e5, 2.0), (1e5, 0.5), (-1e5, 2.0), (-1e5, 0.5)])
def test_the_robust_value_keeps_its_digits_at_a_large_temperature(temperature, scale):
    """Where exp(loss/temperature) has lost all but the first digits of the loss."""
    tx = also_optax.reweight_by_absgd(temperature, averaging_rate=0.25)
    opt_state, average = tx.init(()), None
    for losses in (LOSSES, scale * LOSSES):
        _, opt_state = _step(tx, opt_state, losses)
        _, average = reference_absgd.weights_of(losses, np.ones(6, bool), average, temperature, 0.25)
    np.testing.assert_allclose(opt_state.robust_value, temperature * np.log(average), rtol=2e-6)


# --- Schedules of the temperature -------------------------------------------------------------------------------------


@pytest.mark.parametrize("averaging_rate", [0.1, 0.5, 0.9])
def test_leaving_plain_training_makes_no_spike(averaging_rate):
    """The published recipe in two stages; the losses seen in the first stage are forgotten."""
    two_stages = optax.join_schedules([optax.constant_schedule(jnp.inf), optax.constant_schedule(0.7)], [3])
    tx = also_optax.reweight_by_absgd(two_stages, averaging_rate=averaging_rate)
    opt_state = tx.init(())
    for _ in range(3):
        weights, opt_state = _step(tx, opt_state, LOSSES * 3)
        np.testing.assert_array_equal(weights, np.ones(6))
    at_the_switch, opt_state = _step(tx, opt_state, LOSSES)
    _close(at_the_switch.mean(), 1, float32=1e-5, float64=1e-12)
    assert np.ptp(at_the_switch) > 1

    fresh = also_optax.reweight_by_absgd(0.7, averaging_rate=averaging_rate)
    _, fresh_state = _step(fresh, fresh.init(()), LOSSES)
    after, _ = _step(tx, opt_state, LOSSES / 2)
    _close(after, _step(fresh, fresh_state, LOSSES / 2)[0], float32=1e-5, float64=1e-12)


def test_a_second_return_from_plain_training_is_a_first_visit_too():
    boundaries = [2, 4]
    stages = optax.join_schedules([optax.constant_schedule(v) for v in (0.7, jnp.inf, 0.7)], boundaries)
    tx = also_optax.reweight_by_absgd(stages, averaging_rate=0.1)
    opt_state = tx.init(())
    for _ in range(4):
        weights, opt_state = _step(tx, opt_state, LOSSES * 4)
    np.testing.assert_array_equal(weights, np.ones(6))
    weights, _ = _step(tx, opt_state, LOSSES)
    _close(weights.mean(), 1, float32=1e-5, float64=1e-12)


def test_the_two_stage_recipe_trains_plainly_first(x64):
    problem = reference.logistic_problem()
    expected = reference_absgd.trajectory(
        problem, START, learning_rate=0.05, temperature=lambda t: np.inf if t < 15 else 0.7, averaging_rate=0.5
    )
    two_stages = optax.join_schedules([optax.constant_schedule(jnp.inf), optax.constant_schedule(0.7)], [15])
    tx = also_optax.absgd(0.05, temperature=two_stages, averaging_rate=0.5, max_log_ratio=jnp.inf)
    actual = trajectory(tx, problem)
    _close(actual.params, expected.params)
    _close(actual.weights, expected.weights)


@pytest.mark.parametrize(("before", "after"), [(2.0, 0.5), (0.5, 50.0), (-0.5, -3.0)])
def test_a_change_of_temperature_keeps_the_average_in_units_of_the_loss(before, after):
    """lambda·nu stays: a batch as bad as the average keeps a mean weight of about one."""
    stages = optax.join_schedules([optax.constant_schedule(before), optax.constant_schedule(after)], [1])
    tx = also_optax.reweight_by_absgd(stages, averaging_rate=0.3, max_log_ratio=jnp.inf)
    _, opt_state = _step(tx, tx.init(()), np.full(6, 1.7))
    weights, opt_state = _step(tx, opt_state, np.full(6, 1.7))
    _close(weights, np.ones(6), float32=1e-5, float64=1e-12)
    _close(also_optax.diagnostics(opt_state)["robust_value"], 1.7, float32=1e-5, float64=1e-12)


# --- What it must survive ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averaging_rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("absurd", [np.full(6, 1e4), LOSSES * 2e3, np.append(LOSSES[:5], 1e4)])
def test_one_absurd_batch_starves_no_step_after_it(absurd, averaging_rate):
    tx = also_optax.reweight_by_absgd(0.1, averaging_rate=averaging_rate)
    _, opt_state = _step(tx, tx.init(()), LOSSES / 10)
    weights, opt_state = _step(tx, opt_state, absurd)
    assert np.isfinite(weights).all() and np.isfinite(opt_state.robust_value)
    _close(weights.mean(), 1 / averaging_rate, float32=1e-2, float64=1e-2)
    weights, _ = _step(tx, opt_state, LOSSES / 10)
    _close(weights.mean(), 1, float32=1e-5, float64=1e-12)
    assert np.ptp(weights) > 0.3


@pytest.mark.parametrize(("temperature", "losses"), [(0.1, [-1e3, -1e3 + 0.25]), (-0.1, [1e3, 1e3 + 0.25])])
def test_padding_is_not_what_the_other_weights_are_measured_by(temperature, losses):
    """Padding reads as a loss of 0, beside which exp(loss/temperature) of all others vanishes here."""
    tx = also_optax.reweight_by_absgd(temperature)
    where = jnp.array([True, True, False])
    weights = also_optax.example_weights(tx.init(()), jnp.array([*losses, 0.0]), where=where)
    expected = np.exp(np.array([0.0, 0.25]) / temperature)
    np.testing.assert_allclose(weights, np.append(2 * expected / expected.sum(), 0), rtol=2e-5)


@pytest.mark.parametrize("temperature", [0.5, -0.5])
def test_batches_of_one_example_merge_and_pool_to_the_whole(temperature):
    """The peak is 300 temperatures from the other end, so that only what is relative to the right one is finite."""
    losses = jnp.array([1e4, 1e4 + 0.3, 1e4 - 149.0, 1e4 + 0.9])
    state = also_optax.reweight_by_absgd(temperature).init(())
    parts = [also_optax.observe(state, losses[k : k + 1]) for k in range(4)]
    expected = also_optax.example_weights(state, losses)
    found = also_optax.example_weights(state, losses, statistics=also_optax.merge(*parts))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one_by_one = jax.vmap(lambda loss: also_optax.example_weights(state, loss, axis_name="shards"), axis_name="shards")
    np.testing.assert_allclose(one_by_one(losses[:, None])[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "loss"), [(0.5, -1e4), (-0.5, 1e4)])
def test_losses_far_on_the_other_side_of_zero_merge_with_no_examples(temperature, loss):
    state, losses = also_optax.reweight_by_absgd(temperature).init(()), loss + jnp.array([0.0, 0.3, 0.9])
    parts = [also_optax.observe(state, losses, where=jnp.full(3, valid)) for valid in (False, True)]
    expected = also_optax.example_weights(state, losses)
    for both in (parts, parts[::-1]):
        found = also_optax.example_weights(state, losses, statistics=also_optax.merge(*both))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, -0.5])
def test_statistics_of_no_examples_are_zeros_pooled_too(temperature):
    state = also_optax.reweight_by_absgd(temperature).init(())
    nothing = also_optax.observe(state, jnp.ones(2), where=jnp.zeros(2, bool))
    pooled = jax.vmap(lambda of: of.pool("shards"), axis_name="shards")(jax.tree.map(lambda leaf: leaf[None], nothing))
    for found in (nothing, pooled):
        assert not any(jnp.any(leaf) for leaf in found._replace(temperature=jnp.zeros(())))


@pytest.mark.parametrize(("excess", "restarts"), [(4.5, False), (5.0, False), (5.5, True)])
def test_the_average_restarts_only_past_the_limit(excess, restarts):
    """Batches of equal losses, so that nu is the loss over the temperature, which is 2."""
    tx = also_optax.reweight_by_absgd(2.0, averaging_rate=0.25, max_log_ratio=5.0)
    _, opt_state = _step(tx, tx.init(()), np.full(3, 1.0 + 2 * excess))
    weights, _ = _step(tx, opt_state, np.full(3, 1.0))
    expected = 1 if restarts else 1 / (0.75 * np.exp(excess) + 0.25)
    _close(weights, np.full(3, expected), float32=1e-5, float64=1e-12)


def test_a_sudden_rise_is_no_reason_to_restart():
    tx = also_optax.reweight_by_absgd(2.0, averaging_rate=0.25, max_log_ratio=5.0)
    _, opt_state = _step(tx, tx.init(()), np.full(3, 1.0))
    weights, _ = _step(tx, opt_state, np.full(3, 41.0))
    _close(weights, np.full(3, 4.0), float32=1e-4, float64=1e-7)


@pytest.mark.parametrize("max_log_ratio", [10.0, np.inf])
def test_losses_of_1e30_leave_a_finite_state(max_log_ratio):
    temperatures = jnp.array([0.1, -0.1, 1e-20, -1e-20, 1e-37, 1e20, -1e35, jnp.inf, 0.1, -0.1, 1e-20])
    rates = jnp.array([0.1] * 8 + [1.0] * 3)
    batches = jnp.array([[1e30, 1.0], [1.0, -1e30], [0.5, 0.5], [1e30, 1e30], [1.0, 2.0]])

    @jax.jit
    @jax.vmap
    def run(temperature, averaging_rate):
        tx = also_optax.reweight_by_absgd(temperature, averaging_rate=averaging_rate, max_log_ratio=max_log_ratio)

        def step(opt_state, losses):
            loss, rw = also_optax.reweight(opt_state, losses)
            _, opt_state = tx.update((), opt_state, **rw.extra_args)
            return opt_state, (loss, rw.weights, opt_state.robust_value)

        return jax.lax.scan(step, tx.init(()), batches)[1]

    loss, weights, robust_value = run(temperatures, rates)
    assert np.isfinite(loss).all()
    assert np.isfinite(weights).all() and (weights >= 0).all()
    assert (np.abs(robust_value) <= 1.001e30).all()
    np.testing.assert_allclose(weights[:, 0].mean(axis=1), 1, rtol=1e-5)  # of the first visits


def test_a_grid_of_averaging_rates_up_to_one_trains_under_one_vmap():
    stacked, rates = problems.batches(steps=4), jnp.array([0.1, 0.4, 1.0])
    together = jax.vmap(lambda rate: problems.train(_with_rate(rate), stacked))(rates)
    alone = problems.train(_with_rate(1.0), stacked)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one[2], other, rtol=2e-5, atol=1e-6)


def _with_rate(rate):
    return also_optax.absgd(0.01, temperature=3.0, averaging_rate=rate)
