"""What can be said of the game between the model and an adversary of groups, for :func:`also_optax.diagnostics`."""

from typing import Any

import jax
import jax.numpy as jnp

from also_optax import _simplex, _strength
from also_optax._hyperparams import LARGEST
from also_optax._simplex import LogNormalizer


def of(state: Any, tilt: jax.Array, log_normalizer: LogNormalizer, average: jax.Array | None) -> dict[str, jax.Array]:
    """How far the weights are from the prior, on how many groups they lie, and the values at the average losses.

    Args:
      state: of a form of ALSO.
      tilt: u, ``[G]``.
      log_normalizer: log Z.
      average: moving average of h, ``[G]``, not yet debiased; without it there are no values.
    """
    log_prior, log_frequencies, penalty = state.log_prior, state.log_frequencies, state.hyperparams.kl_penalty
    found = {"rejected": state.rejected} | spread(log_prior, tilt, log_normalizer)
    if average is None:
        return found
    pi, kl = jax.nn.softmax(_simplex.log_weights(log_prior, tilt, log_normalizer)), found["kl"]
    losses = average / (1 - state.hyperparams.average_decay ** jnp.maximum(state.step, 1))
    found |= {
        "group_losses": losses,
        "robust_value": jnp.sum(pi * losses) - penalty * kl,
    }
    bound = state.hyperparams.bound
    if bound is None:
        found["gap"] = _simplex.adversary_gap(log_prior, tilt, log_normalizer, losses, penalty)
    elif bound.radius is not None:
        found["gap"] = _gap_in_ball(log_prior, tilt, log_normalizer, losses, kl, bound)
    if log_frequencies is not None:
        found["erm_value"] = jnp.sum(jnp.broadcast_to(jnp.exp(log_frequencies), losses.shape) * losses)
    return found


def spread(log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer) -> dict[str, jax.Array]:
    """How far the weights are from the prior, and on how many groups they lie."""
    pi = jax.nn.softmax(_simplex.log_weights(log_prior, tilt, log_normalizer))
    return {"kl": _simplex.kl_from_prior(log_prior, tilt, log_normalizer), "effective_groups": 1 / jnp.sum(pi**2)}


def _gap_in_ball(
    log_prior: jax.Array,
    tilt: jax.Array,
    log_normalizer: LogNormalizer,
    losses: jax.Array,
    kl: jax.Array,
    bound: _strength.Bound,
) -> jax.Array:
    r"""How far the weights are from the ball's worst case: :math:`\max_p \langle p, L\rangle - \langle\pi, L\rangle`.

    The worst case is that of a penalty, :math:`p^* \propto \hat\pi e^{L/\tau}`, so the gap is the penalty's plus
    :math:`\tau (\mathrm{KL}(p^*\|\hat\pi) - \mathrm{KL}(\pi\|\hat\pi))`, and none of its terms is negative.
    """
    below_worst = _simplex.below_highest(log_prior, losses)
    scale = _strength.largest_scale(log_prior, below_worst, bound, losses.size, LARGEST)
    penalty = jnp.where(scale < LARGEST, 1 / jnp.maximum(scale, 1 / LARGEST), 0)  # 0: the worst group alone is inside
    worst = _strength.scaled(below_worst, scale)
    room = _simplex.kl_from_prior(log_prior, worst, _simplex.log_partition(log_prior, worst)) - kl
    gap = _simplex.adversary_gap(log_prior, tilt, log_normalizer, losses, penalty)
    return gap + penalty * jnp.maximum(room, 0)
