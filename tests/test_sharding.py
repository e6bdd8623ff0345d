"""`state_shardings`: every leaf of an optimizer's state has its place, inside any wrapper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import also_optax
from also_optax._read import find_rule_state

NUM_GROUPS = 8
MESH = functools.cache(lambda: jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2))
BOTH = {"w": True, "b": True}


def also(learning_rate: float = 0.1, **settings) -> optax.GradientTransformationExtraArgs:
    settings = {"prior": np.arange(1.0, 9), "group_frequencies": np.arange(9.0, 1, -1)} | settings
    return also_optax.also(learning_rate, NUM_GROUPS, **settings)


def with_extra_args(steps: optax.MultiSteps) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(steps.init, steps.update)


def partitioned() -> optax.GradientTransformation:
    primal = optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}, {"w": "a", "b": "b"})
    return optax.chain(also_optax.reweight_by_also(NUM_GROUPS), primal)


# Each with how many trees like the parameters its state keeps.
WRAPPED = {
    "also": (also, 3),
    "lookahead": (functools.partial(also, lookahead=True), 3),
    "chain": (lambda: optax.chain(optax.clip(1.0), also(), optax.ema(0.9)), 4),
    "named_chain": (lambda: optax.named_chain(("first", optax.clip(1.0)), ("second", also())), 3),
    "inject_hyperparams": (
        lambda: optax.inject_hyperparams(also_optax.also, static_args=("num_groups",))(0.1, num_groups=NUM_GROUPS),
        3,
    ),
    "masked": (lambda: optax.masked(also(), BOTH), 3),
    "masked_out": (lambda: optax.chain(also(), optax.masked(optax.trace(0.9), {"w": False, "b": True})), 3),
    "MultiSteps": (lambda: with_extra_args(optax.MultiSteps(also(), 2)), 4),
    "multi_steps": (lambda: also_optax.multi_steps(also(), 2), 4),
    "apply_if_finite": (lambda: optax.apply_if_finite(also(), 2), 3),
    "partition": (partitioned, 2),
    "inside_partition": (lambda: optax.partition({"all": also()}, {"w": "all", "b": "all"}), 3),
    "schedule_free": (lambda: optax.contrib.schedule_free(also(), 0.1), 4),
    "adafactor": (
        lambda: optax.chain(also_optax.reweight_by_also(NUM_GROUPS), optax.adafactor(0.1, min_dim_size_to_factor=1)),
        0,
    ),
}


def placed_params() -> dict[str, jax.Array]:
    """A matrix split over the model axis, and a vector as long as there are groups."""
    placement = {"w": NamedSharding(MESH(), PartitionSpec("model")), "b": NamedSharding(MESH(), PartitionSpec())}
    return jax.device_put({"w": jnp.zeros((4, 2)), "b": jnp.zeros(NUM_GROUPS)}, placement)


def axes_of(tree) -> list[tuple]:
    return [tuple(axis for axis in sharding.spec if axis is not None) for sharding in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("abstract", [False, True], ids=["arrays", "shapes"])
def test_moments_live_where_their_parameters_do_and_the_rest_is_replicated(name, abstract):
    make, trees = WRAPPED[name]
    params = placed_params()
    if abstract:
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
    shardings = also_optax.state_shardings(make(), params, MESH())
    assert jax.tree.structure(shardings) == jax.tree.structure(jax.eval_shape(make().init, params))
    axes = axes_of(shardings)
    assert axes.count(("model",)) == trees and axes.count(()) == len(axes) - trees


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("groups_axis", ["data", ("data", "model")])
def test_tables_of_groups_are_split_and_parameters_of_their_shape_are_not(name, groups_axis):
    make, _ = WRAPPED[name]
    params = placed_params()
    whole = also_optax.state_shardings(make(), params, MESH())
    split = also_optax.state_shardings(make(), params, MESH(), groups_axis=groups_axis)
    state = jax.jit(make().init, out_shardings=split)(params)
    tables = NamedSharding(MESH(), PartitionSpec(groups_axis))
    leaves = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(whole), jax.tree.leaves(split), strict=True)
    moved = [(path, leaf) for (path, leaf), before, after in leaves if before != after]
    for path, leaf in moved:
        assert leaf.sharding == tables and leaf.shape == (NUM_GROUPS,), path
    rule = [leaf for leaf in jax.tree.leaves(find_rule_state(state)) if leaf.shape == (NUM_GROUPS,)]
    assert len(moved) == len(rule) + (name == "multi_steps") >= 3  # its statistics are one more


def test_device_put_and_jit_give_the_same_state():
    tx, params = also(), placed_params()
    shardings = also_optax.state_shardings(tx, params, MESH(), groups_axis="data")
    made, put = jax.jit(tx.init, out_shardings=shardings)(params), jax.device_put(tx.init(params), shardings)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(put), strict=True):
        assert one.sharding == other.sharding
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("params", [{"w": np.zeros(3)}, {"w": 0.5}, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}])
def test_parameters_without_a_place_are_replicated(params):
    for tx in (also(), optax.adam(0.1), optax.sgd(0.1)):
        assert set(axes_of(also_optax.state_shardings(tx, params, MESH()))) <= {()}


def test_parameters_of_one_device_are_replicated():
    assert set(axes_of(also_optax.state_shardings(also(), {"w": jnp.zeros(3)}, MESH()))) == {()}


def test_a_bare_parameter_of_as_many_entries_as_groups_is_no_table():
    params = jax.device_put(jnp.zeros(NUM_GROUPS), NamedSharding(MESH(), PartitionSpec("model")))
    shardings = also_optax.state_shardings(also_optax.multi_steps(also(), 2), params, MESH(), groups_axis="data")
    assert axes_of(shardings.gradient_sum) == [("model",)]
    assert axes_of(shardings.statistics.losses) == axes_of(shardings.inner_state[0].tilt) == [("data",)]
    assert axes_of((shardings.inner_state[2].mu, shardings.inner_state[2].nu)) == [("model",)] * 2


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups_axis", ["modle", ("data", "modle")])
def test_an_axis_that_the_mesh_has_not_is_named(groups_axis):
    with pytest.raises(ValueError, match=r"`groups_axis` must name axes of `mesh`, .*'data', 'model'.*, got 'modle'"):
        also_optax.state_shardings(also(), placed_params(), MESH(), groups_axis=groups_axis)


def test_axes_that_do_not_divide_the_groups_are_told_how_many_to_add():
    tx = also_optax.also(0.1, 13)
    with pytest.raises(ValueError, match=r"8 parts, which must divide the 13 groups: add 3 groups"):
        also_optax.state_shardings(tx, placed_params(), MESH(), groups_axis=("data", "model"))


@pytest.mark.parametrize("tx", [also_optax.rgd(0.1), also_optax.absgd(0.1, temperature=1.0)], ids=["rgd", "absgd"])
def test_a_rule_without_tables_has_none_to_split(tx):
    assert axes_of(also_optax.state_shardings(tx, placed_params(), MESH()))
    with pytest.raises(ValueError, match=r"(RgdState|AbsgdState) keeps none; leave it out"):
        also_optax.state_shardings(tx, placed_params(), MESH(), groups_axis="data")


def test_an_optimizer_without_a_rule_has_no_tables():
    with pytest.raises(ValueError, match="there is no rule in `tx`; leave it out"):
        also_optax.state_shardings(optax.adam(0.1), placed_params(), MESH(), groups_axis="data")


def test_parameters_on_another_mesh_are_refused():
    other = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"`params` must live on `mesh`, .*`jax\.device_put` them there first"):
        also_optax.state_shardings(also(), placed_params(), other)
