"""A small, asymmetric regression that any rule can be trained on, and the loops that train."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from also_optax._read import value_and_grad


class Batch(NamedTuple):
    """Regression examples in unequal groups.

    Attributes:
      x: inputs, ``[B, 3]``.
      y: targets, ``[B]``.
      groups: int ids in ``[0, G)``, ``[B]``.
      where: false is padding, ``[B]``.
    """

    x: jax.Array
    y: jax.Array
    groups: jax.Array
    where: jax.Array


def batches(frequencies: np.ndarray, steps: int, size: int = 8, seed: int = 0) -> Batch:
    """`steps` batches, stacked: groups are drawn by `frequencies`, ``[G]``, and some entries are masked."""
    rng = np.random.default_rng(seed)
    num_groups = len(frequencies)
    groups = rng.choice(num_groups, p=frequencies, size=(steps, size))
    level = groups * 2 / max(num_groups - 1, 1)
    x = rng.normal(size=(steps, size, 3)) + level[..., None]
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=(steps, size)) * (1 + level) + 0.7
    return Batch(
        jnp.asarray(x, float),
        jnp.asarray(y, float),
        jnp.asarray(groups, jnp.int32),
        jnp.asarray(rng.random((steps, size)) < 0.8),
    )


def batch_at(stacked: Batch, step: int) -> Batch:
    """One of stacked batches."""
    return jax.tree.map(lambda leaf: leaf[step], stacked)


def init_params(dtype: Any = float) -> dict[str, jax.Array]:
    """Parameters to start from."""
    return {"w": jnp.array([0.3, -0.1, 0.2], dtype), "b": jnp.array(0.1, dtype)}


def losses_of(params: dict[str, jax.Array], batch: Batch) -> jax.Array:
    """Squared errors, ``[B]``."""
    return (batch.x.astype(params["w"].dtype) @ params["w"] + params["b"] - batch.y.astype(params["b"].dtype)) ** 2


loss_and_grads = value_and_grad(losses_of)


def train_step(
    tx: optax.GradientTransformation, params: Any, opt_state: Any, batch: Batch, *, needs_reference: bool = False
) -> tuple[Any, Any]:
    """One step; a rule that needs reference losses gets zeros, by which the losses stay what they are."""
    arguments: dict[str, Any] = {"groups": batch.groups, "where": batch.where}
    if needs_reference:
        arguments["reference_losses"] = jnp.zeros_like(batch.y)
    (_, rw), grads = loss_and_grads(params, opt_state, batch, **arguments)
    updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
    return optax.apply_updates(params, updates), opt_state


def train(
    tx: optax.GradientTransformation, stacked: Batch, params: Any = None, *, needs_reference: bool = False
) -> tuple[Any, Any]:
    """Parameters and state after all batches, in one scan."""
    params = init_params() if params is None else params

    def body(carry: Any, batch: Batch) -> tuple[Any, None]:
        params, opt_state = carry
        return train_step(tx, params, opt_state, batch, needs_reference=needs_reference), None

    return jax.jit(lambda carry: jax.lax.scan(body, carry, stacked)[0])((params, tx.init(params)))
