"""ALSO against its equations in NumPy, its special cases, and what it must survive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import reference
from tests.reference import also as reference_also

G = 5
PRIOR = np.array([0.1, 0.3, 0.05, 0.35, 0.2])
PRIOR_WITH_A_ZERO = np.array([3.0, 0.0, 1.0, 2.0, 1.5])
COUNTS = np.array([27.0, 15.0, 9.0, 6.0, 3.0])
STRENGTH = {"dual_learning_rate": 0.3, "kl_penalty": 0.4}


def _decaying(step):
    return 0.06 / (1 + 0.2 * step)


def _growing(step):
    return 0.1 * (1 + 0.1 * step)


CASES = {
    "the paper's form": {},
    "prior with a zero": {"prior": PRIOR_WITH_A_ZERO},
    "group frequencies": {"prior": PRIOR, "group_frequencies": COUNTS},
    "drawn from pi": {"prior": PRIOR, "group_frequencies": "pi"},
    "half the optimism, group frequencies": {"prior": PRIOR, "optimism": 0.5, "group_frequencies": COUNTS},
    "no optimism": {"prior": PRIOR, "optimism": 0, "group_frequencies": COUNTS},
    "an array of no optimism": {"prior": PRIOR, "optimism": np.array(0.0), "group_frequencies": COUNTS},
    "weight decay": {"prior": PRIOR, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-4},
    "schedules": {"prior": PRIOR, "dual_learning_rate": _decaying, "kl_penalty": _growing, "learning_rate": _decaying},
    "one weight per example": {"num_groups": 60, "prior": np.linspace(1, 3, 60)},
    "look-ahead, half the optimism, schedules, weight decay": {
        "lookahead": True,
        "prior": PRIOR,
        "optimism": 0.5,
        "learning_rate": _decaying,
        "dual_learning_rate": _growing,
        "weight_decay": 0.3,
    },
    "look-ahead, group frequencies": {"lookahead": True, "group_frequencies": COUNTS},
    "look-ahead, drawn from pi": {"lookahead": True, "prior": PRIOR, "group_frequencies": "pi"},
}


def _close(actual, desired, float32=1e-5, float64=1e-10):
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def _start(dimension):
    return np.linspace(0.3, -0.4, dimension)


def _train(tx, problem):
    """The trajectory of `tx`, in one scan."""
    x, y, groups = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float), jnp.asarray(problem.groups)

    def step(carry, batch):
        (params, opt_state), (rows, where) = carry, batch

        def loss_fn(params):
            losses = optax.sigmoid_binary_cross_entropy(x[rows] @ params, y[rows])
            return also_optax.reweight(opt_state, losses, groups[rows], where=where)

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        params = optax.apply_updates(params, updates)
        point = also_optax.eval_params(opt_state, params)
        return (params, opt_state), reference.Trajectory(
            point, rw.losses, rw.weights, also_optax.group_weights(opt_state)
        )

    params = jnp.asarray(_start(x.shape[1]), float)
    batches = (jnp.asarray(problem.batches), jnp.asarray(problem.where))
    (_, opt_state), trajectory = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches))()
    return trajectory, opt_state


def _compare_with_reference(settings):
    settings = {"learning_rate": 0.05, "num_groups": G} | STRENGTH | settings
    problem = reference.logistic_problem(per_example=settings["num_groups"] == 60)
    expected = reference_also.trajectory(problem, _start(4), **settings)
    trajectory, _ = _train(also_optax.also(**settings), problem)
    for name in reference.Trajectory._fields:
        actual = getattr(trajectory, name)
        if name == "losses":  # of padding the package makes no promise
            actual = actual * problem.where
            expected = expected._replace(losses=expected.losses * problem.where)
        _close(actual, getattr(expected, name))


def _dual_steps(tx, losses, groups, where=None):
    """The rule's state after all batches ``[T, B]``, and pi after each."""

    def step(opt_state, batch):
        _, opt_state = tx.update((), opt_state, **batch)
        return opt_state, also_optax.group_weights(opt_state)

    batches = {"losses": jnp.asarray(losses, float), "groups": jnp.asarray(groups)}
    if where is not None:
        batches["where"] = jnp.asarray(where)
    return jax.jit(lambda: jax.lax.scan(step, tx.init(()), batches))()


