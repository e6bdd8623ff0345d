"""Reference losses: the adversary sees the excess, the model is trained on its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import problems
from tests.problems import assert_close

LOSSES = jnp.array([3.0, 0.5, 2.0, 1.0, 0.7])
REFERENCE = jnp.array([2.9, 0.1, 0.5, 1.5, 0.7])
GROUPS = jnp.array([0, 1, 2, 0, 1])
WHERE = jnp.array([True, True, True, True, False])

RULES = {
    "also": also_optax.reweight_by_also(3, dual_learning_rate=0.5),
    "also_lazy": also_optax.reweight_by_also(3, dual_learning_rate=0.5, lazy=True),
    "absgd": also_optax.reweight_by_absgd(1.0),
    "rgd": also_optax.reweight_by_rgd(2.0),
    "cvar": also_optax.reweight_by_cvar(0.4),
    "group_dro": also_optax.reweight_by_group_dro(3, 0.5),
    "doremi": also_optax.reweight_by_doremi(3),
    "exponentiated_gradient": also_optax.reweight_by_exponentiated_gradient(3, 0.5),
    "tilted_groups": also_optax.reweight_by_tilted(1.0, num_groups=3),
}
rules = pytest.mark.parametrize("tx", RULES.values(), ids=RULES.keys())


def moved(tx):
    """A state that is no longer that of the start, whose weights differ."""
    batch = {"losses": LOSSES[::-1], "reference_losses": jnp.zeros(5), "groups": GROUPS}
    return tx.update(None, tx.init(None), **batch)[1]


@rules
def test_the_adversary_sees_the_excess_on_both_sides_and_the_loss_stays_that_of_the_losses(tx):
    state = moved(tx)
    loss, rw = also_optax.reweight(state, LOSSES, GROUPS, where=WHERE, reference_losses=REFERENCE)
    zeros = {"reference_losses": jnp.zeros(5)}
    _, excess = also_optax.reweight(state, LOSSES - REFERENCE, GROUPS, where=WHERE, **zeros)
    assert_close(rw.weights, excess.weights)
    assert_close(loss, (rw.weights * LOSSES).sum() / 4)
    assert set(rw.extra_args) == {"losses", "groups", "where", "reference_losses"}
    after, expected = (tx.update(None, state, **of.extra_args)[1] for of in (rw, excess))
    jax.tree.map(assert_close, problems.outside(after), problems.outside(expected))


@rules
def test_every_function_of_the_read_side_takes_them(tx):
    state = moved(tx)
    batch = {"groups": GROUPS, "where": WHERE, "reference_losses": REFERENCE}
    loss, rw = also_optax.reweight(state, LOSSES, **batch)
    assert_close(also_optax.example_weights(state, LOSSES, **batch), rw.weights)
    statistics = also_optax.observe(state, LOSSES, **batch)
    assert_close(also_optax.example_weights(state, LOSSES, **batch, statistics=statistics), rw.weights)
    fn = also_optax.value_and_grad(lambda losses: losses)
    (value, _), grads = fn(LOSSES, state, **batch)
    assert_close(value, loss)
    assert_close(grads, rw.weights / 4)


@pytest.mark.parametrize("name", ["also", "rgd"])
def test_micro_batches_with_references_are_one_batch(name):
    tx = optax.chain(RULES[name], optax.sgd(0.1))
    params = jnp.array(0.5)
    fn = also_optax.value_and_grad(lambda params, x: (params - x) ** 2)

    def step(tx, params, opt_state, part):
        batch = {"groups": GROUPS[part], "reference_losses": REFERENCE[part]}
        (_, rw), grads = fn(params, opt_state, LOSSES[part], **batch)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return updates, opt_state

    expected, state = step(tx, params, tx.init(params), slice(None))
    accumulating = also_optax.multi_steps(tx, 2)
    none, micro_state = step(accumulating, params, accumulating.init(params), slice(2))
    updates, micro_state = step(accumulating, params, micro_state, slice(2, 5))
    assert none == 0
    assert_close(updates, expected)
    jax.tree.map(assert_close, micro_state.inner_state, state)


@rules
def test_a_reference_that_is_not_finite_is_rejected(tx):
    state = moved(tx)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        _, rw = also_optax.reweight(state, LOSSES, GROUPS, reference_losses=REFERENCE.at[1].set(bad))
        assert rw.weights[1] == 0 and np.isfinite(rw.weights).all()
        keep = jnp.array([0, 2, 3, 4])
        _, clean = also_optax.reweight(state, LOSSES[keep], GROUPS[keep], reference_losses=REFERENCE[keep])
        assert_close(rw.weights[keep], clean.weights)
        after = tx.update(None, state, **rw.extra_args)[1]
        assert int(after.rejected) == 1


def test_a_reference_of_padding_may_be_anything():
    state = moved(RULES["also"])
    _, rw = also_optax.reweight(state, LOSSES, GROUPS, where=WHERE, reference_losses=REFERENCE.at[4].set(jnp.nan))
    assert int(RULES["also"].update(None, state, **rw.extra_args)[1].rejected) == 0


def test_references_of_half_precision_and_of_sequences_are_taken_off_in_full():
    losses, reference = jnp.full((2, 3), 1000.5), jnp.full((2, 3), 1000.0, jnp.bfloat16)
    weights = also_optax.example_weights(RULES["rgd"].init(None), losses, reference_losses=reference)
    assert_close(weights, np.exp(0.5 / 3))


def test_references_to_1e30_leave_a_finite_excess():
    losses, reference = jnp.array([1e30, -1e30, 3e38]), jnp.array([-1e30, 3e38, -3e38])
    weights = also_optax.example_weights(RULES["absgd"].init(None), losses, reference_losses=reference)
    assert np.isfinite(weights).all()


def test_no_gradient_flows_through_the_reference():
    state = moved(RULES["doremi"])

    def loss(shift):
        return also_optax.reweight(state, LOSSES, GROUPS, reference_losses=REFERENCE + shift)[0]

    assert jax.grad(loss)(0.3) == 0


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        (
            REFERENCE[:4],
            ValueError,
            r"`reference_losses` must have the shape of `losses`, here \(5,\), got shape \(4,\)",
        ),
        (jnp.array(1.0), ValueError, "`reference_losses` must have the shape of `losses`"),
        (GROUPS, TypeError, "`reference_losses` must be floating point, got dtype int"),
    ],
)
def test_a_wrong_reference_is_an_error_on_both_sides(reference, error, message):
    tx = RULES["doremi"]
    state = tx.init(None)
    for side in (
        lambda: also_optax.reweight(state, LOSSES, GROUPS, reference_losses=reference),
        lambda: tx.update(None, state, losses=LOSSES, groups=GROUPS, reference_losses=reference),
    ):
        with pytest.raises(error, match=message):
            side()
