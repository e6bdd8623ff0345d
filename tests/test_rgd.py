"""RGD against its equations in NumPy; and the states of all rules through checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import serialization

import also_optax
from also_optax import divergences
from tests import reference
from tests.problems import START, trajectory
from tests.reference import rgd as reference_rgd

DIVERGENCES = {
    "kl": (divergences.kl, reference_rgd.kl),
    "chi2": (divergences.chi2, reference_rgd.chi2),
    "reverse_kl": (divergences.reverse_kl, reference_rgd.reverse_kl),
}
FOCAL = divergences.Divergence(lambda losses, clip: (1 - jnp.exp(-losses)) ** clip)


def _growing(step):
    return 0.2 + 0.1 * step


def _close(actual, desired, float32=1e-5, float64=1e-10):
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


# --- The equations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("clip", [0.5, 1.0, 7.0])
def test_the_weights_are_those_of_the_divergence(name, clip):
    divergence, expected = DIVERGENCES[name]
    losses = [-2.0, -0.3, 0.0, 0.4, 0.5, 0.9, 1.0, 3.0, 1e4, 1e30]
    opt_state = also_optax.reweight_by_rgd(clip, divergence).init(())
    weights = also_optax.example_weights(opt_state, jnp.array(losses))
    _close(weights, [expected(loss, clip) for loss in losses], float32=2e-6, float64=1e-14)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_rgd_walks_the_path_of_the_equations(x64, name):
    divergence, expected_weight = DIVERGENCES[name]
    problem = reference.logistic_problem()
    expected = reference_rgd.trajectory(problem, START, learning_rate=0.05, clip=_growing, divergence=expected_weight)
    actual = trajectory(also_optax.rgd(0.05, clip=_growing, divergence=divergence), problem)
    _close(actual.params, expected.params)
    _close(actual.weights, expected.weights)


def test_rgd_walks_the_path_of_the_equations_in_the_default_precision():
    problem = reference.logistic_problem()
    expected = reference_rgd.trajectory(problem, START, learning_rate=0.05, clip=1.0, divergence=reference_rgd.kl)
    actual = trajectory(also_optax.rgd(0.05), problem)
    _close(actual.params, expected.params)
    _close(actual.weights, expected.weights)


def test_another_optimizer_takes_the_place_of_adam():
    problem = reference.logistic_problem()
    actual = trajectory(also_optax.rgd(0.05, clip=2.0, optimizer=optax.scale_by_lion(b1=0.8)), problem)
    expected = trajectory(
        optax.chain(also_optax.reweight_by_rgd(2.0), optax.lion(0.05, b1=0.8, weight_decay=0)), problem
    )
    _close(actual.params, expected.params, float32=1e-6, float64=1e-14)


def test_a_divergence_of_ones_own_weighs():
    opt_state = also_optax.rgd(0.1, clip=2.0, divergence=FOCAL).init(jnp.zeros(2))
    weights = also_optax.example_weights(opt_state, jnp.array([0.0, 0.5, 3.0]))
    _close(weights, (1 - np.exp([-0.0, -0.5, -3.0])) ** 2, float32=1e-6, float64=1e-14)


def test_the_three_divergences_agree_on_a_loss_of_zero_and_order_the_rest():
    weights = {
        name: also_optax.example_weights(also_optax.reweight_by_rgd(1.0, ours).init(()), jnp.array([0.0, 0.4, 1.0]))
        for name, (ours, _) in DIVERGENCES.items()
    }
    for name in DIVERGENCES:
        assert weights[name][0] == 1
    assert (weights["chi2"][1:] < weights["kl"][1:]).all()
    assert (weights["kl"][1:] < weights["reverse_kl"][1:]).all()


def test_the_weights_do_not_depend_on_the_rest_of_the_batch_or_the_past():
    tx = also_optax.reweight_by_rgd()
    opt_state = tx.init(())
    before = also_optax.example_weights(opt_state, jnp.array([0.7, 0.1, 2.0]))
    _, opt_state = tx.update((), opt_state, losses=jnp.array([50.0, 80.0]))
    after = also_optax.example_weights(opt_state, jnp.array([0.7, 90.0, 0.0]))
    _close(after[0], before[0], float32=3e-7, float64=1e-15)


# --- The state --------------------------------------------------------------------------------------------------------


def test_states_of_one_divergence_are_of_one_type():
    def structure(divergence):
        return jax.tree.structure(also_optax.reweight_by_rgd(divergence=divergence).init(()))

    assert structure(divergences.chi2) == structure(divergences.chi2)
    assert structure(divergences.chi2) == structure(divergences.Divergence(divergences.chi2.weight_fn))
    assert structure(divergences.chi2) != structure(divergences.kl)
    assert isinstance(also_optax.reweight_by_rgd(divergence=divergences.chi2).init(()), also_optax.RgdState)


def test_the_state_of_each_divergence_keeps_its_own_weights():
    """The divergence belongs to the state's type, so that two in one program do not mix."""
    states = {name: also_optax.reweight_by_rgd(1.0, ours).init(()) for name, (ours, _) in DIVERGENCES.items()}
    for name, (_, expected) in DIVERGENCES.items():
        weights = jax.jit(also_optax.example_weights)(states[name], jnp.array([0.5]))
        _close(weights, [expected(0.5, 1.0)], float32=1e-6, float64=1e-14)


CHECKPOINTED = {
    "also": lambda: also_optax.also(
        0.01, 3, dual_learning_rate=0.3, prior=[1, 2, 3], group_frequencies=[3, 2, 1], kl_penalty=_growing
    ),
    "also, look-ahead": lambda: also_optax.also(0.01, 3, dual_learning_rate=0.3, lookahead=True),
    "absgd": lambda: also_optax.absgd(0.01, temperature=_growing, averaging_rate=0.4),
    "rgd, one's own": lambda: also_optax.rgd(0.01, clip=2.0, divergence=FOCAL),
}
LOSSES = jnp.array([0.2, 1.4, 0.9, 3.0])
GROUPS = jnp.array([0, 1, 1, 2])


def _through_bytes(opt_state, template, path):
    del path
    return serialization.from_bytes(template, serialization.to_bytes(opt_state))


def _through_orbax(opt_state, template, path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", opt_state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state", template)


@pytest.mark.parametrize("store", [_through_bytes, _through_orbax])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_a_state_comes_back_from_a_checkpoint_with_the_same_weights(name, store, tmp_path):
    params = {"w": jnp.array([0.3, -0.2])}

    @jax.jit
    def step(opt_state):
        grads = {"w": jnp.array([1.0, -2.0])}
        return tx.update(grads, opt_state, params, losses=LOSSES, groups=GROUPS)

    tx = CHECKPOINTED[name]()
    opt_state = tx.init(params)
    for _ in range(3):
        _, opt_state = step(opt_state)

    tx = CHECKPOINTED[name]()  # as the resuming program has it
    restored = store(opt_state, tx.init(params), tmp_path)

    assert jax.tree.structure(restored) == jax.tree.structure(opt_state)
    for state in (opt_state, restored):
        assert not np.allclose(also_optax.example_weights(state, LOSSES, GROUPS), 1)
    np.testing.assert_array_equal(
        also_optax.example_weights(restored, LOSSES, GROUPS), also_optax.example_weights(opt_state, LOSSES, GROUPS)
    )
    for actual, expected in zip(jax.tree.leaves(step(restored)), jax.tree.leaves(step(opt_state)), strict=True):
        np.testing.assert_array_equal(actual, expected)
