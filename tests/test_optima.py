"""On whole batches of convex problems the optimizers end where a float64 solver ends: objective, model and weights."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, special
from sklearn import datasets

import also_optax
from tests.reference import chi2 as reference_chi2

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def four_groups():
    """A logistic regression on groups of 1412, 76, 20 and 492, and its optima, with gradients of 1e-10."""
    return dict(np.load(Path(__file__).parent / "reference" / "four_groups_logistic.npz"))


class Logistic(NamedTuple):
    """A logistic regression with l2 on all but the intercept, in NumPy: losses, their gradients, and the optimum."""

    inputs: np.ndarray
    signs: np.ndarray
    l2: float

    def losses(self, params):
        return np.logaddexp(0, -self.signs * (self.inputs @ params))

    def gradients(self, params):
        return -(self.signs * special.expit(-self.signs * (self.inputs @ params)))[:, None] * self.inputs

    def ridge(self, params):
        return 0.5 * self.l2 * params[:-1] @ params[:-1]

    def minimum(self, value, weights):
        """By BFGS, of value(losses) plus the ridge; `weights` are its derivatives by the losses."""

        def objective(params):
            return value(self.losses(params)) + self.ridge(params)

        def gradient(params):
            return weights(self.losses(params)) @ self.gradients(params) + self.l2 * np.append(params[:-1], 0)

        start = np.zeros(self.inputs.shape[1])
        found = optimize.minimize(objective, start, jac=gradient, method="BFGS", options={"gtol": 1e-9})
        assert np.abs(found.jac).max() < 1e-7
        return found.fun, found.x


@functools.cache
def breast_cancer():
    data = datasets.load_breast_cancer()
    inputs = data.data[:, :10]
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    return Logistic(np.column_stack([inputs, np.ones(len(inputs))]), 2.0 * data.target - 1, 0.01)


@functools.cache
def grouped():
    problem = four_groups()
    return Logistic(np.column_stack([problem["X"], np.ones(2000)]), problem["y"], float(problem["l2"]))


def by_group(values):
    groups = four_groups()["groups"]
    return np.array([values[groups == group].mean(axis=0) for group in range(4)])


def trained(problem, tx, steps, groups=None):
    """Parameters, state, and the mean of the example weights over the last two thousand steps or so."""
    inputs, signs = jnp.asarray(problem.inputs), jnp.asarray(problem.signs)

    def step(_, carry):
        params, opt_state, average = carry

        def loss_fn(params):
            losses = jax.nn.softplus(-signs * (inputs @ params))
            loss, rw = also_optax.reweight(opt_state, losses, groups)
            return loss + 0.5 * problem.l2 * jnp.sum(params[:-1] ** 2), rw

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return optax.apply_updates(params, updates), opt_state, average + 0.002 * (rw.weights - average)

    start = jnp.zeros(inputs.shape[1])
    carry = start, tx.init(start), jnp.ones(len(signs))
    result = jax.jit(lambda: jax.lax.fori_loop(0, steps, step, carry))()
    return np.asarray(result[0]), result[1], np.array(result[2])


def decaying(learning_rate, steps, end=1e-4):
    return optax.exponential_decay(learning_rate, steps, end)


def log_mean_exp(values, temperature):
    return temperature * (special.logsumexp(values / temperature) - np.log(values.size))


def assert_optimal(name, objective, params):
    np.testing.assert_allclose(objective, four_groups()[f"{name}_objective"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(params, four_groups()[f"{name}_params"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("kl_penalty", "dual_learning_rate"), [(1.0, 1.0), (0.1, 0.5), (0.01, 0.3)])
def test_also_finds_the_saddle_point_of_the_groups(kl_penalty, dual_learning_rate):
    counts = np.bincount(four_groups()["groups"])
    tx = also_optax.also(
        decaying(0.05, 3000),
        4,
        dual_learning_rate=dual_learning_rate,
        kl_penalty=kl_penalty,
        group_frequencies=counts,
        weight_decay=0.0,
    )
    problem = grouped()
    params, opt_state, _ = trained(problem, tx, 3000, jnp.asarray(four_groups()["groups"]))
    objective = log_mean_exp(by_group(problem.losses(params)), kl_penalty) + problem.ridge(params)
    assert_optimal(f"kl_group_tau{kl_penalty}", objective, params)
    expected = four_groups()[f"kl_group_tau{kl_penalty}_pi"]
    np.testing.assert_allclose(also_optax.group_weights(opt_state), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kl_penalty", [1.0, 0.3])
def test_also_finds_the_saddle_point_of_single_examples(kl_penalty):
    tx = also_optax.also(decaying(0.05, 1500), 2000, dual_learning_rate=1.0, kl_penalty=kl_penalty, weight_decay=0.0)
    problem = grouped()
    params, _, _ = trained(problem, tx, 1500, jnp.arange(2000))
    objective = log_mean_exp(problem.losses(params), kl_penalty) + problem.ridge(params)
    assert_optimal(f"kl_sample_tau{kl_penalty}", objective, params)


def test_also_within_a_radius_finds_the_saddle_point_of_the_ball():
    tx = also_optax.also(decaying(0.05, 800), 2000, dual_learning_rate=10.0, radius=0.2, weight_decay=0.0)
    problem = grouped()
    params, opt_state, _ = trained(problem, tx, 800, jnp.arange(2000))
    losses, dual = problem.losses(params), four_groups()["kl_ball0.2_dual"]
    pi = also_optax.group_weights(opt_state)
    assert_optimal("kl_ball0.2", pi @ losses + problem.ridge(params), params)
    np.testing.assert_allclose(pi, special.softmax(losses / dual), rtol=1e-3)
    found = also_optax.diagnostics(opt_state)
    np.testing.assert_allclose(found["kl"], 0.2, rtol=1e-9)
    assert 0 <= found["gap"] < 1e-6


@pytest.mark.parametrize("setting", [{"temperature": 0.3}, {"radius": 0.2}], ids=["temperature", "radius"])
def test_abadam_finds_the_optimum_of_the_batch(setting):
    tx = also_optax.abadam(decaying(0.05, 800), **setting, averaging_rate=1.0, weight_decay=0.0)
    problem = grouped()
    params, _, _ = trained(problem, tx, 800)
    losses = problem.losses(params)
    if "radius" in setting:
        state = also_optax.reweight_by_absgd(radius=0.2, averaging_rate=1.0).init(None)
        name, value = "kl_ball0.2", np.mean(also_optax.example_weights(state, jnp.asarray(losses)) * losses)
    else:
        name, value = "kl_sample_tau0.3", log_mean_exp(losses, 0.3)
    assert_optimal(name, value + problem.ridge(params), params)


# --- Problems whose optimum SciPy finds here --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "weights"),
    [
        ({"penalty": 0.5}, reference_chi2.penalty_value, reference_chi2.penalty_weights),
        ({"radius": 0.5}, reference_chi2.ball_value, reference_chi2.ball_weights),
    ],
    ids=["penalty", "radius"],
)
def test_chi2_finds_the_optimum_of_breast_cancer(setting, value, weights):
    problem, (number,) = breast_cancer(), setting.values()
    rule = also_optax.reweight_by_chi2(**setting)
    params, _, _ = trained(problem, optax.chain(rule, optax.adam(decaying(0.1, 4000))), 4000)
    size = len(problem.signs)
    optimum, best = problem.minimum(lambda losses: value(losses, number), lambda losses: weights(losses, number) / size)
    assert value(problem.losses(params), number) + problem.ridge(params) - optimum <= 1e-5
    found = np.asarray(also_optax.example_weights(rule.init(None), jnp.asarray(problem.losses(params))))
    np.testing.assert_allclose(found / size, weights(problem.losses(best), number) / size, rtol=0, atol=1e-3)


@pytest.mark.parametrize("t", [2.0, -0.5])
def test_tilted_finds_the_optimum_of_breast_cancer(t):
    problem = breast_cancer()
    params, _, _ = trained(problem, also_optax.tilted(decaying(0.1, 4000), t=t), 4000)
    size = len(problem.signs)

    def value(losses):
        return (special.logsumexp(t * losses) - np.log(size)) / t

    optimum, best = problem.minimum(value, lambda losses: special.softmax(t * losses))
    assert value(problem.losses(params)) + problem.ridge(params) - optimum <= 1e-5
    pair = (special.softmax(t * problem.losses(at)) for at in (params, best))
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-3)


def test_cvar_is_within_1e_5_of_a_bound_that_no_model_can_pass():
    """No robust value is below the least mean under weights of the set; BFGS finds that for the weights of the end."""
    problem, alpha = breast_cancer(), 0.2
    params, _, average = trained(problem, also_optax.cvar(decaying(0.05, 6000, 1e-6), alpha=alpha), 6000)
    weights = np.minimum(average / average.mean(), 1 / alpha)
    weights /= weights.sum()
    assert weights.max() <= (1 + 1e-6) / (alpha * len(weights))
    bound, _ = problem.minimum(lambda losses: weights @ losses, lambda losses: weights)
    ordered = np.sort(problem.losses(params))[::-1]
    share = alpha * len(ordered)
    whole = int(share)
    value = (ordered[:whole].sum() + (share - whole) * ordered[whole]) / share
    assert -1e-6 <= value + problem.ridge(params) - bound <= 1e-5


def test_tilted_groups_find_the_optimum_of_their_means():
    problem, t = grouped(), 10.0
    groups, shares = jnp.asarray(four_groups()["groups"]), np.bincount(four_groups()["groups"]) / 2000
    tx = also_optax.tilted(decaying(0.05, 3000), t=t, num_groups=4)
    params, _, _ = trained(problem, tx, 3000, groups)

    def value(losses):
        return special.logsumexp(t * by_group(losses), b=shares) / t

    def weights(losses):
        pi = special.softmax(t * by_group(losses) + np.log(shares))
        return (pi / shares)[four_groups()["groups"]] / 2000

    optimum, best = problem.minimum(value, weights)
    assert value(problem.losses(params)) + problem.ridge(params) - optimum <= 1e-5
    np.testing.assert_allclose(params, best, rtol=0, atol=1e-3)


def test_group_dro_finds_the_saddle_point_of_the_worst_mean():
    """The optimum by SLSQP, the worst mean as a variable; the weights are its multipliers."""
    problem = grouped()
    groups = jnp.asarray(four_groups()["groups"])
    adam = optax.scale_by_adam(b1=0.0)  # momentum sets the game spinning
    tx = also_optax.group_dro(decaying(0.02, 4000, 1e-3), 4, step_size=2.0, weight_decay=0.0, optimizer=adam)
    params, opt_state, _ = trained(problem, tx, 4000, groups)

    def ridge_gradient(at):
        return problem.l2 * np.append(at[:-1], 0)

    best = optimize.minimize(
        lambda z: z[-1] + problem.ridge(z[:-1]),
        np.append(np.zeros(6), 1.0),
        jac=lambda z: np.append(ridge_gradient(z[:-1]), 1.0),
        constraints={
            "type": "ineq",
            "fun": lambda z: z[-1] - by_group(problem.losses(z[:-1])),
            "jac": lambda z: np.column_stack([-by_group(problem.gradients(z[:-1])), np.ones(4)]),
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    at = best.x[:-1]
    multipliers, residual = optimize.nnls(
        np.vstack([by_group(problem.gradients(at)).T, np.ones(4)]), np.append(-ridge_gradient(at), 1.0)
    )
    assert residual < 1e-6
    assert abs(by_group(problem.losses(params)).max() + problem.ridge(params) - best.fun) <= 1e-5
    np.testing.assert_allclose(also_optax.group_weights(opt_state), multipliers, rtol=0, atol=1e-3)
