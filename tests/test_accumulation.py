"""k micro-batches are one large batch, for the model and for the adversary."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from also_optax._pairs import Pairs
from tests import problems
from tests.rows import RULES, each, with_sgd

K = 3
FROM_THE_STATE = {name: row for name, row in RULES.items() if name.startswith(("also", "rgd", "exponentiated"))}
FROM_THE_BATCH = {name: row for name, row in RULES.items() if name not in FROM_THE_STATE}


def also_rule():
    return also_optax.reweight_by_also(
        problems.NUM_GROUPS, dual_learning_rate=0.4, prior=problems.PRIOR, group_frequencies=problems.FREQUENCIES
    )


def large_and_micro(steps=4):
    """Large batches, and the same cut into K micro-batches with uneven masks (one micro-batch is all padding)."""
    large = problems.batches(steps, size=4 * K)
    large = large._replace(where=large.where.at[1, 4:8].set(False))
    micro = jax.tree.map(lambda leaf: leaf.reshape(steps * K, 4, *leaf.shape[2:]), large)
    return large, micro


def assert_same(actual, expected, rtol=1e-10):
    both = problems.outside(actual), problems.outside(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), *both)


def micro_batch_size(row):
    """What `multi_steps` is to be told for rules that keep the examples themselves, and for no others."""
    seen = also_optax.observe(row.make(**row.hyperparams).init(None), jnp.ones(2), jnp.zeros(2, int))
    return 4 if isinstance(seen, Pairs) else None


@pytest.mark.usefixtures("x64")
@each(FROM_THE_STATE)
def test_micro_batches_are_one_batch_for_rules_that_weigh_from_the_state(row):
    large, micro = large_and_micro()
    tx = with_sgd(row)
    params, opt_state = problems.train(tx, large)
    micro_params, micro_state = problems.train(also_optax.multi_steps(tx, K, batch_size=micro_batch_size(row)), micro)
    assert_same((micro_params, micro_state.inner_state), (params, opt_state))


def test_a_rule_that_keeps_pairs_needs_the_size_of_a_micro_batch():
    rule = also_optax.reweight_by_also(problems.NUM_GROUPS, lazy=True)
    with pytest.raises(ValueError, match="needs `batch_size`, the number of ids or losses in each micro-batch"):
        also_optax.multi_steps(rule, K).init(jnp.zeros(3))
    tx = also_optax.multi_steps(rule, K, batch_size=4)
    with pytest.raises(ValueError, match="a micro-batch has 2 examples, but `multi_steps` has `batch_size=4`"):
        tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)), losses=jnp.ones(2), groups=jnp.array([0, 1]))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        also_optax.multi_steps(rule, K, batch_size=0)


@jax.jit
def two_pass_step(params, opt_state, large):
    """Gradients and what goes with them of each micro-batch: statistics of all first, then each one's share."""
    micro = [jax.tree.map(lambda leaf, i=i: leaf[4 * i : 4 * i + 4], large) for i in range(K)]
    seen = [
        also_optax.observe(opt_state, problems.losses_of(params, part), part.groups, where=part.where) for part in micro
    ]
    statistics = seen[0]
    for other in seen[1:]:
        statistics = also_optax.merge(statistics, other)
    shares = []
    for part in micro:
        (_, rw), grads = problems.loss_and_grads(
            params, opt_state, part, groups=part.groups, where=part.where, statistics=statistics
        )
        shares.append((grads, rw))
    return shares


@pytest.mark.usefixtures("x64", "references_of_zero")
@each(FROM_THE_BATCH)
def test_two_passes_are_one_batch_for_rules_that_weigh_from_it_by_hand_and_under_multi_steps(row):
    large, _ = large_and_micro()
    tx = with_sgd(row)
    expected = problems.train(tx, large)

    params, opt_state = problems.init_params(), tx.init(problems.init_params())
    accumulating = also_optax.multi_steps(tx, K, batch_size=micro_batch_size(row))
    accumulate = jax.jit(accumulating.update)
    other_params, other_state = params, accumulating.init(params)
    for t in range(len(large.x)):
        parts = two_pass_step(params, opt_state, problems.batch_at(large, t))
        total = jax.tree.map(lambda *shares: sum(shares), *(grads for grads, _ in parts))
        updates, opt_state = tx.update(total, opt_state, params, **parts[-1][1].extra_args)
        params = optax.apply_updates(params, updates)

        start = other_params
        for grads, rw in two_pass_step(start, other_state, problems.batch_at(large, t)):
            updates, other_state = accumulate(grads, other_state, start, **rw.extra_args)
            other_params = optax.apply_updates(other_params, updates)
    rule_state = (opt_state[0]._replace(rejected=expected[1][0].rejected), *opt_state[1:])
    assert_same((params, rule_state), expected)
    assert_same((other_params, other_state.inner_state), expected)


