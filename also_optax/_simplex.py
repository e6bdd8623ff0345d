r"""Weights on the simplex in logs, as a prior and a tilt: :math:`\log \pi = \log \hat\pi + u - \log Z`.

``log_prior`` is :math:`\log \hat\pi`, ``tilt`` is :math:`u`, ``log_normalizer`` is
:math:`\log Z = \log \sum_g \hat\pi_g e^{u_g}`. A tilt of zeros is exactly the prior at any number of groups, a prior of
zero is a weight of zero whatever the tilt, and no step needs an epsilon. A uniform prior is kept as the scalar
:math:`-\log G`, which broadcasts against ``[G]``.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from also_optax import _bisection
from also_optax._hyperparams import LARGEST, statistics_dtype


def log_simplex(name: str, values: Any, size: int, *, zeros: bool) -> ArrayLike:
    """Log of `values` normalised to sum 1, ``[size]``; None is uniform: the scalar ``-log(size)``.

    Concrete values are worked out in NumPy: an optimizer can be made before JAX's devices are, and the range and the
    precision are those of float64.

    Args:
      name: the argument's name, for messages.
      values: None, or an array of shape ``[size]``, not negative, not all zero; need not be normalised.
      size: G.
      zeros: whether single entries may be zero.

    Raises:
      ValueError: if the shape or a value is wrong (values only where they are concrete).
    """
    if values is None:
        return -np.log(size)
    if np.shape(values) != (size,):
        raise ValueError(f"`{name}` must have one entry per group, shape ({size},), got shape {np.shape(values)}.")
    if isinstance(values, jax.core.Tracer):
        return jax.nn.log_softmax(jnp.log(values.astype(statistics_dtype())))
    values = np.asarray(values, dtype=np.float64)
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(highest) and (lowest >= 0 if zeros else lowest > 0) and highest > 0):
        requirement = "not negative and not all zero" if zeros else "positive"
        zero = "" if zeros or lowest else f" 0 at {np.flatnonzero(values == 0)[:8]}: leave out what has no examples."
        raise ValueError(f"`{name}` must be finite, {requirement}, got values from {lowest} to {highest}.{zero}")
    scaled = values / highest
    with np.errstate(divide="ignore"):
        return np.log(scaled) - np.log(scaled.sum())


_SERIES = 0.25
_COEFFICIENTS = [(k - 1) / math.factorial(k) for k in range(15, 1, -1)]
"""Of r^(k - 2) in (r e^r - expm1(r)) / r^2, which they give to the last digit of float64 below _SERIES."""


class LogNormalizer(NamedTuple):
    """log Z of a tilt in two parts, because a peak of thousands alone would leave no digits for the rest.

    Attributes:
      peak: the largest tilt of positive prior, scalar.
      log_mass: log of the sum of prior·exp(tilt - peak), scalar.
    """

    peak: jax.Array
    log_mass: jax.Array


def highest(log_prior: jax.Array, values: jax.Array) -> jax.Array:
    """The largest of `values`, ``[G]``, of positive prior, scalar."""
    return jnp.max(jnp.where(jnp.isneginf(log_prior), -jnp.inf, values))


def below_highest(log_prior: jax.Array, values: jax.Array) -> jax.Array:
    """`values`, ``[G]``, less the highest of positive prior."""
    top = highest(log_prior, values)
    # A compiler may work out `values` for each of its uses, and round them differently: the top is 0 by definition.
    return jnp.where(values >= top, 0, values - top)


def log_partition(log_prior: jax.Array, tilt: jax.Array) -> LogNormalizer:
    """The tilt's normaliser."""
    peak = highest(log_prior, tilt)
    return LogNormalizer(peak, jax.nn.logsumexp(log_prior + (tilt - peak)))


def normalized(tilt: jax.Array, log_normalizer: LogNormalizer) -> jax.Array:
    """log(pi/prior): the tilt, or single entries of it, less its normaliser."""
    return (tilt - log_normalizer.peak) - log_normalizer.log_mass


def log_weights(log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer) -> jax.Array:
    """The log of the weights, ``[G]``."""
    return log_prior + normalized(tilt, log_normalizer)


def prox_step(tilt: jax.Array, ascent: jax.Array, pull: jax.Array) -> jax.Array:
    r"""The exact KL prox step in tilt form, not normalised.

    :math:`\arg\min_\pi -\langle a, \pi\rangle + p\,\mathrm{KL}(\pi\|\hat\pi) + \mathrm{KL}(\pi\|\pi_t)` has
    :math:`(1 + p) \log \pi = \log \pi_t + p \log \hat\pi + a - \mathrm{const}`; with
    :math:`\log \pi = \log\hat\pi + u - \mathrm{const}` the prior cancels and :math:`u = (u_t + a)/(1 + p)` is left.

    Args:
      tilt: u of the current weights, ``[G]``.
      ascent: step size times dual gradient, ``[G]``.
      pull: step size times penalty, scalar, at least 0; 0 is exponentiated gradient.
    """
    return (tilt + ascent) / (1 + pull)


