"""Small, asymmetric problems that every rule can be trained on, and the loops that train."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import also_optax
from tests import reference

NUM_GROUPS = 3
FREQUENCIES = np.array([0.5, 0.3, 0.2])
START = np.array([0.3, 0.1, -0.2, -0.4])
PRIOR = np.array([0.2, 0.3, 0.5])


class Batch(NamedTuple):
    """Regression examples in unequal groups."""

    x: jax.Array
    y: jax.Array
    groups: jax.Array
    where: jax.Array


def batches(steps: int, size: int = 8, seed: int = 0) -> Batch:
    """`steps` batches, stacked: no group is in all of them, and some entries are masked."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(NUM_GROUPS, p=FREQUENCIES, size=(steps, size))
    x = rng.normal(size=(steps, size, 3)) + groups[..., None]
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=(steps, size)) * (1 + groups) + 0.7
    return Batch(
        jnp.asarray(x, float),
        jnp.asarray(y, float),
        jnp.asarray(groups, jnp.int32),
        jnp.asarray(rng.random((steps, size)) < 0.8),
    )


def batch_at(stacked: Batch, step: int) -> Batch:
    return jax.tree.map(lambda leaf: leaf[step], stacked)


def init_params(dtype: Any = float) -> dict[str, jax.Array]:
    return {"w": jnp.array([0.3, -0.1, 0.2], dtype), "b": jnp.array(0.1, dtype)}


def losses_of(params: dict[str, jax.Array], batch: Batch) -> jax.Array:
    """Squared errors, ``[B]``."""
    return (batch.x.astype(params["w"].dtype) @ params["w"] + params["b"] - batch.y.astype(params["b"].dtype)) ** 2


loss_and_grads = also_optax.value_and_grad(losses_of)


def outside(tree: Any) -> Any:
    """`tree` with a rule's scores as the weights that they stand for; their bins magnify what rounding does to them."""

    def is_rule(node: Any) -> bool:
        return isinstance(node, (also_optax.AlsoScoresState, also_optax.ExponentiatedGradientState))

    def of(node: Any) -> Any:
        if not is_rule(node):
            return node
        log_weights = jnp.asarray(node.log_prior) + node.scores.log_ratios(node.step)
        rule = node._replace(scores=None)
        if getattr(node, "average_losses", None) is not None:
            rule = rule._replace(average_losses=node.average_losses.value())
        return {"rule": rule, "log_weights": log_weights}

    return jax.tree.map(of, tree, is_leaf=is_rule)


def train_step(tx: optax.GradientTransformation, params: Any, opt_state: Any, batch: Batch) -> tuple[Any, Any]:
    (_, rw), grads = loss_and_grads(params, opt_state, batch, groups=batch.groups, where=batch.where)
    updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
    return optax.apply_updates(params, updates), opt_state


def train(tx: optax.GradientTransformation, stacked: Batch, params: Any = None) -> tuple[Any, Any]:
    """Parameters and state after all batches, in one scan."""
    params = init_params() if params is None else params

    def body(carry: Any, batch: Batch) -> tuple[Any, None]:
        return train_step(tx, *carry, batch), None

    return jax.jit(lambda carry: jax.lax.scan(body, carry, stacked)[0])((params, tx.init(params)))


def trajectory(tx: Any, problem: Any, *, reweighted: bool = True) -> reference.Trajectory:
    """The path of `tx` from START on the logistic problem, on the reweighted loss or on the plain mean, in one scan."""
    x, y = jnp.asarray(problem.inputs, float), jnp.asarray(problem.labels, float)
    tx = optax.with_extra_args_support(tx)

    def step(carry, batch):
        (params, opt_state), (rows, where) = carry, batch

        def loss_fn(params):
            losses = optax.sigmoid_binary_cross_entropy(x[rows] @ params, y[rows])
            if not reweighted:
                return losses.mean(where=where), also_optax.Reweighted(losses, where.astype(losses.dtype))
            return also_optax.reweight(opt_state, losses, where=where)

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), reference.Trajectory(params, rw.losses, rw.weights)

    params = jnp.asarray(START, float)
    batches = (jnp.asarray(problem.batches), jnp.asarray(problem.where))
    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches)[1])()
