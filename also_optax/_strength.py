r"""How far weights may go from their prior, in place of how strongly they are pulled to it.

Weights :math:`\pi \propto \hat\pi e^{c u}` of a tilt :math:`u` move away from the prior as :math:`c` grows, in

.. math::
   \mathrm{KL}(\pi\|\hat\pi) = \sum_g \pi_g \log\frac{\pi_g}{\hat\pi_g} \qquad \text{and} \qquad
   \chi^2(\pi\|\hat\pi) = \sum_g \hat\pi_g \Big(\frac{\pi_g}{\hat\pi_g} - 1\Big)^2

both. A bound of the first is a ``radius``. A bound of the second is an effective sample size: of :math:`n` examples
drawn by the prior, weights :math:`w = \pi/\hat\pi` leave
:math:`(\sum w)^2/\sum w^2 = n/(1 + \chi^2)`, ``target_ess``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _bisection, _simplex
from also_optax._hyperparams import saturated


class Bound(NamedTuple):
    """How far weights may go: one of the two, the other is None.

    Attributes:
      radius: largest KL divergence from the prior, scalar, at least 0.
      ess: smallest effective sample size, scalar, above 0.
    """

    radius: jax.Array | None
    ess: jax.Array | None


def largest_scale(log_prior: jax.Array, tilt: jax.Array, bound: Bound, size: jax.Array | int, limit: Any) -> jax.Array:
    """The largest c in ``[0, limit]`` whose weights, prior·exp(c·tilt) normalised, keep within `bound`.

    Args:
      log_prior: log of the prior, ``[G]`` or a scalar for a uniform one.
      tilt: u, ``[G]``.
      bound: the bound.
      size: n of the effective sample size.
      limit: finite, scalar.
    """
    reached, allowed = _divergence(bound, size)

    def is_inside(scale: jax.Array) -> jax.Array:
        return reached(log_prior, scaled(tilt, scale)) <= allowed

    limit = jnp.asarray(limit, tilt.dtype) + 0 * jnp.max(tilt)  # of a type that varies over shards as the tilt does
    return _bisection.largest(is_inside, jnp.zeros_like(limit), limit)


def scaled(tilt: jax.Array, scale: jax.Array) -> jax.Array:
    """The tilt times the scale, saturated."""
    return saturated(tilt * scale)


def _divergence(bound: Bound, size: Any) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], jax.Array]:
    """The divergence of a tilt's weights from their prior that `bound` is about, and the largest it may be."""
    if bound.radius is not None:
        return _kl, bound.radius
    assert bound.ess is not None  # noqa: S101 (one of the two)
    return _chi2, jnp.maximum((size - bound.ess) / bound.ess, 0)  # a quotient less 1 would not be 0 to the last bit


def _kl(log_prior: jax.Array, tilt: jax.Array) -> jax.Array:
    return _simplex.kl_from_prior(log_prior, tilt, _simplex.log_partition(log_prior, tilt))


def _chi2(log_prior: jax.Array, tilt: jax.Array) -> jax.Array:
    log_ratio = _simplex.normalized(tilt, _simplex.log_partition(log_prior, tilt))
    return jnp.sum(jnp.exp(log_prior) * jnp.expm1(log_ratio) ** 2)
