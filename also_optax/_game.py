"""What can be said of the game between the model and an adversary of groups, for :func:`also_optax.diagnostics`."""

from typing import Any

import jax
import jax.numpy as jnp

from also_optax import _simplex
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
        "gap": _simplex.adversary_gap(log_prior, tilt, log_normalizer, losses, penalty),
    }
    if log_frequencies is not None:
        found["erm_value"] = jnp.sum(jnp.broadcast_to(jnp.exp(log_frequencies), losses.shape) * losses)
    return found


def spread(log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer) -> dict[str, jax.Array]:
    """How far the weights are from the prior, and on how many groups they lie."""
    pi = jax.nn.softmax(_simplex.log_weights(log_prior, tilt, log_normalizer))
    return {"kl": _simplex.kl_from_prior(log_prior, tilt, log_normalizer), "effective_groups": 1 / jnp.sum(pi**2)}