def floored(log_prior: jax.Array, tilt: jax.Array, log_floor: jax.Array) -> jax.Array:
    """The tilt of the weights nearest in KL to those of `tilt` of which none is below the floor: max(c·pi, floor).

    Args:
      log_prior: log of the prior, ``[G]`` or a scalar; weights of prior zero stay zero.
      tilt: u, ``[G]``.
      log_floor: log of the floor, scalar, below -log(G).
    """
    log_ratio = normalized(tilt, log_partition(log_prior, tilt))
    has_prior = jnp.broadcast_to(~jnp.isneginf(log_prior), tilt.shape)
    log_pi, floor = jnp.minimum(log_prior + log_ratio, 0), jnp.exp(log_floor)
    num_groups = jnp.sum(has_prior)

    def is_low_enough(log_scale: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(has_prior, jnp.exp(jnp.maximum(log_pi + log_scale, log_floor)), 0)) <= 1

    lowest = jnp.log1p(-num_groups * floor)
    log_scale = _bisection.largest(is_low_enough, lowest, jnp.zeros_like(lowest))
    above = has_prior & (log_pi + log_scale > log_floor)
    rest = 1 - floor * (num_groups - jnp.sum(above))
    log_scale = jnp.log(rest) - jnp.log(jnp.sum(jnp.where(above, jnp.exp(log_pi), 0)))
    return jnp.where(has_prior, jnp.maximum(log_ratio + log_scale, log_floor - log_prior), 0)


def kl_from_prior(log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer) -> jax.Array:
    """KL(pi ‖ prior), a scalar of at least 0; a prior of zero adds nothing."""
    return _kl_divergence(log_weights(log_prior, tilt, log_normalizer), log_prior, normalized(tilt, log_normalizer))


def _kl_divergence(log_p: jax.Array, log_q: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """KL(p ‖ q) as a sum of terms that are each at least 0, so that none cancel.

    With r = log(p/q), given beside log p and log q for its own digits, and both normalised, KL = sum of
    q (r e^r - expm1(r)), which near 0 is its series.
    """
    p, q = (jnp.exp(jnp.minimum(log_weights, 0)) for log_weights in (log_p, log_q))
    near = jnp.minimum(log_ratio, 1)
    small = q * (near * jnp.exp(near) - jnp.expm1(near))
    large = p * (log_ratio - 1) + q
    tiny = jnp.clip(log_ratio, -_SERIES, _SERIES)
    factor = jnp.zeros_like(tiny)
    for coefficient in _COEFFICIENTS:  # not jnp.polyval, which refuses tables that are split on an Explicit mesh
        factor = factor * tiny + coefficient
    series = q * tiny**2 * factor
    terms = jnp.where(jnp.abs(log_ratio) < _SERIES, series, jnp.where(log_ratio < 1, small, large))
    return jnp.sum(jnp.maximum(terms, 0))


def adversary_gap(
    log_prior: jax.Array, tilt: jax.Array, log_normalizer: LogNormalizer, losses: jax.Array, penalty: jax.Array
) -> jax.Array:
    r"""How far the weights are from the worst case: :math:`\max_p F(p) - F(\pi)`, a scalar of at least 0.

    With :math:`F(p) = \langle p, L\rangle - \tau\,\mathrm{KL}(p\|\hat\pi)` the gap is
    :math:`\tau\,\mathrm{KL}(\pi\|\mathrm{softmax}(\log\hat\pi + L/\tau))`, without a solver. A penalty of 0 leaves
    :math:`\max L - \langle\pi, L\rangle`, the maximum over groups of positive prior.

    Args:
      log_prior: log of the prior, ``[G]`` or a scalar.
      tilt: u of the current weights, ``[G]``.
      log_normalizer: log Z of the current weights.
      losses: L, the losses per group that the adversary sees, ``[G]``.
      penalty: tau, scalar, at least 0.
    """
    log_pi = log_weights(log_prior, tilt, log_normalizer)
    worst = highest(log_prior, losses)
    below = jnp.where(jnp.isneginf(log_prior), 0, below_highest(log_prior, losses))
    has_penalty = (penalty > 0) & (-jnp.min(below) <= LARGEST * penalty)  # else it is nothing beside the losses
    safe_penalty = jnp.where(has_penalty, penalty, 1)
    best = jnp.maximum(below / safe_penalty, -LARGEST)
    best_normalizer = log_partition(log_prior, best)
    log_ratio = normalized(tilt, log_normalizer) - normalized(best, best_normalizer)
    penalised = safe_penalty * _kl_divergence(log_pi, log_weights(log_prior, best, best_normalizer), log_ratio)
    plain = jnp.sum(jnp.exp(log_pi) * (worst - losses))
    return jnp.maximum(jnp.where(has_penalty, penalised, plain), 0)


def kl_terms(weights: jax.Array) -> jax.Array:
    """Terms of at least 0, of which KL(p ‖ uniform) is the mean: `weights` are B·p, whose mean is 1."""
    return jax.scipy.special.xlogy(weights, weights) - weights + 1


def chi2_terms(weights: jax.Array) -> jax.Array:
    """Terms of at least 0, of which ½ mean (Bp - 1)² is the mean: `weights` are B·p."""
    return (weights - 1) ** 2 / 2