def _random_batches(steps, batch_size, num_groups=G, seed=3):
    rng = np.random.default_rng(seed)
    groups = rng.choice(num_groups, size=(steps, batch_size), p=np.arange(1, num_groups + 1) / _triangle(num_groups))
    return rng.gamma(1.5, size=groups.shape) * (1 + 0.3 * groups), groups


def _triangle(n):
    return n * (n + 1) / 2


# --- The equations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_also_walks_the_path_of_the_equations(x64, case):
    _compare_with_reference(CASES[case])


@pytest.mark.parametrize(
    "settings",
    [
        CASES["look-ahead, half the optimism, schedules, weight decay"],
        {"num_groups": 60, "prior": np.linspace(1, 3, 60), "dual_learning_rate": 0.02},
    ],
    ids=["look-ahead", "one weight per example"],
)
def test_also_walks_the_path_of_the_equations_in_the_default_precision(settings):
    _compare_with_reference(settings)


def test_the_problem_is_worth_the_comparison():
    """Groups are absent from batches, entries masked, the weights move far and single ones count."""
    problem = reference.logistic_problem()
    present = [set(problem.groups[rows][where]) for rows, where in zip(problem.batches, problem.where, strict=True)]
    assert any(len(groups) <= 2 for groups in present)
    assert set.union(*present) == set(range(G))
    assert not problem.where.all()
    path = reference_also.trajectory(problem, _start(4), G, learning_rate=0.05, prior=PRIOR, **STRENGTH)
    assert np.abs(path.pi - PRIOR).max() > 0.3
    assert np.abs(path.params[-1] - _start(4)).max() > 0.5


@pytest.mark.parametrize("group_frequencies", [None, COUNTS, "pi"], ids=["sums", "means", "pi"])
def test_the_rule_alone_walks_the_dual_path(x64, group_frequencies):
    losses, groups = _random_batches(30, 6)
    where = np.random.default_rng(0).random(groups.shape) < 0.8
    where[:, -1] = True
    if isinstance(group_frequencies, str):  # a group of weight 0 is never drawn
        groups = np.where(groups == 1, 0, groups)
    settings = {"prior": PRIOR_WITH_A_ZERO, "group_frequencies": group_frequencies}
    optimisms, rates = np.array([0.0, 0.5, 1.0]), np.array([0.01, 0.05, 0.05])

    @jax.vmap
    def run(optimism, rate):
        tx = also_optax.reweight_by_also(G, dual_learning_rate=rate, kl_penalty=0.4, optimism=optimism, **settings)
        return _dual_steps(tx, losses, groups, where)[1]

    for path, optimism, rate in zip(run(optimisms, rates), optimisms, rates, strict=True):
        pi = prior = PRIOR_WITH_A_ZERO / PRIOR_WITH_A_ZERO.sum()
        previous = None
        for step in range(30):
            q = reference_also.frequencies_of(group_frequencies, G, pi)
            h = reference_also.dual_gradient(losses[step], groups[step], where[step], q)
            previous = h if previous is None else previous
            pi, previous = reference_also.prox(pi, (1 + optimism) * h - optimism * previous, prior, rate, 0.4), h
            _close(path[step], pi)
        assert pi[1] == 0


