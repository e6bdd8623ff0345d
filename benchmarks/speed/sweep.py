"""Part e: a grid of the adversary's hyperparameters trained at once under `jax.vmap`, against one after another.

Both sides run the same training, compiled once, with the hyperparameters as arguments.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import also_optax
from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.timing import in_turns

EXAMPLES, FEATURES, BATCH, WIDTH = 512, 64, 64, 32


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`."""
    train = _training(case, protocol)
    rates = np.geomspace(1e-3, 1e-1, protocol.grid_side)
    penalties = np.geomspace(1e-3, 1.0, protocol.grid_side)
    pairs = [jnp.array(axis.ravel(), jnp.float32) for axis in np.meshgrid(rates, penalties)]
    alone = [(jnp.array(rate), jnp.array(penalty)) for rate, penalty in zip(*pairs, strict=True)]
    one, grid = jax.jit(train), jax.jit(jax.vmap(train))

    def one_after_another(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready([one(rate, penalty) for rate, penalty in alone])

    def at_once(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(grid(*pairs))

    return in_turns(one_after_another, at_once, protocol.effort, on_pair).line() | {"grid": len(alone)}


def _training(case: Case, protocol: Protocol) -> Callable[[jax.Array, jax.Array], Any]:
    """Two groups, the second one in ten, where another feature decides; a network with one hidden layer."""
    rng = np.random.default_rng(0)
    x = jnp.array(rng.standard_normal((EXAMPLES, FEATURES), dtype=np.float32))
    groups = jnp.array(np.arange(EXAMPLES) % 10 == 0, jnp.int32)
    y = jnp.where(groups == 1, x[:, 1] > 0, x[:, 0] > 0).astype(jnp.float32)
    draws = jnp.array(rng.integers(0, EXAMPLES, (protocol.grid_steps, BATCH), dtype=np.int32))
    start = {
        "hidden": jnp.array(rng.standard_normal((FEATURES, WIDTH), dtype=np.float32) / np.float32(FEATURES**0.5)),
        "out": jnp.zeros((WIDTH,)),
    }
    frequencies = jnp.array([0.9, 0.1])

    def losses(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(jax.nn.relu(x @ params["hidden"]) @ params["out"], y)

    def train(dual_learning_rate: jax.Array, kl_penalty: jax.Array) -> Any:
        tx = also_optax.also(
            1e-2,
            2,
            dual_learning_rate=dual_learning_rate,
            kl_penalty=kl_penalty,
            optimism=case.optimism or 0,
            group_frequencies=frequencies,
        )

        def step(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            params, opt_state = carry
            value_and_grad = also_optax.value_and_grad(losses)
            (loss, rw), grads = value_and_grad(params, opt_state, x[rows], y[rows], groups=groups[rows])
            updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, opt_state), seen = jax.lax.scan(step, (start, tx.init(start)), draws)
        return params, also_optax.group_weights(opt_state), seen

    return train
