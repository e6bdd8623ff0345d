r"""DRAGO for KL-penalised objectives of linear models (arXiv 2403.10763).

The problem, with features :math:`x_i` and the uniform distribution for :math:`\hat\pi`, is

.. math::
   \min_\theta \max_q \sum_i q_i \ell(x_i^\top \theta, y_i) - \nu\,\mathrm{KL}(q\|\hat\pi) + \frac{\mu}{2}\|\theta\|^2.

Data are cut into blocks of b. Tables hold of each example a loss, a gradient and a weight, as they were when its block
last had its turn, and those of the turn before. A step, of block K in turn and of blocks I and J drawn at random, is,
with :math:`n/b` times the block's difference between now and the tables of the turn before as :math:`\delta`,

.. math::
   \theta' &= \arg\min_\theta \langle \hat g^\top \hat q + \tfrac{1}{1 + \alpha} \delta_I^{\theta}, \theta\rangle
       + \frac{\mu}{2}\|\theta\|^2 + \frac{\mu\beta}{2}\|\theta - \theta_t\|^2 \\
   \hat\ell_K, \hat g_K &\leftarrow \text{losses and gradients of block K at } \theta' \\
   q' &= \arg\max_q \langle \hat\ell + \tfrac{1}{1 + \alpha} \delta_J^{q}, q\rangle - \nu\,\mathrm{KL}(q\|\hat\pi)
       - \nu\beta\,\mathrm{KL}(q\|q_t), \qquad \hat q_K \leftarrow q'_K

:math:`\alpha` is ``rate``, :math:`\beta = 1/(\alpha(1 + \alpha))`, :math:`\nu` is ``kl_penalty``, :math:`\mu` is
``weight_decay``. A linear model's gradients are multiples of its features, so its table is of n numbers, not n×d.
Deviations: :math:`\beta` is its limit from the start, where the paper's grows to it within 1/α steps, and the pull to
the last n/b iterates, whose factor the paper's code holds for zero too, is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _simplex


class _Tables(NamedTuple):
    """What DRAGO keeps; tables are of shape ``[blocks, b]``, those of the turn before are `old_*`."""

    params: jax.Array
    tilt: jax.Array
    weights: jax.Array
    losses: jax.Array
    old_losses: jax.Array
    slopes: jax.Array
    old_slopes: jax.Array
    turn_weights: jax.Array
    old_turn_weights: jax.Array
    gradient: jax.Array


def drago(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    features: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    rate: float,
    kl_penalty: float,
    weight_decay: float,
    block_size: int,
    passes: int,
) -> tuple[jax.Array, jax.Array]:
    """Trains a linear model by primal and dual steps that are both variance-reduced.

    Args:
      loss: of a score and a label, convex and smooth in the score, both scalars.
      features: ``[n, d]``.
      labels: ``[n]``.
      key: a key of `jax.random`.
      rate: alpha, above 0; below about min(weight_decay, kl_penalty) over the smoothness of the losses, and b/n.
      kl_penalty: nu, above 0.
      weight_decay: mu, above 0.
      block_size: b, a divisor of n.
      passes: how often every block has its turn.

    Returns:
      The parameters, ``[d]``, and q, ``[n]``.
    """
    num_examples, dimension = features.shape
    blocks = num_examples // block_size
    if blocks * block_size != num_examples:
        raise ValueError(f"`block_size` must divide the number of examples, {num_examples}, got {block_size}.")
    x, y = features.reshape(blocks, block_size, dimension), labels.reshape(blocks, block_size)
    slope = jax.grad(loss)
    beta = 1 / (rate * (1 + rate))
    log_prior = -jnp.log(jnp.asarray(num_examples, features.dtype))

    def at(params: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = x[block] @ params
        return jax.vmap(loss)(scores, y[block]), jax.vmap(slope)(scores, y[block])

    def step(tables: _Tables, drawn: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_Tables, None]:
        of_params, of_weights, turn = drawn
        _, slopes = at(tables.params, of_params)
        change = tables.weights[of_params] * slopes
        change = change - tables.old_turn_weights[of_params] * tables.old_slopes[of_params]
        direction = tables.gradient + blocks / (1 + rate) * (change @ x[of_params])
        params = (weight_decay * beta * tables.params - direction) / (weight_decay * (1 + beta))

        losses, _ = at(params, of_weights)
        ascent = blocks / (1 + rate) * (losses - tables.old_losses[of_weights])
        turn_losses, turn_slopes = at(params, turn)
        direction = tables.losses.at[turn].set(turn_losses).at[of_weights].add(ascent)
        tilt = _simplex.prox_step(tables.tilt, direction.ravel() / (kl_penalty * beta), jnp.asarray(1 / beta))
        tilt = tilt - tilt.max()
        weights = _weights(log_prior, tilt).reshape(y.shape)

        gradient = tables.gradient + (weights[turn] * turn_slopes) @ x[turn]
        gradient = gradient - (tables.turn_weights[turn] * tables.slopes[turn]) @ x[turn]
        return _Tables(
            params,
            tilt,
            weights,
            losses=tables.losses.at[turn].set(turn_losses),
            old_losses=tables.old_losses.at[turn].set(tables.losses[turn]),
            slopes=tables.slopes.at[turn].set(turn_slopes),
            old_slopes=tables.old_slopes.at[turn].set(tables.slopes[turn]),
            turn_weights=tables.turn_weights.at[turn].set(weights[turn]),
            old_turn_weights=tables.old_turn_weights.at[turn].set(tables.turn_weights[turn]),
            gradient=gradient,
        ), None

    params = jnp.zeros(dimension, features.dtype)
    losses, slopes = jax.vmap(at, in_axes=(None, 0))(params, jnp.arange(blocks))
    tilt = jnp.zeros(num_examples, features.dtype)
    weights = _weights(log_prior, tilt).reshape(y.shape)
    gradient = (weights * slopes).ravel() @ features
    start = _Tables(params, tilt, weights, losses, losses, slopes, slopes, weights, weights, gradient)
    drawn = jax.random.randint(key, (2, passes * blocks), 0, blocks)
    end, _ = jax.lax.scan(step, start, (*drawn, jnp.arange(passes * blocks) % blocks))
    return end.params, end.weights.ravel()


def _weights(log_prior: jax.Array, tilt: jax.Array) -> jax.Array:
    return jnp.exp(_simplex.log_weights(log_prior, tilt, _simplex.log_partition(log_prior, tilt)))
