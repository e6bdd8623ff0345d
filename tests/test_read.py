"""Finding the rule, and what the read side returns."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import problems

BATCH = problems.batch_at(problems.batches(1), 0)


def test_weights_of_one_are_the_mean_of_plain_training():
    opt_state = also_optax.also(1e-3, problems.NUM_GROUPS).init(problems.init_params())
    losses = problems.losses_of(problems.init_params(), BATCH)
    loss, rw = also_optax.reweight(opt_state, losses, BATCH.groups, where=BATCH.where)
    assert (rw.weights == BATCH.where).all()
    np.testing.assert_allclose(loss, losses.mean(where=BATCH.where), rtol=1e-6)


def test_reweighted_carries_what_the_update_needs_and_no_more():
    opt_state = also_optax.rgd(1e-3).init(problems.init_params())
    _, rw = also_optax.reweight(opt_state, jnp.ones(2))
    assert list(rw.extra_args) == ["losses"]
    statistics = also_optax.observe(opt_state, jnp.ones(2))
    _, rw = also_optax.reweight(
        opt_state, jnp.ones(2), jnp.zeros(2, int), where=np.ones(2, bool), statistics=statistics
    )
    assert list(rw.extra_args) == ["losses", "groups", "where", "statistics"]


def test_value_and_grad_is_reweight_under_jax_value_and_grad():
    tx = also_optax.also(1e-3, problems.NUM_GROUPS, prior=problems.PRIOR)
    params = problems.init_params()
    opt_state = tx.init(params)

    def loss_fn(params):
        return also_optax.reweight(opt_state, problems.losses_of(params, BATCH), BATCH.groups, where=BATCH.where)

    (loss, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    fn = also_optax.value_and_grad(problems.losses_of)
    (sugar_loss, sugar_rw), sugar_grads = fn(params, opt_state, BATCH, groups=BATCH.groups, where=BATCH.where)
    np.testing.assert_array_equal(loss, sugar_loss)
    jax.tree.map(np.testing.assert_array_equal, (rw, grads), (sugar_rw, sugar_grads))


def test_value_and_grad_returns_aux_and_differentiates_by_argnums():
    opt_state = also_optax.rgd(1e-3).init(None)

    def scaled(params, scale):
        return params * scale, {"scale": scale}

    fn = also_optax.value_and_grad(scaled, argnums=(0, 1), has_aux=True)
    params, scale = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    (loss, (rw, aux)), grads = fn(params, opt_state, scale)
    np.testing.assert_allclose(rw.weights, np.exp(1 / 2), rtol=1e-6)
    np.testing.assert_allclose(loss, np.exp(1 / 2) * (3 + 8) / 2, rtol=1e-6)
    np.testing.assert_array_equal(aux["scale"], scale)
    np.testing.assert_allclose(grads[0], np.exp(1 / 2) * scale / 2, rtol=1e-6)
    np.testing.assert_allclose(grads[1], np.exp(1 / 2) * params / 2, rtol=1e-6)


def test_no_rule_in_the_state_is_an_error_that_says_so():
    opt_state = optax.adam(1e-3).init(problems.init_params())
    with pytest.raises(ValueError, match="found no rule state"):
        also_optax.reweight(opt_state, jnp.ones(2))


def test_an_optimizer_in_the_place_of_its_state_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"got a GradientTransformation.* Pass `tx\.init"):
        also_optax.reweight(also_optax.rgd(0.1), jnp.ones(2))


@pytest.mark.parametrize("places", [lambda params, state, x: (params, x), lambda params, state, x: (state, params, x)])
def test_value_and_grad_misses_the_state_before_the_loss_misses_an_argument(places):
    params, state = jnp.array(1.0), also_optax.rgd(0.1).init(jnp.array(1.0))
    fn = also_optax.value_and_grad(lambda params, x: (params - x) ** 2)
    with pytest.raises(ValueError, match="found no rule state in `opt_state`"):
        fn(*places(params, state, jnp.ones(2)))


def test_two_rules_in_the_state_are_an_error_that_names_them():
    tx = optax.chain(also_optax.reweight_by_rgd(), also_optax.reweight_by_absgd(1.0))
    with pytest.raises(ValueError, match=r"found 2 rule states .*RgdState, AbsgdState"):
        also_optax.reweight(tx.init(problems.init_params()), jnp.ones(2))


@pytest.mark.parametrize("make", [lambda: also_optax.rgd(1e-3), lambda: also_optax.absgd(1e-3, temperature=1.0)])
def test_group_weights_of_a_rule_without_groups_is_an_error_that_names_it(make):
    with pytest.raises(ValueError, match=r"(Rgd|Absgd)State keeps no weights of groups"):
        also_optax.group_weights(make().init(problems.init_params()))


def test_statistics_of_two_rules_do_not_merge():
    losses, groups = jnp.ones(2), jnp.zeros(2, int)
    states = also_optax.reweight_by_absgd(1.0).init(None), also_optax.reweight_by_rgd().init(None)
    with pytest.raises(TypeError, match="statistics of one rule, got LogMeanExp and Sums"):
        also_optax.merge(*(also_optax.observe(state, losses, groups) for state in states))


def test_any_named_tuple_with_the_members_of_a_rule_is_one():
    """The protocol is open: a user's own state works with the read side as it is."""

    class Doubled(also_optax.RgdState):
        __slots__ = ()

        def weigh(self, statistics, examples):
            return jnp.full_like(examples.losses, 2.0)

    state = Doubled(*also_optax.reweight_by_rgd().init(None))
    loss, _ = also_optax.reweight((optax.EmptyState(), state), jnp.array([1.0, 3.0]))
    assert loss == 4