@pytest.mark.usefixtures("x64")
def test_optax_multisteps_shows_the_adversary_only_the_last_micro_batch():
    """Why this module exists."""
    large, micro = large_and_micro()
    tx = optax.chain(also_rule(), optax.sgd(0.01))
    wrapped = optax.MultiSteps(tx, K)
    _, opt_state = problems.train(tx, large)
    _, optax_state = problems.train(optax.GradientTransformationExtraArgs(wrapped.init, wrapped.update), micro)
    right, wrong = also_optax.group_weights(opt_state), also_optax.group_weights(optax_state)
    assert float(jnp.abs(right - wrong).max()) > 1e-2


def test_between_steps_nothing_moves():
    _, micro = large_and_micro()
    tx = also_optax.multi_steps(also_optax.also(0.1, problems.NUM_GROUPS), K)
    params = problems.init_params()
    opt_state = start = tx.init(params)
    for t in range(K):
        moved, opt_state = problems.train_step(tx, params, opt_state, problems.batch_at(micro, t))
        same = all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (moved, params)), strict=True))
        assert same == (t < K - 1)
    assert int(opt_state.micro_step) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves((opt_state.gradient_sum, opt_state.statistics)))
    assert jax.tree.map(jax.typeof, opt_state) == jax.tree.map(jax.typeof, start)


def test_every_k_of_one_is_the_optimizer_itself():
    large, _ = large_and_micro()
    tx = also_optax.absgd(0.01, temperature=2.0)
    params, opt_state = problems.train(tx, large)
    wrapped_params, wrapped_state = problems.train(also_optax.multi_steps(tx, 1), large)
    assert_same((wrapped_params, wrapped_state.inner_state), (params, opt_state), rtol=1e-5)


def test_gradients_of_half_precision_are_added_up_in_float32():
    tx = also_optax.multi_steps(optax.chain(also_optax.reweight_by_rgd(), optax.sgd(1.0)), 2)
    params = jnp.zeros(2, jnp.bfloat16)
    opt_state = tx.init(params)
    assert opt_state.gradient_sum.dtype == jnp.float32
    for _ in range(2):
        updates, opt_state = tx.update(jnp.ones(2, jnp.bfloat16), opt_state, params, losses=jnp.ones(3))
    assert updates.dtype == jnp.bfloat16 and (updates == -1).all()


def test_missing_losses_are_an_error():
    tx = also_optax.multi_steps(also_optax.rgd(0.1), 2)
    with pytest.raises(TypeError, match="needs each micro-batch's `losses`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_a_temperature_scheduled_by_inject_hyperparams_switches_without_a_spike():
    """The statistics were made with the state's temperature, so the move is too."""
    losses = jnp.full(4, 4.5)
    schedule = optax.join_schedules([optax.constant_schedule(jnp.inf), optax.constant_schedule(0.5)], [3])

    def mean_weights(wrap):
        tx = wrap(optax.inject_hyperparams(also_optax.reweight_by_absgd)(schedule, averaging_rate=0.5))
        state, weights = tx.init(jnp.zeros(1)), []
        for _ in range(7):
            _, rw = also_optax.reweight(state, losses)
            weights.append(rw.weights.mean())
            _, state = tx.update(jnp.zeros(1), state, jnp.zeros(1), **rw.extra_args)
        return np.stack(weights)

    np.testing.assert_allclose(mean_weights(lambda tx: tx), 1, rtol=1e-6)
    np.testing.assert_allclose(mean_weights(lambda tx: also_optax.multi_steps(tx, 1)), 1, rtol=1e-6)


def test_a_micro_batch_of_padding_does_not_poison_the_others():
    tx = also_optax.multi_steps(optax.chain(also_optax.reweight_by_rgd(), optax.sgd(1.0)), 2)
    params = jnp.zeros(2)
    opt_state = tx.init(params)
    _, opt_state = tx.update(jnp.full(2, jnp.nan), opt_state, params, losses=jnp.ones(3), where=jnp.zeros(3, bool))
    updates, _ = tx.update(jnp.array([1.0, 2.0]), opt_state, params, losses=jnp.ones(3))
    np.testing.assert_allclose(updates, [-1.0, -2.0], rtol=1e-6)