def test_losses_of_sequences_count_like_flattened_examples():
    rng = np.random.default_rng(5)
    losses, groups = rng.gamma(1.0, size=(20, 4, 3)), rng.integers(G, size=(20, 4))
    where = rng.random((20, 4, 3)) < 0.8
    where[:, 0, 0] = True
    tx = also_optax.reweight_by_also(G, **STRENGTH, prior=PRIOR, group_frequencies=COUNTS)
    state, path = _dual_steps(tx, losses, groups, where)
    flat_groups = np.repeat(groups, 3, axis=1)
    flat_state, flat_path = _dual_steps(tx, losses.reshape(20, 12), flat_groups, where.reshape(20, 12))
    _close(path, flat_path, float32=2e-6, float64=1e-14)

    last, flat_last = jnp.asarray(losses[-1], float), jnp.asarray(losses[-1].reshape(12), float)
    weights = also_optax.example_weights(state, last, groups[-1], where=where[-1])
    flat_weights = also_optax.example_weights(flat_state, flat_last, flat_groups[-1], where=where[-1].reshape(12))
    assert weights.shape == (4, 3)
    _close(weights.reshape(12), flat_weights, float32=2e-6, float64=1e-14)


def test_a_mask_of_whole_sequences_counts_like_a_mask_of_their_entries():
    losses, groups = jnp.arange(12.0).reshape(4, 3), jnp.array([0, 1, 1, 2])
    rows = jnp.array([True, False, True, True])
    entries = jnp.tile(rows[:, None], (1, 3))
    tx = also_optax.reweight_by_also(3, **STRENGTH)
    _, by_row = tx.update((), tx.init(()), losses=losses, groups=groups, where=rows)
    _, by_entry = tx.update((), tx.init(()), losses=losses, groups=groups, where=entries)
    np.testing.assert_array_equal(also_optax.group_weights(by_row), also_optax.group_weights(by_entry))
    np.testing.assert_array_equal(
        also_optax.example_weights(by_row, losses, groups, where=rows),
        also_optax.example_weights(by_entry, losses, groups, where=entries),
    )


# --- Special cases ----------------------------------------------------------------------------------------------------


def _descend(tx, *, reweighted, steps=200):
    """Parameters, a dict, after each of many steps on the reweighted loss or on the plain mean."""
    problem = reference.logistic_problem(steps=steps)
    x, y, groups = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float), jnp.asarray(problem.groups)

    def step(carry, rows):
        params, opt_state = carry

        def loss_fn(params):
            losses = optax.sigmoid_binary_cross_entropy(x[rows] @ params["w"] + params["b"], y[rows])
            if not reweighted:
                return losses.mean(), {}
            loss, rw = also_optax.reweight(opt_state, losses, jnp.minimum(groups[rows], num_groups - 1))
            return loss, rw.extra_args

        (_, extra_args), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    start = {"w": jnp.asarray(_start(4), float), "b": jnp.array(0.2)}
    init = tx.init(start)
    num_groups = also_optax.group_weights(init).size if reweighted else None
    return jax.jit(lambda: jax.lax.scan(step, (start, init), jnp.asarray(problem.batches))[1])()


def _same_path(actual, desired):
    """To the rounding of two hundred steps."""
    for name in ("w", "b"):
        _close(actual[name], desired[name], float32=2e-6, float64=1e-13)


def test_without_dual_steps_and_optimism_also_is_adamw():
    settings = {"b1": 0.8, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "mask": {"w": True, "b": False}}
    tx = also_optax.also(_decaying, G, dual_learning_rate=0, optimism=0, **settings)
    _same_path(_descend(tx, reweighted=True), _descend(optax.adamw(_decaying, **settings), reweighted=False))


def test_by_default_also_has_the_hyperparameters_of_adamw():
    tx = also_optax.also(0.05, G, dual_learning_rate=0, optimism=0)
    _same_path(_descend(tx, reweighted=True), _descend(optax.adamw(0.05), reweighted=False))


def test_a_single_group_is_plain_training():
    tx = also_optax.also(0.01, 1, dual_learning_rate=0.5, kl_penalty=0.1)
    plain = optax.chain(also_optax.optimistic_gradient(), optax.adamw(0.01))
    _same_path(_descend(tx, reweighted=True), _descend(plain, reweighted=False))