def test_several_statistics_merge_at_once():
    state = also_optax.reweight_by_absgd(2.0).init(None)
    parts = [jnp.array([0.5, 4.0]), jnp.array([-1.0]), jnp.array([3.0, 0.1, 9.0])]
    merged = also_optax.merge(*(also_optax.observe(state, part) for part in parts))
    together = also_optax.observe(state, jnp.concatenate(parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), merged, together)


def test_a_stacked_state_asks_for_vmap():
    states = jax.vmap(lambda rate: also_optax.also(1e-3, 3, dual_learning_rate=rate).init(None))(jnp.ones(3))
    with pytest.raises(
        ValueError, match=r"AlsoState in `opt_state` is a stack of shape \(3,\): call this under `jax.vmap`"
    ):
        also_optax.group_weights(states)
    assert jax.vmap(also_optax.group_weights)(states).shape == (3, 3)


def test_value_and_grad_hands_keywords_on():
    opt_state = also_optax.rgd(1e-3).init(None)
    fn = also_optax.value_and_grad(lambda params, x, scale: params * x * scale)
    (loss, _), _ = fn(jnp.array(0.5), opt_state, jnp.array([1.0, 1.0]), scale=2.0)
    np.testing.assert_allclose(loss, np.exp(0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "has_aux", "message"),
    [
        (lambda x: (x, {}), False, "must return losses alone; is it `has_aux`"),
        (lambda x: x, True, r"must return a pair \(losses, aux\)"),
        (lambda x: (x, {}, {}), True, r"must return a pair \(losses, aux\)"),
    ],
)
def test_value_and_grad_says_what_the_loss_must_return(output, has_aux, message):
    opt_state = also_optax.rgd(1e-3).init(None)
    with pytest.raises(TypeError, match=message):
        also_optax.value_and_grad(output, has_aux=has_aux)(jnp.ones(2), opt_state)


def test_weights_of_any_size_have_a_finite_sum():
    """So that gradients of 1 have a finite sum too: here pi is 1/2 and q is 1e-40."""
    opt_state = also_optax.reweight_by_also(2, group_frequencies=[1e-40, 1.0]).init(None)
    loss, rw = also_optax.reweight(opt_state, jnp.full(100, 0.1), jnp.zeros(100, int))
    assert 1e35 < loss < jnp.inf
    assert 1e38 < rw.weights.sum() < jnp.inf


def test_lists_and_arrays_of_numpy_are_batches_too():
    opt_state = also_optax.also(1e-3, 2).init(None)
    _, rw = also_optax.reweight(opt_state, np.array([1.0, 2.0], np.float32), [0, 1], where=[True, False])
    assert rw.groups.shape == rw.where.shape == (2,) and rw.weights.tolist() == [1, 0]


def test_optimizers_can_be_made_before_the_devices_are():
    """As jax.distributed.initialize asks of everything that comes before it."""
    script = """
import also_optax, jax, optax
also_optax.also(0.1, 2, prior=[1, 2], group_frequencies=[1, 2], lookahead=True)
also_optax.multi_steps(also_optax.absgd(0.1, temperature=1.0), 2), also_optax.abadam(0.1, temperature=1.0)
also_optax.rgd(0.1), also_optax.past_extragradient(optax.sgd(0.1))
jax.config.update("jax_num_cpu_devices", 3)
assert jax.device_count() == 3
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=os.environ | {"JAX_PLATFORMS": "cpu"})
