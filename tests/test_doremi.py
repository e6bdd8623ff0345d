"""DoReMi against its algorithm in NumPy, and the mean of its weights over very many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from tests import problems
from tests.problems import assert_close
from tests.reference import doremi as reference_doremi

G = 4
GROUPS = jnp.arange(G)


def rule(**settings):
    return also_optax.reweight_by_doremi(**{"num_groups": G} | settings)


def after_one(tx, excess, groups=GROUPS):
    """The state after a batch of losses that exceed those of the reference by `excess`."""
    excess = jnp.asarray(excess, float)
    return tx.update(None, tx.init(None), losses=excess + 2, reference_losses=jnp.full_like(excess, 2), groups=groups)[
        1
    ]


# --- The equations ----------------------------------------------------------------------------------------------------


def test_two_hundred_runs_go_as_the_equations_say():
    batches, rng = problems.plays(), np.random.default_rng(1)
    settings = {
        "step_size": rng.uniform(0, 2, 200).astype(np.float32),
        "smoothing": (10.0 ** rng.uniform(-5, 0, 200)).astype(np.float32),
        "prior": rng.dirichlet(np.ones(G), 200).astype(np.float32) + 1e-3,
    }

    @jax.jit
    @jax.vmap
    def play(settings, batches):
        losses, reference_losses, groups, where = batches
        state, (_, weights) = problems.played(rule(**settings), losses, groups, where, reference_losses)
        return weights, also_optax.group_weights(state), also_optax.diagnostics(state)

    weights, alpha, found = play(settings, batches)
    for i in range(200):
        run = reference_doremi.Doremi(G, **{name: values[i].astype(float) for name, values in settings.items()})
        of_run = (batches.losses[i].astype(float), batches.reference_losses[i].astype(float))
        steps = zip(*of_run, batches.groups[i], batches.where[i], strict=True)
        assert_close(weights[i], [run.see(*batch) for batch in steps], float32=4e-6)
        assert_close(alpha[i], run.alpha, float32=2e-6)
        assert_close(found["average_weights"][i], np.mean(run.alphas, axis=0), float32=2e-6)
        assert_close(found["group_losses"][i], run.excess)


def test_the_excess_is_clipped_before_the_mean():
    state = after_one(rule(num_groups=2), [1.0, -1.0, 0.4], groups=jnp.array([0, 0, 1]))
    assert_close(state.excess, [0.5, 0.4], float32=2e-6)


def test_every_token_of_a_sequence_counts_as_an_example():
    losses, reference = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([[0.5, 2.5], [1.0, 2.0]])
    tx = rule(num_groups=2)
    where = jnp.array([[True, True], [True, False]])
    _, state = tx.update(
        None, tx.init(None), losses=losses, reference_losses=reference, groups=jnp.arange(2), where=where
    )
    assert_close(state.excess, [0.25, 2.0])


# --- Special cases ----------------------------------------------------------------------------------------------------


def test_without_step_and_smoothing_the_prior_stays():
    state = after_one(rule(step_size=0.0, smoothing=0.0, prior=[1, 2, 3, 4]), [5.0, 1, 0, 2])
    assert_close(also_optax.group_weights(state), [0.1, 0.2, 0.3, 0.4])
    assert_close(also_optax.diagnostics(state)["kl"], 0)


def test_a_smoothing_of_one_is_uniform():
    losses, groups = jnp.array([1.0, 2.0, 3.0, 10.0]), jnp.array([0, 0, 0, 1])
    tx = rule(num_groups=2, smoothing=1.0, prior=[1, 9])
    loss, _ = also_optax.reweight(tx.init(None), losses, groups, reference_losses=jnp.zeros(4))
    assert_close(loss, (2 + 10) / 2)


def test_against_references_of_zero_and_without_smoothing_it_is_group_dro():
    rng = np.random.default_rng(2)
    losses, groups = rng.gamma(1.0, 1.0, (20, G)).astype(np.float32), np.tile(np.arange(G), (20, 1))
    doremi = problems.played(rule(step_size=0.3, smoothing=0.0), losses, groups, None, np.zeros_like(losses))
    group_dro = problems.played(also_optax.reweight_by_group_dro(G, 0.3), losses, groups)
    assert_close(doremi[1][1], group_dro[1][1], float32=3e-6)


def test_smoothing_keeps_every_weight_above_its_share_and_lets_it_come_back():
    tx, smoothing = rule(num_groups=2, smoothing=1e-3), 1e-3
    excess = np.repeat([[50.0, 0.0], [0.0, 3.0]], [100, 5], axis=0)
    state, (_, weights) = problems.played(tx, excess, np.tile([0, 1], (105, 1)), None, np.zeros_like(excess))
    assert_close(weights[99] / 2, [1 - smoothing / 2, smoothing / 2])
    assert also_optax.group_weights(state)[1] > 0.99


def test_a_domain_that_is_absent_keeps_its_last_excess():
    tx = rule(smoothing=0.0, step_size=0.5)
    state = after_one(tx, [1.0, 0.0, 2.0, 0.5])
    both = jnp.array([0, 1])
    _, state = tx.update(None, state, losses=jnp.ones(2), reference_losses=jnp.zeros(2), groups=both)
    assert_close(state.excess, [1, 1, 2, 0.5], float32=2e-6)
    unnormalised = np.exp(0.5 * np.array([2.0, 1.0, 4.0, 1.0]))
    assert_close(also_optax.group_weights(state), unnormalised / unnormalised.sum())


def test_a_domain_not_seen_yet_has_no_excess():
    state = after_one(rule(smoothing=0.0), [1.0], groups=jnp.array([2]))
    assert_close(also_optax.group_weights(state), np.exp([0, 0, 1, 0]) / (3 + np.e))


# --- The mean of the weights ------------------------------------------------------------------------------------------


def test_the_mean_of_a_million_weights_is_theirs():
    """A sum in one float32 would be off in the third digit, and so would a running mean."""
    tx = rule(step_size=0.0, smoothing=0.0, prior=[0.1, 0.2, 0.3, 0.4])
    steps = 1_000_000
    batch = {"losses": jnp.ones(G), "reference_losses": jnp.ones(G), "groups": GROUPS}

    @jax.jit
    def run(state):
        return jax.lax.fori_loop(0, steps, lambda _, state: tx.update(None, state, **batch)[1], state)

    state = run(tx.init(None))
    assert int(state.step) == steps
    weights = np.asarray(also_optax.group_weights(state), np.float64)
    np.testing.assert_allclose(also_optax.diagnostics(state)["average_weights"], weights, rtol=2e-7)


def test_before_the_first_step_the_mean_is_the_start():
    with jax.debug_nans(True), jax.disable_jit():
        found = also_optax.diagnostics(rule(prior=[1, 2, 3, 4]).init(None))
    assert_close(found["average_weights"], [0.1, 0.2, 0.3, 0.4])
    assert also_optax.diagnostics(rule().init(None)).keys() == {
        "rejected",
        "kl",
        "effective_groups",
        "group_losses",
        "average_weights",
    }


def test_after_one_step_the_mean_is_where_it_led():
    tx = rule(prior=[1, 2, 3, 4])
    batch = {"losses": jnp.array([0.5, 2.0]), "groups": jnp.array([0, 3]), "reference_losses": jnp.zeros(2)}
    _, state = tx.update(None, tx.init(None), **batch)
    assert_close(also_optax.diagnostics(state)["average_weights"], also_optax.group_weights(state))
    assert also_optax.group_weights(state)[3] > 0.5


def test_a_batch_of_padding_counts_for_no_mean():
    tx = rule()
    state = after_one(tx, [5.0, 1, 0, 2])
    padding = {"losses": jnp.ones(2), "reference_losses": jnp.ones(2), "groups": jnp.array([-1, -1])}
    _, after = tx.update(None, state, **padding)
    jax.tree.map(np.testing.assert_array_equal, after, state)


# --- Numbers of any size, and what it needs ---------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 1.0])
def test_losses_to_1e30_leave_weights_on_the_simplex(smoothing):
    rng = np.random.default_rng(4)
    groups = rng.integers(0, G, (60, 3))
    losses, reference = rng.normal(size=(2, 60, 3)) * 10.0 ** rng.uniform(-30, 30, (2, 60, 3))
    losses[::7], losses[::11], reference[::5] = 1e30, -1e30, -1e30
    with jax.debug_nans(True):
        tx = rule(smoothing=smoothing)
        state, (loss, weights) = problems.played(
            tx, losses.astype(np.float32), groups, None, reference.astype(np.float32)
        )
        found = also_optax.diagnostics(state)
    for leaf in jax.tree.leaves((state._replace(hyperparams=None), loss, weights, found)):
        assert np.isfinite(leaf).all()
    assert_close(also_optax.group_weights(state).sum(), 1)
    assert_close(found["average_weights"].sum(), 1)


def test_without_reference_losses_every_side_says_so():
    tx = rule()
    state, batch = tx.init(None), {"losses": jnp.ones(G), "groups": GROUPS}
    accumulating = also_optax.multi_steps(tx, 2)
    sides = [
        lambda: also_optax.reweight(state, **batch),
        lambda: also_optax.example_weights(state, **batch),
        lambda: also_optax.observe(state, **batch),
        lambda: also_optax.value_and_grad(lambda losses: losses)(batch["losses"], state, groups=GROUPS),
        lambda: tx.update(None, state, **batch),
        lambda: accumulating.update(jnp.zeros(2), accumulating.init(jnp.zeros(2)), **batch),
    ]
    for side in sides:
        with pytest.raises(TypeError, match="needs `reference_losses`, of the shape of `losses`"):
            side()


def test_micro_batches_in_two_passes_are_one_batch():
    batches = jax.tree.map(lambda leaf: leaf[0, 0], problems.plays(1, 1, 9))
    state = after_one(rule(), [5.0, 1, 0, 2])
    parts = [jax.tree.map(lambda leaf, p=p: jnp.asarray(leaf[p]), batches) for p in (slice(2), slice(2, 9))]

    def settings(part):
        return {"where": part.where, "reference_losses": part.reference_losses}

    statistics = also_optax.merge(*(also_optax.observe(state, p.losses, p.groups, **settings(p)) for p in parts))
    found = [also_optax.example_weights(state, p.losses, p.groups, **settings(p), statistics=statistics) for p in parts]
    whole = also_optax.example_weights(state, batches.losses, batches.groups, **settings(batches))
    assert_close(jnp.concatenate(found), whole)