def test_another_optimizer_takes_the_place_of_adam_and_sees_the_optimistic_gradient():
    tx = also_optax.also(
        _decaying, G, dual_learning_rate=0, optimism=0.5, optimizer=optax.scale_by_lion(b1=0.8), weight_decay=0.1
    )
    lion = optax.chain(also_optax.optimistic_gradient(0.5), optax.lion(_decaying, b1=0.8, weight_decay=0.1))
    _same_path(_descend(tx, reweighted=True), _descend(lion, reweighted=False))


def test_without_penalty_the_dual_step_is_exponentiated_gradient():
    losses, groups = _random_batches(25, 6)
    tx = also_optax.reweight_by_also(G, dual_learning_rate=0.2, kl_penalty=0.0, optimism=0, prior=PRIOR)
    _, path = _dual_steps(tx, losses, groups)
    sums = np.array([[G / 6 * ls[gs == g].sum() for g in range(G)] for ls, gs in zip(losses, groups, strict=True)])
    pi = PRIOR * np.exp(0.2 * np.cumsum(sums, axis=0))
    _close(path, pi / pi.sum(axis=1, keepdims=True), float32=5e-6)


def test_without_a_dual_learning_rate_the_weights_stay_at_the_prior():
    losses, groups = _random_batches(25, 6)
    tx = also_optax.reweight_by_also(G, dual_learning_rate=0.0, kl_penalty=0.5, prior=PRIOR)
    _, path = _dual_steps(tx, losses, groups)
    _close(path[-1], PRIOR, float32=1e-6, float64=1e-14)


def test_without_optimism_no_previous_gradient_is_kept():
    state = also_optax.reweight_by_also(G, optimism=0).init(())
    assert state.previous_dual_gradient is None
    assert also_optax.reweight_by_also(G, optimism=0.0, lookahead=True).init(()).previous_dual_gradient is None
    params = jnp.zeros(1000)
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(also_optax.also(0.1, 2, optimism=alpha).init(params)))
        for alpha in (0, 1.0)
    ]
    assert sizes[1] - sizes[0] > 1000


def test_groups_drawn_from_pi_have_weights_of_one():
    losses, groups = _random_batches(10, 6)
    tx = also_optax.reweight_by_also(G, **STRENGTH, prior=PRIOR, group_frequencies="pi")
    state, _ = _dual_steps(tx, losses, groups)
    np.testing.assert_array_equal(also_optax.example_weights(state, jnp.ones(G), jnp.arange(G)), np.ones(G))


def test_prior_and_frequencies_need_not_be_normalised():
    losses, groups = _random_batches(10, 6)
    paths = [
        _dual_steps(
            also_optax.reweight_by_also(G, **STRENGTH, prior=scale * PRIOR, group_frequencies=scale * COUNTS),
            losses,
            groups,
        )[1]
        for scale in (1, 170)
    ]
    _close(*paths, float32=2e-6, float64=1e-13)


def test_one_hot_prior_keeps_all_weight_on_its_group():
    losses, groups = _random_batches(10, 6)
    tx = also_optax.reweight_by_also(G, **STRENGTH, prior=np.eye(G)[2])
    state, path = _dual_steps(tx, losses, groups)
    np.testing.assert_array_equal(path, np.tile(np.eye(G)[2], (10, 1)))
    _close(also_optax.example_weights(state, jnp.ones(G), jnp.arange(G)), G * np.eye(G)[2], float32=2e-6)


