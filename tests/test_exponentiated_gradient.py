"""Exponentiated gradient against all weights in float64, also where the sums of losses are long."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from tests import problems, test_lazy
from tests.problems import assert_close
from tests.reference import exponentiated_gradient as reference_eg

N = 3_000
lazy_or_not = pytest.mark.parametrize("lazy", [True, False])


def rule(num_examples=4, step_size=0.3, **settings):
    return also_optax.reweight_by_exponentiated_gradient(num_examples, step_size, **settings)


# --- The equations ----------------------------------------------------------------------------------------------------


@lazy_or_not
def test_two_hundred_runs_go_as_the_equations_say(lazy):
    """With examples that a batch has twice."""
    batches, rng = problems.plays(), np.random.default_rng(1)
    step_size = rng.uniform(0, 0.5, 200).astype(np.float32)
    prior = rng.dirichlet(np.ones(4), 200).astype(np.float32)
    prior[::9, 2] = 0

    @jax.jit
    @jax.vmap
    def play(step_size, prior, batches):
        tx = rule(step_size=step_size, prior=prior, lazy=lazy)
        state, (_, weights) = problems.played(tx, batches.losses, batches.groups, batches.where)
        return weights, also_optax.group_weights(state)

    weights, pi = play(step_size, prior, batches)
    for i in range(200):
        run = reference_eg.ExponentiatedGradient(4, float(step_size[i]), prior[i].astype(float))
        steps = zip(batches.losses[i].astype(float), batches.groups[i], batches.where[i], strict=True)
        assert_close(weights[i], [run.see(*batch) for batch in steps], float32=6e-6)
        assert_close(pi[i], run.pi, float32=2e-6)


@functools.cache
def _runner(lazy, with_prior):
    @jax.jit
    def run(batches, losses, prior, step_size):
        tx = rule(N, step_size, prior=prior if with_prior else None, lazy=lazy)

        def step(state, batch):
            return tx.update(None, state, losses=batch[1], groups=batch[0])[1], None

        return jax.lax.scan(step, tx.init(None), (batches, losses))[0]

    return run


def check(batches, losses, *, step_size, lazy, prior=None, visits=1):
    """The bar of `test_lazy`, on the same floats."""
    step_size, losses = np.float32(step_size), losses.astype(np.float32)
    weights = np.full(N, 1 / N) if prior is None else prior / prior.sum()
    expected, tilt = reference_eg.log_weights(batches, losses.astype(float), weights, float(step_size))
    run = _runner(lazy, prior is not None)
    state = run(batches.astype(np.int32), losses, jnp.asarray(weights, jnp.float32), step_size)
    found = np.asarray(state.log_prior + state.scores.log_ratios(state.step), float)
    seen = expected > np.log(1e-30)
    error = np.abs(found[seen] - expected[seen]).max()
    digits = 1.2e-7 * np.abs(expected[seen]).max()
    bar = 1e-6 + digits + 5e-7 * np.abs(tilt[weights > 0]).max() * np.sqrt(visits)
    assert error <= bar, (error, bar)
    assert (np.asarray(also_optax.group_weights(state))[~seen] <= 1e-29).all()
    return state


def _problem(name):
    rng = np.random.default_rng(len(name))
    epochs = 40 if name == "many epochs" else 6
    batches = test_lazy.epochs(rng, N, epochs)
    noise = rng.uniform(0.9, 1.1, batches.shape)
    each = rng.gamma(1.0, 1.0, N)[batches]
    settings = {"step_size": 0.05, "visits": epochs}
    match name:
        case "many epochs":
            losses = each * noise
        case "losses to ten thousand":
            losses, settings["step_size"] = 1e4 * rng.random(N)[batches] * noise, 1.0
        case "all losses alike and large":
            losses, settings["step_size"] = 1e4 + each, 0.3
        case "a few wrong labels":
            losses = np.where(batches % 50 == 0, 30.0, 0.05) * noise
        case "ties":
            losses = np.full(batches.shape, 0.7)
        case "a prior with zeros":
            losses, settings["prior"] = each, rng.uniform(0, 1, N) * (np.arange(N) % 3 > 0)
        case "losses of both signs":
            losses = 4 * rng.normal(size=batches.shape)
        case "a top that falls":
            losses, settings["step_size"] = (1 + batches % 11) * noise, 3.0
        case "repeats within a batch":
            batches = rng.integers(0, N, batches.shape)
            batches[:, 5:9] = batches[:, :1]
            losses, settings["visits"] = each, 30
        case "padding":
            losses = each
            batches = np.where(rng.random(batches.shape) < 0.4, -1, batches)
    return batches, losses, settings


@lazy_or_not
@pytest.mark.parametrize(
    "name",
    [
        "many epochs",
        "losses to ten thousand",
        "all losses alike and large",
        "a few wrong labels",
        "ties",
        "a prior with zeros",
        "losses of both signs",
        "a top that falls",
        "repeats within a batch",
        "padding",
    ],
)
def test_hard_cases(name, lazy):
    batches, losses, settings = _problem(name)
    state = check(batches, losses, lazy=lazy, **settings)
    if lazy and "prior" not in settings:  # which the bins leave out where it is zero
        test_lazy.assert_counts_are_exact(state)


# --- Special cases ----------------------------------------------------------------------------------------------------


@lazy_or_not
def test_a_step_size_of_zero_keeps_the_prior_and_without_one_is_plain_training(lazy):
    losses, ids = np.random.default_rng(0).normal(size=(5, 3)), np.tile([2, 0, 1], (5, 1))
    _, (_, weights) = problems.played(rule(step_size=0.0, lazy=lazy), losses, ids)
    assert (weights == 1).all()
    _, (_, weights) = problems.played(rule(step_size=0.0, lazy=lazy, prior=[1, 2, 3, 4]), losses, ids)
    assert_close(weights, np.tile([1.2, 0.4, 0.8], (5, 1)))


@lazy_or_not
def test_an_example_of_prior_zero_stays_without_weight(lazy):
    losses, ids = np.array([[5.0, 0.1, 0.2], [5.0, 0.1, 0.2]]), np.tile([2, 0, 1], (2, 1))
    state, (_, weights) = problems.played(rule(step_size=1.0, lazy=lazy, prior=[1, 2, 0, 3]), losses, ids)
    assert (weights[:, 0] == 0).all()
    expected = np.array([1, 2, 0, 3]) * np.exp([-0.2, -0.4, 0, 0])
    assert_close(also_optax.group_weights(state), expected / expected.sum())


@lazy_or_not
def test_a_constant_added_to_every_loss_changes_nothing_after_whole_epochs(lazy):
    rng = np.random.default_rng(1)
    ids = np.concatenate([rng.permutation(12).reshape(3, 4) for _ in range(5)])
    losses = rng.gamma(1.0, 1.0, ids.shape)
    (plain, _), (shifted, _) = (problems.played(rule(12, lazy=lazy), of, ids) for of in (losses, losses + 2))
    assert_close(also_optax.group_weights(plain), also_optax.group_weights(shifted), float32=3e-6)


@pytest.mark.parametrize("num_examples", [1, 7, 50_000, 50_001, 1_000_003])
def test_weights_start_at_exactly_one(num_examples):
    state = rule(num_examples).init(None)
    assert (also_optax.example_weights(state, jnp.ones(2), jnp.array([0, num_examples - 1])) == 1).all()


def test_the_entries_of_a_row_add_up_for_its_example():
    losses, ids = jnp.array([[1.0, 2.0], [0.5, jnp.nan]]), jnp.array([3, 1])
    _, state = rule().update(None, rule().init(None), losses=losses, groups=ids)
    expected = np.exp(-0.3 * np.array([0, 0.5, 0, 3.0]))
    assert_close(also_optax.group_weights(state), expected / expected.sum())
    assert int(state.rejected) == 1


def test_wrong_labels_lose_their_weight_and_keep_losing_it():
    """The loss of a wrong label stays high, that of a right one falls."""
    wrong = np.arange(20) < 4
    ids = np.tile(np.arange(20), (30, 1))
    losses = np.where(wrong, 2.5, 2.5 * np.exp(-np.arange(30) / 5)[:, None])
    state, _ = problems.played(rule(20, 0.1), losses, ids)
    weights = 20 * also_optax.group_weights(state)
    assert (weights[wrong] < 0.02).all() and (weights[~wrong] > 1.2).all()


def test_diagnostics_tell_how_many_examples_hold_the_weight():
    tx = rule(step_size=100.0)
    _, state = tx.update(None, tx.init(None), losses=jnp.ones(2), groups=jnp.array([0, 1]))
    found = also_optax.diagnostics(state)
    assert found.keys() == {"rejected", "kl", "effective_groups"}
    assert_close(found["effective_groups"], 2)
    assert_close(found["kl"], np.log(2))


@lazy_or_not
def test_micro_batches_are_one_batch(lazy):
    tx = rule(lazy=lazy)
    losses, ids = jnp.array([0.1, 2.0, 3.0, 0.7]), jnp.array([0, 3, 3, 2])
    _, expected = tx.update(None, tx.init(None), losses=losses, groups=ids)
    accumulating = also_optax.multi_steps(tx, 2, batch_size=2)
    state = accumulating.init(jnp.zeros(1))
    for part in (slice(2), slice(2, 4)):
        _, state = accumulating.update(jnp.zeros(1), state, losses=losses[part], groups=ids[part])
    assert_close(also_optax.group_weights(state), also_optax.group_weights(expected))


# --- The lazy form ----------------------------------------------------------------------------------------------------


def test_the_form_is_chosen_by_the_number_of_examples():
    def keeps_histogram(num_examples, **settings):
        return jax.eval_shape(rule(num_examples, **settings).init, None).scores.histogram is not None

    assert [keeps_histogram(n) for n in (50_000, 50_001)] == [False, True]
    assert keeps_histogram(10, lazy=True) and not keeps_histogram(50_001, lazy=False)


@pytest.mark.parametrize("lazy", [True, pytest.param(False, marks=test_lazy.WITHOUT_TEMPORARIES)])
def test_no_step_copies_a_table(lazy):
    size = 2_000_003
    tx = rule(size, lazy=lazy)
    state, ids, losses = tx.init(None), jnp.arange(32), jnp.ones(32)

    def step(state, ids, losses):
        loss, rw = also_optax.reweight(state, losses, ids)
        return loss, tx.update(None, state, **rw.extra_args)[1]

    compiled = jax.jit(step, donate_argnums=0).lower(state, ids, losses).compile()
    assert not re.findall(rf"= [fs]\d+\[{size}\]\S* copy\(.*", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * size / 2


@lazy_or_not
def test_losses_to_1e30_leave_finite_scores(lazy):
    rng = np.random.default_rng(3)
    ids = rng.integers(0, N, (60, 8))
    losses = rng.normal(size=ids.shape) * 10.0 ** rng.uniform(-30, 30, ids.shape)
    losses[::7], losses[::11] = 1e30, -1e30
    state = _runner(lazy, False)(ids.astype(np.int32), losses.astype(np.float32), jnp.full(N, 1 / N), 1.0)
    for leaf in jax.tree.leaves(state.scores):
        assert np.isfinite(leaf).all()
    weights = also_optax.group_weights(state)
    assert np.isfinite(weights).all() and abs(weights.sum() - 1) < 1e-5
