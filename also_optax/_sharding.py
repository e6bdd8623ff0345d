"""Where every leaf of an optimizer's state lives on a mesh."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from also_optax._accumulation import MultiStepsState
from also_optax._base import AxisName, is_rule_state


def state_shardings(tx: optax.GradientTransformation, params: Any, mesh: Mesh, *, groups_axis: AxisName = None) -> Any:
    """The sharding of each leaf of ``tx.init(params)``, for ``jit``, ``device_put`` and checkpoints.

    What is kept per parameter (Adam's moments, gradients) lives where its parameter does, and all else is replicated:
    left to itself, ``jax.jit(tx.init)`` replicates the moments too. For a great many groups, such as one per example,
    `groups_axis` splits the rule's tables of ``[G]`` as well; the training step stays as it is. Sharded tables are for
    ``jax.jit``, on Auto and Explicit meshes: inside ``shard_map`` a rule needs its tables whole.

    The result fits ``jax.jit(tx.init, out_shardings=...)`` and ``jax.device_put(opt_state, ...)``, and also
    ``out_shardings`` of a step on an Auto mesh, where the compiler would choose. To restore a checkpoint onto any
    mesh, give Orbax ``jax.ShapeDtypeStruct(shape, dtype, sharding=...)`` for the leaves of
    ``jax.eval_shape(tx.init, params)``.

    Args:
      tx: any optimizer, with a rule inside or without.
      params: the parameters, arrays or ``jax.ShapeDtypeStruct``; those whose ``sharding`` is on `mesh` keep it, those
        without one, or on a single device, count as replicated. A leaf of the state that has not the shape of its
        parameter (Adafactor's) is replicated.
      mesh: where the state is to live.
      groups_axis: the axis of `mesh`, or the axes, to split tables of groups over; their size must divide G.

    Returns:
      A tree of ``NamedSharding`` on `mesh`, of the structure of ``tx.init(params)``.

    Raises:
      ValueError: if `groups_axis` is not on `mesh`, does not divide G, or the rule has no tables to split, or if a
        parameter lives on another mesh.

    Examples:
      >>> import jax, jax.numpy as jnp, also_optax
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], "data")
      >>> tx = also_optax.also(1e-3, num_groups=1000)
      >>> params = {"w": jnp.zeros(3)}
      >>> shardings = also_optax.state_shardings(tx, params, mesh, groups_axis="data")
      >>> opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
      >>> print(*(tuple(leaf.sharding.spec) for leaf in (opt_state[0].tilt, opt_state[0].step)))
      ('data',) ()
    """
    axes = () if groups_axis is None else (groups_axis,) if isinstance(groups_axis, str) else tuple(groups_axis)
    if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
        raise ValueError(f"`groups_axis` must name axes of `mesh`, which has {mesh.axis_names}, got {unknown[0]!r}.")
    replicated = NamedSharding(mesh, PartitionSpec())
    param_shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    state = jax.eval_shape(tx.init, param_shapes)

    def like_param(leaf: Any, shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Any:
        if _is_masked(leaf):
            return leaf
        return sharding if leaf.shape == shape.shape else replicated

    shardings = optax.tree_map_params(
        tx,
        like_param,
        state,
        param_shapes,
        jax.tree.map(lambda p: _param_sharding(p, mesh), params),
        transform_non_params=lambda _: replicated,
        is_leaf=_is_masked,
    )
    return shardings if groups_axis is None else _with_tables(state, shardings, mesh, axes)


def _with_tables(state: Any, shardings: Any, mesh: Mesh, axes: tuple[str, ...]) -> Any:
    """`shardings` of `state` with the rule's tables split over `axes`; arrays elsewhere may be of their shape."""
    rules = [node for node in jax.tree.leaves(state, is_leaf=is_rule_state) if is_rule_state(node)]
    if not rules:
        raise ValueError("`groups_axis` splits a rule's tables, and there is no rule in `tx`; leave it out.")
    num_groups = rules[0].num_groups
    if num_groups is None:
        raise ValueError(
            f"`groups_axis` splits tables of groups, and {type(rules[0]).__name__} keeps none; leave it out."
        )
    size = math.prod(mesh.shape[axis] for axis in axes)
    if num_groups % size:
        raise ValueError(
            f"`groups_axis` {axes} splits tables into {size} parts, which must divide the {num_groups} groups: add "
            f"{-num_groups % size} groups that no example has, of `prior` 0, or choose other axes."
        )

    split = NamedSharding(mesh, PartitionSpec(axes[0] if len(axes) == 1 else axes))

    no_tables = getattr(rules[0], "no_tables", ())

    def tables(path: Any, leaf: Any, sharding: Any) -> Any:
        named = any(getattr(key, "name", None) in no_tables for key in path)
        return split if leaf.shape[:1] == (num_groups,) and not named else sharding

    def place(node: Any, shardings: Any) -> Any:
        if is_rule_state(node):
            return jax.tree.map_with_path(tables, node, shardings)
        if isinstance(node, MultiStepsState):
            inner = jax.tree.map(place, node.inner_state, shardings.inner_state, is_leaf=_is_placed)
            statistics = jax.tree.map_with_path(tables, node.statistics, shardings.statistics)
            return shardings._replace(statistics=statistics, inner_state=inner)
        return shardings

    return jax.tree.map(place, state, shardings, is_leaf=_is_placed)


def _param_sharding(param: Any, mesh: Mesh) -> NamedSharding:
    """Where a parameter lives on `mesh`."""
    sharding = getattr(param, "sharding", None)
    if sharding is None or isinstance(sharding, SingleDeviceSharding):
        return NamedSharding(mesh, PartitionSpec())
    own = mesh.abstract_mesh if isinstance(getattr(sharding, "mesh", None), AbstractMesh) else mesh
    if not isinstance(sharding, NamedSharding) or sharding.mesh != own:
        raise ValueError(
            f"`params` must live on `mesh`, {mesh}, got one with {sharding}: `jax.device_put` them there first, or "
            "pass `jax.ShapeDtypeStruct`s with the shardings that they will have."
        )
    return NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)


def _is_placed(node: Any) -> bool:
    return is_rule_state(node) or isinstance(node, MultiStepsState)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