# --- Diagnostics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_frequencies", [None, COUNTS, "pi"], ids=["sums", "means", "pi"])
def test_diagnostics_are_those_of_brute_force(x64, group_frequencies):
    losses, groups = _random_batches(12, 6)
    prior = PRIOR_WITH_A_ZERO / PRIOR_WITH_A_ZERO.sum()
    if isinstance(group_frequencies, str):
        groups = np.where(groups == 1, 0, groups)
    settings = {"prior": prior, "group_frequencies": group_frequencies, "average_decay": 0.8}
    penalties = np.array([0.0, 0.4, 5.0])

    @jax.vmap
    def run(penalty):
        tx = also_optax.reweight_by_also(G, dual_learning_rate=0.05, kl_penalty=penalty, **settings)
        state, path = _dual_steps(tx, losses, groups)
        return also_optax.diagnostics(state), path

    diagnostics, paths = jax.jit(run)(penalties)
    for case, penalty in enumerate(penalties):
        found, path = jax.tree.map(lambda leaf: np.asarray(leaf)[case], (diagnostics, paths))  # noqa: B023
        before = np.concatenate([prior[None], path[:-1]])
        h = np.array(
            [
                reference_also.dual_gradient(
                    batch, ids, np.ones(6, bool), reference_also.frequencies_of(group_frequencies, G, pi)
                )
                for batch, ids, pi in zip(losses, groups, before, strict=True)
            ]
        )
        pi, averages = path[-1], reference_also.group_losses(h, 0.8)
        robust = pi @ averages - penalty * reference_also.kl(pi, prior)
        _close(found["group_losses"], averages)
        _close(found["kl"], reference_also.kl(pi, prior))
        _close(found["effective_groups"], 1 / np.sum(pi**2))
        _close(found["robust_value"], robust)
        if isinstance(group_frequencies, str):  # the loss of which draws, today's or the average's?
            assert "erm_value" not in found
        else:
            _close(found["erm_value"], reference_also.frequencies_of(group_frequencies, G, pi) @ averages)
        _close(found["gap"], reference_also.worst_case(averages, prior, penalty) - robust)
        assert found["gap"] > 1e-4


def test_group_losses_of_few_steps_are_not_biased_to_zero():
    tx = also_optax.reweight_by_also(2, group_frequencies=[1.0, 1.0], average_decay=0.99)
    opt_state = tx.init(())
    for _ in range(3):
        _, opt_state = tx.update((), opt_state, losses=jnp.array([1.0, 3.0]), groups=jnp.array([0, 1]))
        _close(also_optax.diagnostics(opt_state)["group_losses"], [1.0, 3.0], float32=1e-5, float64=1e-12)


def test_without_decay_group_losses_are_those_of_the_last_batch():
    tx = also_optax.reweight_by_also(2, average_decay=0.0)
    opt_state = tx.init(())
    for losses in ([1.0, 3.0], [2.0, 5.0]):
        _, opt_state = tx.update((), opt_state, losses=jnp.array(losses), groups=jnp.array([0, 1]))
        _close(also_optax.diagnostics(opt_state)["group_losses"], losses, float32=1e-6)


@pytest.mark.parametrize("strength", [{"kl_penalty": 0.1}, {"radius": 0.1}], ids=["penalty", "radius"])
def test_diagnostics_of_every_step_are_compiled_once(caplog, strength):
    tx = also_optax.reweight_by_also(2, **strength)
    update, state = jax.jit(tx.update), tx.init(None)
    for step in range(4):
        _, state = update(None, state, losses=jnp.array([1.0, 2.0]), groups=jnp.array([0, 1]))
        with jax.log_compiles(step > 1):
            also_optax.diagnostics(state)
    assert "Compiling" not in caplog.text


def test_before_the_first_step_diagnostics_are_finite():
    found = also_optax.diagnostics(also_optax.reweight_by_also(G, prior=PRIOR_WITH_A_ZERO).init(()))
    assert all(np.isfinite(value).all() for value in found.values())
    assert found["kl"] == 0


def test_without_an_average_no_gap_is_reported():
    found = also_optax.diagnostics(also_optax.reweight_by_also(G, average_decay=None).init(()))
    assert set(found) == {"rejected", "kl", "effective_groups"}


def test_the_gap_closes_when_the_losses_stand_still():
    tx = also_optax.reweight_by_also(G, dual_learning_rate=1.0, kl_penalty=0.5, prior=PRIOR, average_decay=0.5)
    losses = np.tile([0.2, 0.9, 1.4, 0.6, 1.1], (60, 1))
    state, _ = _dual_steps(tx, losses, np.tile(np.arange(G), (60, 1)))
    assert also_optax.diagnostics(state)["gap"] < 1e-6


