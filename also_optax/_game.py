"""What can be said of the game between the model and an adversary of groups, for :func:`also_optax.diagnostics`."""

import jax
import jax.numpy as jnp

from also_optax import _simplex
from also_optax._simplex import LogNormalizer


def of_weights(log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer) -> dict[str, jax.Array]:
    """How far the weights are from the prior, and on how many groups they lie."""
    pi = jax.nn.softmax(_simplex.log_weights(log_prior, tilt, log_normalizer))
    return {"kl": _simplex.kl_from_prior(log_prior, tilt, log_normalizer), "effective_groups": 1 / jnp.sum(pi**2)}


def of_losses(
    log_prior: jax.Array,
    tilt: jax.Array,
    log_normalizer: LogNormalizer,
    log_frequencies: jax.Array | None,
    losses: jax.Array,
    penalty: jax.Array,
) -> dict[str, jax.Array]:
    """The values of the game at average losses L, ``[G]``; without frequencies there is no plain one."""
    pi = jax.nn.softmax(_simplex.log_weights(log_prior, tilt, log_normalizer))
    kl = _simplex.kl_from_prior(log_prior, tilt, log_normalizer)
    found = {
        "group_losses": losses,
        "robust_value": jnp.sum(pi * losses) - penalty * kl,
        "gap": _simplex.adversary_gap(log_prior, tilt, log_normalizer, losses, penalty),
    }
    if log_frequencies is not None:
        found["erm_value"] = jnp.sum(jnp.broadcast_to(jnp.exp(log_frequencies), losses.shape) * losses)
    return found
