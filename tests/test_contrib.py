"""Optimistic Mirror-Prox, RECOVER and the table methods, against their recursions and against SciPy's optima."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp, softmax

import also_optax
from also_optax import contrib
from benchmarks.baselines import drago, lsvrg
from tests import problems, reference
from tests.reference import mirror_prox as reference_mirror_prox
from tests.reference import recover as reference_recover

RNG = np.random.default_rng(0)
MATRIX, OFFSETS = RNG.normal(size=(20, 6)), RNG.normal(size=20)
PRIOR = RNG.dirichlet(np.ones(20))
DECAY, PENALTY = 1e-2, 1e-2
TWO = jnp.array([0.5, 1.5])


def _close(actual, desired, float32=1e-5, float64=1e-10):
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def _rotation(**options):
    """Mirror-Prox on affine losses: weakly regularised on both sides, the gradients nearly rotate."""
    defaults = {"learning_rate": 3.0, "dual_learning_rate": 0.03, "kl_penalty": PENALTY, "strong_convexity": DECAY}
    return contrib.mirror_prox(
        lambda x: jnp.asarray(MATRIX, float) @ x + jnp.asarray(OFFSETS, float),
        jnp.zeros(6),
        regulariser=lambda x: DECAY / 2 * jnp.sum(x**2),
        **(defaults | options),
    )


# --- Mirror-Prox: the recursion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimism", [1.0, 0.6, 0.0])
def test_mirror_prox_walks_the_path_of_the_equations(x64, optimism):
    settings = {"learning_rate": 0.5, "dual_learning_rate": 0.3, "kl_penalty": 0.2, "optimism": optimism}
    params, pi = reference_mirror_prox.trajectory(MATRIX, OFFSETS, PRIOR, **settings, decay=DECAY, steps=12)
    for steps in (1, 2, 12):
        result = _rotation(prior=3 * PRIOR, tolerance=0.0, max_steps=steps, **settings)
        assert result.steps == steps
        _close(result.params, params[steps - 1])
        _close(result.weights, pi[steps - 1])


def test_mirror_prox_without_a_dual_step_is_gradient_descent_on_the_loss_weighted_by_the_prior(x64):
    result = _rotation(prior=PRIOR, dual_learning_rate=0.0, optimism=0.0, learning_rate=0.5, tolerance=0, max_steps=9)
    params = np.zeros(6)
    for _ in range(9):
        params = params - 0.5 * (PRIOR @ MATRIX + DECAY * params)
    _close(result.params, params)
    _close(result.weights, PRIOR)


# --- Mirror-Prox: the gap ---------------------------------------------------------------------------------------------


def _value(params, pi, penalty):
    return pi @ (MATRIX @ params + OFFSETS) - penalty * (pi * np.log(pi / PRIOR)).sum() + DECAY / 2 * params @ params


@pytest.mark.parametrize("penalty", [0.01, 0.5])
def test_the_adversarys_gap_is_that_of_brute_force_and_the_sum_bounds_the_duality_gap(x64, penalty):
    for steps in (1, 7, 60):
        result = _rotation(prior=PRIOR, kl_penalty=penalty, tolerance=0.0, max_steps=steps)
        params, pi = np.asarray(result.params), np.asarray(result.weights)
        losses = MATRIX @ params + OFFSETS

        worst = losses.argmax()  # max over p = min over t of t + tau sum prior exp((l - t)/tau - 1), by duality

        def dual(t, losses=losses):
            return t + penalty * PRIOR @ np.exp((losses - t) / penalty - 1)

        bounds = losses[worst] + penalty * (np.log(PRIOR[worst]) - 1.01), losses[worst]
        found = minimize_scalar(dual, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        sampled = np.random.default_rng(steps).dirichlet(0.1 * np.ones(20), size=10_000) + 1e-300
        assert (sampled @ losses - penalty * (sampled * np.log(sampled / PRIOR)).sum(axis=1) <= found.fun + 1e-9).all()
        highest = found.fun + DECAY / 2 * params @ params
        value = _value(params, pi, penalty)
        np.testing.assert_allclose(result.adversary_gaps[-1], highest - value, rtol=1e-5, atol=1e-8)

        best = -pi @ MATRIX / DECAY  # the model's best answer to pi: F is quadratic in the parameters
        duality_gap = highest - _value(best, pi, penalty)
        assert result.gaps[-1] >= duality_gap - 1e-9
        np.testing.assert_allclose(result.gaps[-1], duality_gap, rtol=1e-6)  # tight, the curvature being mu alone


def test_the_loop_stops_at_the_tolerance_and_repeats_the_last_gap():
    result = jax.jit(lambda: _rotation(tolerance=1e-3, max_steps=400))()
    steps = int(result.steps)
    assert 0 < steps < 400
    assert result.gaps.shape == result.adversary_gaps.shape == (400,)
    assert np.isfinite(result.gaps).all()
    assert result.gaps[steps - 2] > 1e-3 >= result.gaps[steps - 1]
    assert (result.gaps[steps:] == result.gaps[steps - 1]).all()
    assert (result.adversary_gaps <= result.gaps).all()


def test_equal_losses_at_the_start_are_no_reason_to_stop():
    """There the adversary has nothing to gain, but the model has; with no strong convexity given, too."""
    inputs = jnp.array([[1.0, 0.5], [-1.0, 0.2], [0.3, 2.0]])
    for convexity in (None, 0.1):
        result = contrib.mirror_prox(
            lambda x: jax.nn.softplus(inputs @ x),
            jnp.zeros(2),
            learning_rate=0.5,
            dual_learning_rate=0.5,
            kl_penalty=1.0,
            regulariser=lambda x: 0.05 * jnp.sum(x**2),
            strong_convexity=convexity,
            tolerance=1e-6,
        )
        assert 5 < result.steps < 1000


def test_a_start_at_the_saddle_makes_no_step():
    result = contrib.mirror_prox(
        lambda x: jnp.stack([x**2, x**2]),
        jnp.array(0.0),
        learning_rate=0.1,
        dual_learning_rate=0.1,
        kl_penalty=1.0,
        max_steps=5,
    )
    assert result.steps == 0
    np.testing.assert_array_equal(result.gaps, 0)


def test_step_sizes_that_are_too_large_stop_at_the_last_finite_point():
    result = contrib.mirror_prox(
        lambda x: jnp.stack([x**2, 3 * (x - 1) ** 2]),
        jnp.array(2.0),
        learning_rate=1e3,
        dual_learning_rate=0.1,
        kl_penalty=1.0,
        max_steps=100,
    )
    assert result.steps < 100
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(leaf).all()
    assert result.gaps[-1] > 1


# --- Mirror-Prox: what it reaches -------------------------------------------------------------------------------------


def test_optimism_needs_less_than_a_fifth_of_the_steps_of_descent_ascent():
    """Each with its own best constant step sizes out of the same grid."""
    rates, dual_rates = 10.0 ** np.arange(0, 1.6, 0.5), 10.0 ** np.arange(-3.0, -0.9, 0.5)
    grid = [jnp.asarray(values.ravel(), float) for values in np.meshgrid(rates, dual_rates)]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def run(rate, dual_rate, optimism):
        return _rotation(
            learning_rate=rate, dual_learning_rate=dual_rate, optimism=optimism, tolerance=1e-3, max_steps=1500
        )

    fewest = {}
    for optimism in (1.0, 0.0):
        result = run(*grid, optimism)
        reached = np.asarray(result.gaps[:, -1]) <= 1e-3
        assert reached.any()
        fewest[optimism] = np.where(reached, result.steps, np.inf).min()
    assert 5 * fewest[1.0] <= fewest[0.0]


def test_mirror_prox_reaches_the_optimum_of_kl_dro_over_single_examples():
    data = np.load(Path(__file__).parent / "reference" / "four_groups_logistic.npz")
    x, y, l2 = jnp.asarray(data["X"], float), jnp.asarray(data["y"], float), float(data["l2"])

    def losses_of(params):
        return jax.nn.softplus(-y * (x @ params["w"] + params["b"]))

    result = jax.jit(
        lambda: contrib.mirror_prox(
            losses_of,
            {"w": jnp.zeros(5), "b": jnp.zeros(())},
            learning_rate=1.0,
            dual_learning_rate=0.3,
            kl_penalty=1.0,
            regulariser=lambda params: l2 / 2 * jnp.sum(params["w"] ** 2),
            tolerance=1e-8,
            max_steps=500,
        )
    )()
    losses = np.asarray(losses_of(result.params), np.float64)
    objective = logsumexp(losses) - np.log(losses.size) + l2 / 2 * np.sum(np.asarray(result.params["w"]) ** 2)
    np.testing.assert_allclose(objective, data["kl_sample_tau1.0_objective"], atol=1e-5)
    params = np.append(result.params["w"], result.params["b"])
    np.testing.assert_allclose(params, data["kl_sample_tau1.0_params"], atol=1e-3)
    np.testing.assert_allclose(result.weights, softmax(losses), rtol=1e-3)


# --- RECOVER ----------------------------------------------------------------------------------------------------------


def _recover_trajectory(method, problem):
    x, y = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float)

    def losses_of(params, rows):
        return optax.sigmoid_binary_cross_entropy(x[rows] @ params, y[rows])

    def step(carry, batch):
        (params, state), (rows, where) = carry, batch
        updates, state = method.update(losses_of, state, params, rows, where=where)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state.log_mean, state.restarts)

    start = jnp.asarray(problems.START, float)
    batches = (jnp.asarray(problem.batches), jnp.asarray(problem.where))
    return jax.jit(lambda: jax.lax.scan(step, (start, method.init(start)), batches)[1])()


@pytest.mark.parametrize(
    ("temperature", "rate"), [(2.0, 0.3), (-1.5, 0.1), (0.5, lambda step: 0.5 / (1 + step) ** 0.3)]
)
def test_recover_walks_the_path_of_the_equations(temperature, rate):
    problem = reference.logistic_problem()
    settings = {"learning_rate": 0.1, "temperature": temperature, "averaging_rate": rate}
    params, value = reference_recover.trajectory(problem, problems.START, **settings)
    ours, log_mean, restarts = _recover_trajectory(contrib.recover(**settings), problem)
    assert restarts[-1] == 0
    _close(ours, params)
    _close(temperature * log_mean, value)


@pytest.mark.parametrize("temperature", [1.3, -2.0, np.inf])
def test_recover_at_averaging_rate_one_is_absgd_at_averaging_rate_one(temperature):
    problem = reference.logistic_problem()
    ours, _, _ = _recover_trajectory(contrib.recover(0.1, temperature, 1.0), problem)
    absgd = also_optax.absgd(0.1, temperature=temperature, averaging_rate=1.0, momentum=0.0)
    _close(ours, problems.trajectory(absgd, problem).params)


def test_recover_on_full_batches_is_gradient_descent_on_the_objective_at_any_averaging_rate():
    problem = reference.logistic_problem()
    rows = np.arange(60)
    full = problem._replace(batches=np.tile(rows, (15, 1)), where=np.ones((15, 60), bool))
    x, y = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float)

    def objective(params):
        return 0.7 * jax.nn.logsumexp(optax.sigmoid_binary_cross_entropy(x @ params, y) / 0.7)

    params, path = jnp.asarray(problems.START, float), []
    for _ in range(15):
        params = params - 0.2 * jax.grad(objective)(params)
        path.append(params)
    for rate in (0.05, 0.9):
        ours, _, _ = _recover_trajectory(contrib.recover(0.2, 0.7, rate), full)
        _close(ours, path, float32=3e-5)


def test_recover_comes_nearer_to_the_optimum_than_the_batchs_own_objective():
    """Batches of two tell little of a softmax over all: their own objective has another minimum."""
    problem = reference.logistic_problem(steps=4000, batch_size=2)
    problem = problem._replace(where=np.ones_like(problem.where), inputs=problem.inputs / 2)

    def objective(params):
        return 0.5 * logsumexp(reference.logistic_losses(params, problem.inputs, problem.labels)[0] / 0.5)

    optimum = minimize(objective, np.zeros(4), options={"gtol": 1e-8}).x
    away = {}
    for rate in (1.0, 0.05):
        params, _, _ = _recover_trajectory(contrib.recover(0.05, 0.5, rate), problem)
        away[rate] = np.linalg.norm(np.asarray(params[-2000:]).mean(axis=0) - optimum)
    assert away[0.05] < away[1.0] / 3


def test_recover_neither_overflows_nor_stalls_at_any_ratio_of_loss_to_temperature():
    """Losses of 1e4 temperatures that fall to a few: raw exponentials overflow, and an estimate stays stuck above."""
    method = contrib.recover(optax.exponential_decay(0.3, 1, 0.93), temperature=0.01, averaging_rate=0.2)
    targets = jnp.array([[0.0, 1.0], [-1.0, 0.5], [-0.3, 0.4]])

    def losses_of(x):
        return jnp.sum((x[None] - targets) ** 2, axis=-1)

    def step(carry, _):
        params, state = carry
        updates, state = method.update(losses_of, state, params)
        return (optax.apply_updates(params, updates), state), state.log_mean

    start = jnp.array([7.0, -8.0])
    with jax.debug_nans(True):
        run = jax.jit(lambda: jax.lax.scan(step, (start, method.init(start)), length=100))
        (params, state), log_means = run()
    assert log_means[0] > 1e4
    assert np.isfinite(log_means).all()
    np.testing.assert_allclose(params, [-0.5, 0.75], atol=0.02)  # midway between the two farthest from each other
    assert log_means[-1] < 40
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(("old", "new"), [(5.0, 0.0), (2.1725, 2.0)])
def test_recover_starts_anew_where_the_recursion_leaves_nothing_of_u_or_less_than_the_batch_would(old, new):
    """The batch is worse at the old parameters than all before: u is 1 + .9 (1 - 148) = -131, and .39 below .1 e^2."""
    method = contrib.recover(1.0, temperature=1.0, averaging_rate=0.1)
    state = method.init(jnp.array(0.0))
    _, state = method.update(lambda x: 0 * x[None], state, jnp.array(0.0))
    _, state = method.update(lambda x: old + (new - old) * x[None], state, jnp.array(1.0))
    assert state.restarts == 1
    _close(state.log_mean, new)
    _close(state.direction, new - old)


@pytest.mark.parametrize(("limit", "log_mean"), [(10.0, 0.0), (60.0, 50 + np.log(0.9))])
def test_one_absurd_loss_starves_later_batches_only_within_the_limit(limit, log_mean):
    method = contrib.recover(1.0, temperature=1.0, averaging_rate=0.1, max_log_ratio=limit)
    state = method.init(jnp.array(0.0))
    for loss in (50.0, 0.0):
        _, state = method.update(lambda x, loss=loss: loss + x[None], state, jnp.array(0.0))
    _close(state.log_mean, log_mean)


def test_recover_leaves_out_padding_and_what_is_not_finite_and_stands_still_without_examples():
    method = contrib.recover(0.1, temperature=1.0, max_loss=100.0)
    params = {"x": jnp.array(0.5, jnp.bfloat16)}

    def losses_of(params, y):
        return params["x"] * 0 + y + jnp.array([1.0, 2.0, 3.0, 4.0]) * params["x"]

    where = jnp.array([True, True, True, False])
    bad = jnp.array([0.0, 1e3, 1.0, jnp.inf])
    updates, state = method.update(losses_of, method.init(params), params, bad, where=where)
    assert state.rejected == 1 and state.step == 1
    weights = softmax([0.5, 2.5])
    np.testing.assert_allclose(updates["x"].astype(float), -0.1 * weights @ [1.0, 3.0], rtol=0.02)
    assert updates["x"].dtype == jnp.bfloat16 and state.direction["x"].dtype == jnp.float32
    updates, still = method.update(losses_of, state, params, jnp.full(4, jnp.nan), where=where)
    assert updates["x"] == 0 and still.step == 1 and still.rejected == 4
    _close(still.log_mean, state.log_mean)


def test_recover_takes_an_optimizer_for_its_direction_and_a_grid_of_temperatures():
    problem = reference.logistic_problem()

    def last(temperature):
        method = contrib.recover(0.05, temperature, 0.2, optimizer=optax.scale_by_adam())
        return _recover_trajectory(method, problem)[0][-1]

    temperatures = [0.5, 2.0]
    _close(jax.vmap(last)(jnp.array(temperatures)), [last(t) for t in temperatures])


# --- Tables of all examples -------------------------------------------------------------------------------------------


def _regression():
    """Forty examples, one in five of them noisy, with a squared loss."""
    rng = np.random.default_rng(1)
    x = 0.5 * rng.normal(size=(40, 3)) + 0.2
    return x, x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=40) * np.where(np.arange(40) % 5 == 0, 2, 0.3) + 0.5


def _squared(score, label):
    return (score - label) ** 2 / 2


def _kl_weights(losses):
    return jax.nn.softmax(losses)


def _chi2_weights(losses):
    """argmax of <q, l> - 2 n sum((q - 1/n)^2) on the simplex, by water-filling."""
    descending = jnp.sort(losses)[::-1]
    scale = 4 * losses.size
    counts = jnp.arange(1, losses.size + 1)
    levels = (jnp.cumsum(descending) + scale * (counts / losses.size - 1)) / counts
    level = levels[jnp.sum(descending - levels + scale / losses.size > 0) - 1]
    return jnp.maximum((losses - level) / scale + 1 / losses.size, 0)


def _kl_objective(losses):
    return logsumexp(losses) - np.log(losses.size)


def _chi2_objective(losses):
    q = np.asarray(_chi2_weights(jnp.asarray(losses)))
    assert abs(q.sum() - 1) < 1e-12
    return q @ losses - 2 * losses.size * np.sum((q - 1 / losses.size) ** 2)


def _optimum(objective):
    x, y = _regression()
    return minimize(
        lambda t: objective((x @ t - y) ** 2 / 2) + t @ t / 2, np.zeros(3), method="BFGS", options={"gtol": 1e-7}
    )


@pytest.mark.parametrize(
    ("worst_weights", "objective"), [(_kl_weights, _kl_objective), (_chi2_weights, _chi2_objective)]
)
def test_lsvrg_reaches_the_optimum(x64, worst_weights, objective):
    x, y = _regression()
    optimum = _optimum(objective)
    params, weights = lsvrg(
        _squared,
        worst_weights,
        jnp.asarray(x),
        jnp.asarray(y),
        jax.random.key(0),
        learning_rate=0.01,
        weight_decay=1.0,
        passes=60,
    )
    losses = (x @ np.asarray(params) - y) ** 2 / 2
    assert abs(objective(losses) + np.sum(params**2) / 2 - optimum.fun) < 1e-6
    np.testing.assert_allclose(params, optimum.x, atol=1e-6)
    np.testing.assert_allclose(weights, worst_weights(losses), atol=1e-12)


@pytest.mark.parametrize("block_size", [1, 4])
def test_drago_reaches_the_optimum(x64, block_size):
    x, y = _regression()
    optimum = _optimum(_kl_objective)
    settings = {"rate": 0.01, "kl_penalty": 1.0, "weight_decay": 1.0, "block_size": block_size, "passes": 300}
    params, weights = drago(_squared, jnp.asarray(x), jnp.asarray(y), jax.random.key(0), **settings)
    np.testing.assert_allclose(params, optimum.x, atol=1e-6)
    np.testing.assert_allclose(weights, softmax((x @ optimum.x - y) ** 2 / 2), atol=1e-6)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _rotation(learning_rate=0.0), ValueError, "`learning_rate` must be above 0"),
        (lambda: _rotation(dual_learning_rate=-1.0), ValueError, "`dual_learning_rate` must be at least 0"),
        (lambda: _rotation(kl_penalty=-1.0), ValueError, "`kl_penalty` must be at least 0"),
        (lambda: _rotation(optimism=np.nan), ValueError, "`optimism` must be at least 0"),
        (lambda: _rotation(strong_convexity=0.0), ValueError, "`strong_convexity` must be above 0"),
        (lambda: _rotation(tolerance=-1e-3), ValueError, "`tolerance` must be at least 0"),
        (lambda: _rotation(max_steps=3.0), TypeError, "`max_steps` must be a Python int"),
        (lambda: _rotation(prior=[0.5, 0.5]), ValueError, "`prior` must have one entry"),
        (
            lambda: contrib.mirror_prox(jnp.sum, TWO, learning_rate=1, dual_learning_rate=1, kl_penalty=1),
            ValueError,
            r"`per_example_loss` must give losses of shape \[n\], not averaged",
        ),
        (lambda: contrib.recover(0.1, 0.0), ValueError, "`temperature` must be a number other than 0"),
        (lambda: contrib.recover(0.1, 1.0, 0.0), ValueError, r"`averaging_rate` must be in \(0, 1\]"),
        (lambda: contrib.recover(0.1, 1.0, max_log_ratio=0), ValueError, "`max_log_ratio` must be above 0"),
        (lambda: contrib.recover(0.1, optax.constant_schedule(1.0)), TypeError, "only `learning_rate` and"),
        (
            lambda: drago(
                _squared,
                TWO[:, None],
                TWO,
                jax.random.key(0),
                rate=1,
                kl_penalty=1,
                weight_decay=1,
                block_size=3,
                passes=1,
            ),
            ValueError,
            "`block_size` must divide the number of examples, 2, got 3",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(make, error, message):
    with pytest.raises(error, match=message):
        make()