# --- What it must survive ---------------------------------------------------------------------------------------------


def test_a_batch_of_one_example_has_its_loss_for_the_mean():
    tx = also_optax.reweight_by_also(2, dual_learning_rate=0.1, kl_penalty=0.0, optimism=0)
    _, state = tx.update(None, tx.init(None), losses=jnp.array([1.5]), groups=jnp.array([1]))
    pi = np.array([1, np.exp(0.1 * 2 * 1.5)])  # h is G times the loss
    np.testing.assert_allclose(also_optax.group_weights(state), pi / pi.sum(), rtol=1e-6)


def test_uniform_weights_of_ten_million_examples_are_one():
    n = 10_000_000
    rate = 1e-6  # so that one batch of eight moves the logs of its examples by about one
    tx = also_optax.reweight_by_also(n, dual_learning_rate=rate, kl_penalty=0.1, average_decay=None)
    seen = jnp.array([0, 1, 5, 77, n // 2, n - 2, n - 1, 123_456])
    others = jnp.array([2, 3, 1_000_000, 9_999_990])
    rng = np.random.default_rng(0)
    losses = rng.gamma(1.0, size=(4, 8))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(opt_state, losses):
        return tx.update((), opt_state, losses=losses, groups=seen)[1]

    opt_state = tx.init(())
    np.testing.assert_allclose(also_optax.example_weights(opt_state, jnp.ones(8), seen), 1, rtol=0, atol=1e-5)
    for batch in jnp.asarray(losses, float):
        opt_state = update(opt_state, batch)
    of_seen = also_optax.example_weights(opt_state, jnp.ones(8), seen)
    of_others = also_optax.example_weights(opt_state, jnp.ones(4), others)

    # Equal examples stay equal: one entry for each example seen, and one that stands for all the others.
    multiplicity = np.array([1.0] * 8 + [n - 8])
    pi, prior, previous = multiplicity / n, multiplicity / n, None
    for batch in losses:
        h = np.append(n / 8 * batch, 0)
        previous = h if previous is None else previous
        pi, previous = reference_also.prox(pi, 2 * h - previous, prior, rate, 0.1), h
    np.testing.assert_allclose(of_seen, n * pi[:8], rtol=1e-5)
    np.testing.assert_allclose(of_others, n * pi[8] / (n - 8), rtol=1e-5)
    assert np.ptp(of_seen) > 1


def test_a_steep_ascent_costs_the_weights_no_precision():
    """As of many examples at the default rate: steps of thousands in the logs, and weights that still add up to G."""
    losses = np.random.default_rng(0).gamma(1.0, size=(10, 8))
    tx = also_optax.reweight_by_also(4000, dual_learning_rate=2.0, kl_penalty=1e-2)
    state, _ = _dual_steps(tx, losses, np.tile(np.arange(8), (10, 1)))
    weights = also_optax.example_weights(state, jnp.ones(4000), jnp.arange(4000))
    np.testing.assert_allclose(weights.mean(), 1, rtol=0, atol=1e-5)


def test_a_group_of_prior_zero_costs_the_others_no_precision():
    losses, groups = np.tile([1e6, 1.0, 2.0], (5, 1)), np.tile(np.arange(3), (5, 1))
    tx = also_optax.reweight_by_also(3, dual_learning_rate=0.2, kl_penalty=0.0, prior=[0.0, 1.0, 3.0])
    state, path = _dual_steps(tx, losses, groups)
    expected = np.array([0.0, 1.0, 3.0]) * np.exp([0.0, 1.0, 2.0])
    _close(path[-1], expected / expected.sum(), float32=2e-6, float64=1e-12)
    weights = also_optax.example_weights(state, jnp.ones(3), jnp.arange(3))
    _close(weights, 3 * expected / expected.sum(), float32=5e-6, float64=1e-12)


def test_weights_are_on_the_simplex_after_a_million_steps():
    num_groups, steps = 7, 1_000_000
    losses, groups = map(jnp.asarray, _random_batches(1024, 6, num_groups))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0))
    def run(dual_learning_rate, kl_penalty):
        tx = also_optax.reweight_by_also(
            num_groups, dual_learning_rate=dual_learning_rate, kl_penalty=kl_penalty, prior=jnp.arange(1.0, 8.0)
        )

        def step(t, opt_state):
            return tx.update((), opt_state, losses=losses[t % 1024].astype(float), groups=groups[t % 1024])[1]

        opt_state = jax.lax.fori_loop(0, steps, step, tx.init(()))
        weights = also_optax.example_weights(opt_state, jnp.ones(num_groups), jnp.arange(num_groups))
        return opt_state.step, also_optax.group_weights(opt_state), weights

    rates, penalties = jnp.array([1e-3, 0.1, 1.0, 30.0, 0.5]), jnp.array([1e-2, 0.5, 0.0, 0.0, 10.0])
    step, pi, weights = run(rates, penalties)
    assert (step == steps).all()
    assert (pi >= 0).all() and (weights >= 0).all()
    np.testing.assert_allclose(pi.sum(axis=1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=0, atol=1e-5)


IN_A_HURRY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For the compiler, which then rounds in other places."""


def _after_losses_of_1e30(compiler_options=None, **settings):
    """Over a grid of strengths: state, pi after each step, loss, the weighed batch, diagnostics."""
    losses = np.array([[1e30, 1.0], [1.0, -1e30], [0.5, 0.5], [1e30, 1e30], [1.0, 2.0]])

    @functools.partial(jax.jit, compiler_options=compiler_options)
    @jax.vmap
    def run(dual_learning_rate, kl_penalty):
        tx = also_optax.reweight_by_also(G, dual_learning_rate=dual_learning_rate, kl_penalty=kl_penalty, **settings)
        state, path = _dual_steps(tx, losses, np.tile([1, 4], (5, 1)))
        loss, rw = also_optax.reweight(state, jnp.array([1e30, 1.0]), jnp.array([1, 4]))
        return state._replace(hyperparams=()), path, loss, rw, also_optax.diagnostics(state)

    return run(jnp.array([100.0, 100.0, 1e10, 1e-3]), jnp.array([0.0, 10.0, 1e-2, 1e-2]))


@pytest.mark.parametrize("lookahead", [False, True])
def test_losses_of_1e30_leave_a_finite_state(lookahead):
    frequencies = np.append(COUNTS[:4], 1e-20)  # the losses of the rarest group count 1e20 times
    *found, diagnostics = _after_losses_of_1e30(lookahead=lookahead, prior=PRIOR, group_frequencies=frequencies)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(found[1].sum(axis=-1), 1, rtol=0, atol=1e-6)
    assert all(np.isfinite(diagnostics[name]).all() for name in diagnostics if name != "gap")


@pytest.mark.parametrize("compiler_options", [None, IN_A_HURRY], ids=["optimized", "hurried"])
@pytest.mark.parametrize("group_frequencies", [None, COUNTS], ids=["sums", "means"])
def test_losses_of_1e30_leave_a_finite_gap(group_frequencies, compiler_options):
    gap = _after_losses_of_1e30(compiler_options, prior=PRIOR, group_frequencies=group_frequencies)[-1]["gap"]
    assert np.isfinite(gap).all() and (gap >= 0).all()


def test_a_group_that_is_never_drawn_loses_weight_only_to_the_others():
    """Its odds against another silent group stay those of the prior."""
    losses, _ = _random_batches(40, 6)
    groups = np.random.default_rng(1).integers(3, size=losses.shape)
    _, path = _dual_steps(also_optax.reweight_by_also(G, **STRENGTH, prior=PRIOR), losses, groups)
    assert (path[-1][3:] < PRIOR[3:]).all()
    _close(path[:, 3] / path[:, 4], np.full(40, PRIOR[3] / PRIOR[4]), float32=5e-6)
