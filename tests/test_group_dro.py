"""Group DRO against its equations in NumPy, and what it does where a batch has not every group."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import problems, reference
from tests.problems import assert_close
from tests.reference import group_dro as reference_group_dro

G = 4
COUNTS = np.array([400.0, 300.0, 50.0, 7.0])


def rule(**settings):
    return also_optax.reweight_by_group_dro(**{"num_groups": G} | settings)


def weights_after(tx, steps, losses, groups):
    """q after a batch `steps` times."""
    state, _ = problems.played(tx, jnp.stack([losses] * steps), jnp.stack([groups] * steps))
    return state, also_optax.group_weights(state)


# --- The equations ----------------------------------------------------------------------------------------------------


def test_two_hundred_games_go_as_the_equations_say():
    batches, rng = problems.plays(), np.random.default_rng(1)
    settings = {
        "step_size": rng.uniform(0, 0.5, 200).astype(np.float32),
        "adjustment": rng.uniform(0, 3, 200).astype(np.float32),
        "prior": rng.dirichlet(np.ones(G), 200).astype(np.float32),
        "group_counts": rng.integers(1, 500, (200, G)).astype(np.float32),
        "average_decay": rng.uniform(0, 0.95, 200).astype(np.float32),
    }

    @jax.jit
    @jax.vmap
    def play(settings, batches):
        state, (_, weights) = problems.played(rule(**settings), batches.losses, batches.groups, batches.where)
        return weights, also_optax.group_weights(state), also_optax.diagnostics(state)

    weights, q, found = play(settings, batches)
    for i in range(200):
        own = {name: values[i].astype(float) for name, values in settings.items()}
        game = reference_group_dro.GroupDro(
            G,
            own["step_size"],
            counts=own["group_counts"],
            adjustment=own["adjustment"],
            prior=own["prior"],
            decay=own["average_decay"],
        )
        runs = zip(batches.losses[i].astype(float), batches.groups[i], batches.where[i], strict=True)
        assert_close(weights[i], [game.see(*batch) for batch in runs], float32=4e-6)
        assert_close(q[i], game.q)
        averages = np.array([game.average(g) if game.history[g] else 0 for g in range(G)])
        assert_close(found["group_losses"][i], averages)
        seen = [g for g in range(G) if game.history[g]]
        adjusted = averages[seen] + game.margins[seen]
        value = game.q[seen] @ adjusted / game.q[seen].sum()
        assert_close(found["robust_value"][i], value, float32=3e-6)
        assert_close(found["gap"][i], adjusted.max() - value, float32=3e-6)
        share = own["group_counts"][seen] / own["group_counts"][seen].sum()
        assert_close(found["erm_value"][i], share @ averages[seen])


def test_batches_that_have_every_group_make_the_step_of_the_paper():
    rng = np.random.default_rng(2)
    means, groups = rng.normal(size=(40, G)).astype(np.float32), np.tile(np.arange(G), (40, 1))
    tx = rule(step_size=0.3, group_counts=COUNTS, adjustment=1.5, average_decay=0.5)
    state, (losses, weights) = problems.played(tx, means, groups)
    q = np.full(G, 1 / G)
    for step in range(40):
        q = reference_group_dro.published_step(q, means[step].astype(float), 0.3, 1.5 / np.sqrt(COUNTS))
        assert_close(weights[step], G * q, float32=3e-6)
        assert_close(losses[step], q @ means[step], float32=3e-6)
    assert_close(also_optax.group_weights(state), q)


def test_group_dro_walks_the_path_of_sgd_with_momentum_on_the_weighted_losses(x64):
    problem, params = reference.logistic_problem(), problems.START
    tx = also_optax.group_dro(0.1, 5, step_size=0.2, group_counts=[60, 40, 9, 5, 2], adjustment=1.0, weight_decay=0.3)
    game = reference_group_dro.GroupDro(5, 0.2, counts=np.array([60, 40, 9, 5, 2]), adjustment=1.0)
    direction = reference.HeavyBall(0.9)
    ours, opt_state = jnp.asarray(params), tx.init(jnp.asarray(params))

    @jax.jit
    def step(ours, opt_state, x, y, groups, where):
        fn = also_optax.value_and_grad(lambda params: optax.sigmoid_binary_cross_entropy(x @ params, y))
        (_, rw), grads = fn(ours, opt_state, groups=groups, where=where)
        updates, opt_state = tx.update(grads, opt_state, ours, **rw.extra_args)
        return optax.apply_updates(ours, updates), opt_state

    for rows, where in zip(problem.batches, problem.where, strict=True):
        x, y, groups = problem.inputs[rows], problem.labels[rows], problem.groups[rows]
        losses, gradients = reference.logistic_losses(params, x, y)
        gradient = game.see(losses, groups, where) @ gradients / where.sum()
        params = params - 0.1 * direction(gradient + 0.3 * params)
        ours, opt_state = step(ours, opt_state, x, y, groups, where)
        assert_close(ours, params)
    assert_close(also_optax.group_weights(opt_state), game.q)


@pytest.mark.parametrize(
    ("arguments", "inner"),
    [
        ({"momentum": 0.5}, optax.sgd(0.01, momentum=0.5)),
        ({"momentum": None}, optax.sgd(0.01)),
        ({"optimizer": optax.scale_by_adam()}, optax.adam(0.01)),
    ],
)
def test_the_model_s_half_is_that_of_optax(arguments, inner):
    stacked = problems.batches(5)
    tx = also_optax.group_dro(0.01, problems.NUM_GROUPS, step_size=0.5, weight_decay=0.1, **arguments)
    by_hand = optax.chain(
        also_optax.reweight_by_group_dro(problems.NUM_GROUPS, 0.5), optax.add_decayed_weights(0.1), inner
    )
    jax.tree.map(
        functools.partial(assert_close, float32=1e-6),
        problems.train(tx, stacked)[0],
        problems.train(by_hand, stacked)[0],
    )


# --- Special cases ----------------------------------------------------------------------------------------------------


def test_a_step_size_of_zero_is_training_balanced_by_group():
    losses, groups = jnp.array([1.0, 2.0, 3.0, 10.0]), jnp.array([0, 0, 0, 1])
    tx = rule(num_groups=2, step_size=0.0)
    state, q = weights_after(tx, 5, losses, groups)
    loss, _ = also_optax.reweight(state, losses, groups)
    assert_close(loss, (2 + 10) / 2)
    assert_close(q, [0.5, 0.5])
    kept = weights_after(rule(num_groups=2, step_size=0.0, prior=[1, 3]), 5, losses, groups)[1]
    assert_close(kept, [0.25, 0.75])


def test_a_single_group_is_plain_training():
    state, _ = weights_after(rule(num_groups=1, step_size=3.0), 5, jnp.array([1.0, 8.0]), jnp.zeros(2, int))
    assert_close(also_optax.example_weights(state, jnp.array([5.0, -2.0, 1.0]), jnp.zeros(3, int)), 1)


def test_the_adjustment_moves_the_weight_to_the_small_group():
    losses, groups = jnp.ones(2), jnp.array([0, 1])
    tx = rule(num_groups=2, step_size=1.0, group_counts=[100, 4], adjustment=2.0)
    _, q = weights_after(tx, 1, losses, groups)
    assert_close(q, np.exp([0.2, 1.0]) / np.exp([0.2, 1.0]).sum())


def test_a_prior_of_zero_stays_zero():
    losses, groups = jnp.array([0.1, 1e6, 0.5]), jnp.array([0, 1, 2])
    state, q = weights_after(rule(num_groups=3, step_size=1.0, prior=[1, 0, 1]), 5, losses, groups)
    assert q[1] == 0 and q[2] > 0.7
    assert also_optax.diagnostics(state)["gap"] < 0.5


# --- Groups that a batch has not --------------------------------------------------------------------------------------


def test_an_absent_group_keeps_its_weight_while_the_others_have_equal_losses():
    """Where the published step lets it fall to a sixth."""
    losses, groups = jnp.ones(6), jnp.array([0, 1, 2, 0, 0, 1])
    state, q = weights_after(rule(), 200, losses, groups)
    assert_close(q, 0.25)
    _, (after, _) = problems.played(rule(), jnp.ones((1, 4)), jnp.arange(4)[None])
    assert_close(after, 1)
    q = np.full(4, 0.25)
    for _ in range(200):
        q = reference_group_dro.published_step(q, np.array([1, 1, 1, 0]), 0.01, 0)
    np.testing.assert_allclose(q[3], 0.043, atol=5e-4)
    first = {"losses": jnp.ones(4), "groups": jnp.arange(4)}  # the same if it was seen before, with the same loss
    seen = rule().update(None, rule().init(None), **first)[1]
    for _ in range(5):
        _, seen = rule().update(None, seen, losses=losses, groups=groups)
    assert_close(also_optax.group_weights(seen), 0.25)
    assert state.visits.tolist() == [200, 200, 200, 0]


def test_two_absent_groups_keep_their_ratio_whatever_the_others_do():
    rng = np.random.default_rng(3)
    losses, groups = rng.gamma(1.0, 2.0, (50, 4)).astype(np.float32), np.tile([0, 1, 0, 1], (50, 1))
    tx = rule(step_size=0.3, prior=[1, 1, 2, 6])
    state, _ = problems.played(tx, losses, groups)
    q = also_optax.group_weights(state)
    assert_close(q[3] / q[2], 3.0)
    assert (state.tilt[2:] == 0).all() and (state.tilt[:2] != 0).all()


def test_an_absent_group_falls_when_the_others_do_worse_than_the_mean_and_rises_when_better():
    all_four, three = jnp.arange(4), jnp.arange(3)
    for change, sign in ((1.0, -1), (-1.0, 1)):
        tx = rule(step_size=0.1)
        _, state = tx.update(None, tx.init(None), losses=jnp.ones(4), groups=all_four)
        _, state = tx.update(None, state, losses=jnp.full(3, 1.0 + change), groups=three)
        assert np.sign(also_optax.group_weights(state)[3] - 0.25) == sign


@pytest.mark.parametrize("seed", range(3))
def test_batches_of_one_group_each_find_the_worst_group(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(rng.integers(0, G, 3000)[:, None], 5, axis=1)
    losses = np.array([0.5, 1.0, 2.0, 0.7])[groups] + 0.3 * rng.normal(size=groups.shape)
    state, _ = problems.played(rule(), losses, groups)
    q = also_optax.group_weights(state)
    assert q.argmax() == 2 and q[2] > 0.95


def test_the_first_visit_sets_the_average_of_a_group_and_later_ones_are_weighed_by_its_own_visits():
    groups = np.array([[0, 0], [0, 1], [0, 0]])
    state, _ = problems.played(rule(num_groups=3, average_decay=0.5), np.array([[1.0, 3], [5, 7], [9, 9]]), groups)
    assert_close(state.average_losses, [(9 + 0.5 * 5 + 0.25 * 2) / 1.75, 7, 0])
    assert state.visits.tolist() == [3, 1, 0]


def test_the_average_has_all_digits_at_a_decay_next_to_one():
    groups = np.zeros((1000, 1), int)
    losses = np.arange(1000.0, dtype=np.float32)[:, None]
    state, _ = problems.played(rule(average_decay=1 - 2**-20), losses, groups)
    weights = (1 - 2.0**-20) ** np.arange(1000)[::-1]
    assert_close(state.average_losses[0], weights @ losses[:, 0] / weights.sum(), float32=1e-5)


# --- Numbers of any size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_size", "loss"), [(0.01, 1.0), (0.01, 100.0), (1.0, 100.0), (1.0, 0.1)])
def test_what_one_group_gained_the_other_can_gain_back(step_size, loss):
    """In linear space the weight of the loser would be zero, and stay there."""
    losses = np.repeat([[loss, 0.0], [0.0, loss]], 300, axis=0)
    state, _ = problems.played(rule(num_groups=2, step_size=step_size), losses, np.tile([0, 1], (600, 1)))
    np.testing.assert_allclose(also_optax.group_weights(state), [0.5, 0.5], atol=1e-5)
    halfway, _ = problems.played(rule(num_groups=2, step_size=step_size), losses[:300], np.tile([0, 1], (300, 1)))
    odds = halfway.tilt[0] - halfway.tilt[1]
    np.testing.assert_allclose(odds, 300 * step_size * loss, rtol=1e-5)


def test_losses_of_half_precision_weigh_as_in_full():
    losses = np.tile([12.0, 0.5, 11.0, 12.0], (300, 1))
    groups = np.tile([0, 1, 2, 3], (300, 1))
    states = [problems.played(rule(step_size=1.0), losses.astype(dtype), groups)[0] for dtype in (np.float16, float)]
    q, expected = map(also_optax.group_weights, states)
    assert_close(q, expected)
    assert_close(q, [0.5, 0, 0, 0.5])


@pytest.mark.parametrize("settings", [{}, {"step_size": 1e10}, {"step_size": 1.0, "adjustment": 1e30}])
def test_losses_to_1e30_leave_weights_on_the_simplex(settings):
    rng = np.random.default_rng(4)
    groups = rng.integers(0, G, (60, 3))
    losses = rng.normal(size=groups.shape) * 10.0 ** rng.uniform(-30, 30, groups.shape)
    losses[::7] = 1e30
    losses[::11] = -1e30
    with jax.debug_nans(True):
        tx = rule(group_counts=COUNTS, **settings)
        state, (loss, weights) = problems.played(tx, losses.astype(np.float32), groups)
        found = also_optax.diagnostics(state)
    for leaf in jax.tree.leaves((state._replace(hyperparams=None), loss, weights, found)):
        assert np.isfinite(leaf).all()
    assert_close(also_optax.group_weights(state).sum(), 1)


def test_a_group_seen_alone_with_a_vanishing_weight_is_its_own_mean():
    tx = rule(num_groups=2, step_size=1.0, prior=[1, 1e-200 if jnp.result_type(float) == jnp.float64 else 1e-30])
    _, state = tx.update(None, tx.init(None), losses=jnp.array([5.0]), groups=jnp.array([1]))
    assert_close(also_optax.diagnostics(state)["robust_value"], 5)
    assert state.tilt.tolist() == [0, 0]


# --- Around it --------------------------------------------------------------------------------------------------------


def test_micro_batches_in_two_passes_are_one_batch():
    losses, groups = jnp.array([0.1, 2.0, 3.0, 0.7, 1.0]), jnp.array([0, 1, 1, 2, 0])
    tx = rule(step_size=0.7)
    _, state = tx.update(None, tx.init(None), losses=losses, groups=groups)
    parts = [slice(2), slice(2, 5)]
    statistics = also_optax.merge(*(also_optax.observe(state, losses[p] ** 2, groups[p]) for p in parts))
    found = [also_optax.example_weights(state, losses[p] ** 2, groups[p], statistics=statistics) for p in parts]
    assert_close(jnp.concatenate(found), also_optax.example_weights(state, losses**2, groups))


def test_diagnostics_before_the_first_batch_are_zeros_and_the_prior():
    found = also_optax.diagnostics(rule(group_counts=COUNTS).init(None))
    assert {name for name, value in found.items() if np.any(value)} == {"effective_groups"}
    assert_close(found["effective_groups"], G)
    assert "erm_value" not in also_optax.diagnostics(rule().init(None))


def test_diagnostics_keep_the_adjustment_out_of_the_losses():
    tx = rule(num_groups=2, group_counts=[4, 100], adjustment=2.0)
    _, state = tx.update(None, tx.init(None), losses=jnp.array([3.0, 1.0]), groups=jnp.array([0, 1]))
    found, q = also_optax.diagnostics(state), also_optax.group_weights(state)
    assert_close(found["group_losses"], [3, 1])
    assert_close(found["robust_value"], q @ jnp.array([4.0, 1.2]))
    assert_close(found["gap"], 4 - found["robust_value"])
    assert_close(found["erm_value"], (4 * 3 + 100 * 1) / 104)


def test_counts_of_a_concrete_array_are_checked_inside_a_jit_too():
    def weights(counts):
        tx = also_optax.reweight_by_group_dro(2, group_counts=counts)
        return also_optax.group_weights(tx.init(jnp.zeros(1)))

    counts, wrong = jnp.array([3, 5]), jnp.array([0, 5])
    np.testing.assert_allclose(jax.jit(lambda: weights(counts))(), [0.5, 0.5], rtol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        jax.jit(lambda: weights(wrong))()
