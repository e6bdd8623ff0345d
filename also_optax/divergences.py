r"""Divergences of RGD: how an example's weight grows with its loss.

A :class:`Divergence` holds ``weight_fn(losses, clip) -> weights``, elementwise; the three of the paper follow, with
:math:`T` the ``clip``:

- ``kl``: :math:`\exp(\min(\ell, T)/(T + 1))`,
- ``chi2``: :math:`1 + \mathrm{clip}(\ell, 0, T)/(T + 1)`,
- ``reverse_kl``: :math:`1/(1 - \mathrm{clip}(\ell, 0, T)/(T + 1))`.

Each gives a loss of 0 the weight 1. Your own is ``Divergence(my_weight_fn)``.

References:
  *Stochastic Re-weighted Gradient Descent via Distributionally Robust Optimization*,
  `arXiv 2306.09222 <https://arxiv.org/abs/2306.09222>`_, Algorithm 1 and table 1. It prints chi2 as
  :math:`\ell + \tau`; ours is that, normalised to a weight of 1 at a loss of 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Divergence(NamedTuple):
    """A divergence, by the weights that it gives.

    Not callable itself, because ``optax.inject_hyperparams`` takes callables for schedules.

    Attributes:
      weight_fn: ``weight_fn(losses, clip)``, the weights of `losses` of any shape, where `clip` is a scalar above 0.
        Define it once, at the top of a module: it is part of the state's type, which two optimizers share only if they
        share the function, and which can be pickled only if the function can.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> linear = also_optax.divergences.Divergence(lambda losses, clip: 1 + jnp.minimum(losses, clip))
      >>> rule = also_optax.reweight_by_rgd(clip=2.0, divergence=linear)
      >>> print(also_optax.example_weights(rule.init(None), jnp.array([0.0, 1.0, 50.0])))
      [1. 2. 3.]
    """

    weight_fn: Callable[[jax.Array, jax.Array], jax.Array]


def _kl_weights(losses: jax.Array, clip: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(losses, clip) / (clip + 1))


def _chi2_weights(losses: jax.Array, clip: jax.Array) -> jax.Array:
    return 1 + jnp.clip(losses, 0, clip) / (clip + 1)


def _reverse_kl_weights(losses: jax.Array, clip: jax.Array) -> jax.Array:
    return (clip + 1) / ((clip - jnp.clip(losses, 0, clip)) + 1)


kl = Divergence(_kl_weights)
"""Weights that grow exponentially with the loss, up to the clip."""

chi2 = Divergence(_chi2_weights)
"""Weights that grow linearly with the loss, from 1 at a loss of 0, up to the clip."""

reverse_kl = Divergence(_reverse_kl_weights)
"""Weights that grow hyperbolically with the loss, to ``clip + 1`` at the clip."""
