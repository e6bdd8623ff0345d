"""Small, asymmetric problems that every rule can be trained on, and the loops that train."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import also_optax
from also_optax.testing import _problem
from also_optax.testing._problem import (  # noqa: F401 (the contract's, for other tests too)
    Batch,
    batch_at,
    init_params,
    loss_and_grads,
    losses_of,
    train,
    train_step,
)
from tests import reference

NUM_GROUPS = 3
FREQUENCIES = np.array([0.5, 0.3, 0.2])
START = np.array([0.3, 0.1, -0.2, -0.4])
PRIOR = np.array([0.2, 0.3, 0.5])


def batches(steps: int, size: int = 8, seed: int = 0) -> Batch:
    """`steps` batches, stacked: no group is in all of them, and some entries are masked."""
    return _problem.batches(FREQUENCIES, steps, size, seed)


def outside(tree: Any) -> Any:
    """`tree` with what is in parts as what the parts stand for, since they magnify what rounding does to it.

    Scores (whose bins do so) become weights, sums in two floats one number.
    """

    def is_rule(node: Any) -> bool:
        return hasattr(node, "scores") or isinstance(node, also_optax.DoremiState)

    def of(node: Any) -> Any:
        if not is_rule(node):
            return node
        if isinstance(node, also_optax.DoremiState):
            return node._replace(weight_sums=sum(node.weight_sums))
        log_weights = jnp.asarray(node.log_prior) + node.scores.log_ratios(node.step)
        rule = node._replace(scores=None)
        if getattr(node, "average_losses", None) is not None:
            rule = rule._replace(average_losses=node.average_losses.value())
        return {"rule": rule, "log_weights": log_weights}

    return jax.tree.map(of, tree, is_leaf=is_rule)


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


def played(tx: Any, losses: Any, groups: Any = None, where: Any = None, reference_losses: Any = None) -> Any:
    """The rule's state, and loss and weights of each batch ``[T, B]``, where only the adversary moves."""

    def step(state, batch):
        losses, groups, where, reference_losses = batch
        loss, rw = also_optax.reweight(state, losses, groups, where=where, reference_losses=reference_losses)
        return tx.update(None, state, **rw.extra_args)[1], (loss, rw.weights)

    batches = jax.tree.map(jnp.asarray, (losses, groups, where, reference_losses))
    return jax.jit(lambda batches: jax.lax.scan(step, tx.init(None), batches))(batches)


class Plays(NamedTuple):
    """Many runs of batches in groups, ``[N, T, B]``, some entries and some groups missing."""

    losses: np.ndarray
    reference_losses: np.ndarray
    groups: np.ndarray
    where: np.ndarray


def plays(runs: int = 200, steps: int = 12, size: int = 6, num_groups: int = 4, seed: int = 0) -> Plays:
    """Losses that differ by group, of both signs, as float32 has them; every batch has an entry that counts."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(
        num_groups, p=np.arange(num_groups, 0, -1) / np.arange(1, num_groups + 1).sum(), size=(runs, steps, size)
    )
    losses = rng.gamma(2.0, 0.5, groups.shape) + 0.4 * groups * rng.normal(size=(runs, 1, 1)) - 0.3
    reference_losses = losses + rng.normal(size=groups.shape) * 0.5 - 0.1 * groups
    where = rng.random(groups.shape) < 0.85
    where[..., 0] = True
    return Plays(losses.astype(np.float32), reference_losses.astype(np.float32), groups.astype(np.int32), where)


def assert_close(actual: Any, desired: Any, float32: float = 1e-6, float64: float = 1e-10) -> None:
    tolerance = float64 if jnp.result_type(float) == jnp.float64 else float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)
