"""Losses that are not finite, absurd, or none at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from also_optax._read import find_rule_state
from tests import problems
from tests.faults import plays
from tests.faults.plays import SIZE, STEPS, Play
from tests.rows import RULES, optimizers, rules

LARGEST = float(np.finfo(np.float32).max)
ABSURD = np.float32(
    [np.nan, np.inf, -np.inf, 1e30, -1e30, LARGEST, -LARGEST, 1e-45, -1e-40, 0.0, -0.0, 1e4, 0.3, 1.7, 2.5, -0.4]
)


def name_of(row):
    return next(name for name, other in RULES.items() if other is row)


def faulty_plays(number, seed=0):
    """In turn: a mixture, one group alone, a group that appears late, nothing but padding, nothing but absurdities."""
    rng, shape = np.random.default_rng(seed), (STEPS, SIZE)
    for turn in range(number):
        losses = rng.choice(ABSURD, shape)
        groups = rng.integers(-2, problems.NUM_GROUPS + 2, shape, dtype=np.int32)
        where = rng.random(shape) < 0.8
        if turn % 5 == 1:
            groups = np.full_like(groups, turn % problems.NUM_GROUPS)
        elif turn % 5 == 2:
            groups = np.where(turn < number // 2, np.minimum(groups, 1), groups)
        elif turn % 5 == 3:
            where = np.zeros_like(where)
        elif turn % 5 == 4:
            losses = rng.choice(ABSURD[:7], shape)
        yield Play(losses, groups, where)


@rules
def test_many_faulty_batches_lose_no_number(row):
    name, state = name_of(row), None
    tame = next(faulty_plays(1))._replace(losses=np.full((STEPS, SIZE), 0.5, np.float32))
    for play in (*faulty_plays(25), tame):
        state, seen = plays.after(name, play, state=state)
        plays.assert_finite(seen)
        assert not seen.weights[~play.valid(row.rule.num_groups)].any()


@optimizers
def test_under_apply_if_finite_many_faulty_batches_lose_no_parameter(row):
    tx = optax.apply_if_finite(row.make(**row.hyperparams), 10**6)
    stacked = problems.batches(steps=60)
    rng = np.random.default_rng(3)

    def poisoned(values):
        hit = rng.random(values.shape) < 0.15
        return jnp.where(hit, jnp.asarray(rng.choice(ABSURD, values.shape), values.dtype), values)

    stacked = stacked._replace(x=poisoned(stacked.x), y=poisoned(stacked.y))
    stacked = stacked._replace(x=stacked.x.at[::3].set(problems.batches(steps=60, seed=1).x[::3]))
    params, opt_state = row.optimizer.train(tx, stacked)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    state = find_rule_state(opt_state)
    assert state.step > 0 and opt_state.total_notfinite > 0
    unset = state._replace(hyperparams=state.hyperparams._replace(max_loss=jnp.zeros([])))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(unset))


@rules
@pytest.mark.parametrize(
    "shape", [(0,), pytest.param((0, 3), marks=pytest.mark.slow), pytest.param((3, 0), marks=pytest.mark.slow)]
)
def test_a_batch_without_entries_moves_nothing(row, shape):
    tx = row.make(**row.hyperparams)

    @jax.jit
    def step(state, losses):
        groups = jnp.zeros(shape[:1], jnp.int32)
        loss, rw = row.rule.reweight(state, losses, groups)
        return loss, rw.weights, row.rule.told(tx, state, losses, groups)

    loss, weights, state = step(row.rule.trained_rule, jnp.zeros(shape))
    assert loss == 0 and weights.shape == shape
    row.rule.expect_same(state, row.rule.trained_rule, "the state")


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 31, 100])
def test_the_loss_is_finite_where_all_losses_are(size):
    """Each weight gives way a little, and rounding must not add up beyond the largest number."""
    state = also_optax.reweight_by_rgd(clip=1.0).init(None)
    loss_of = jax.jit(lambda losses: also_optax.reweight(state, losses)[0])
    for value in (LARGEST, 2e38, 1.1e38, *np.random.default_rng(0).uniform(1e37, LARGEST, 20)):
        assert np.isfinite(loss_of(jnp.full(size, value, jnp.float32))), value
