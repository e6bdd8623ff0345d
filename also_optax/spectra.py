r"""Spectra of spectral risks: how much of the weight goes to which rank of loss.

A :class:`Spectrum` is a convex distribution function on [0, 1], which shares its mass out to the ranks of a batch of
any size: of :math:`B` losses in ascending order, the i-th has :math:`\sigma_i = F(i/B) - F((i-1)/B)`.

- ``superquantile(alpha)``: :math:`F(u) = (1 - (1-u)/\alpha)_+`, the mean of the worst share `alpha` (CVaR),
- ``extremile(r)``: :math:`F(u) = u^r`, the mean largest loss of `r` drawn at random,
- ``esrm(rho)``: :math:`F(u) = (e^{-\rho(1-u)} - e^{-\rho})/(1 - e^{-\rho})`, exponential aversion to the worse.

Your own is ``Spectrum(my_cdf, (my_parameter,))``, or simply an array of the :math:`\sigma_i`.

References:
  *Distributionally Robust Optimization with Bias and Variance Reduction*, `arXiv 2310.13863
  <https://arxiv.org/abs/2310.13863>`_, section 2, and *Stochastic Optimization for Spectral Risk Measures*, `arXiv
  2212.05149 <https://arxiv.org/abs/2212.05149>`_, table 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax._hyperparams import check_scalar


class Spectrum(NamedTuple):
    """A spectrum, by its distribution function.

    Not callable itself, because ``optax.inject_hyperparams`` takes callables for schedules.

    Attributes:
      cdf: ``cdf(u, *parameters)``, elementwise, convex, from 0 at 0 to 1 at 1. Define it once, at the top of a module:
        it is part of the state's type, which two optimizers share only if they share the function, and which can be
        pickled only if the function can.
      parameters: numbers, arrays or schedules, which go into the state and may be traced.
      mass: None, or what differences of `cdf` give, without the digits that they lose in large batches:
        ``mass(below, inside, above, *parameters)``, the mass of `inside` examples that have `below` under them and
        `above` over them, numbers of examples of any shape.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> spectrum = also_optax.spectra.Spectrum(lambda u, power: u**power, (2.0,))
      >>> rule = also_optax.reweight_by_spectral_risk(spectrum)
      >>> print(also_optax.example_weights(rule.init(None), jnp.array([0.3, 2.0, 0.1, 0.7])))
      [0.75 1.75 0.25 1.25]
    """

    cdf: Callable[..., jax.Array]
    parameters: tuple[Any, ...] = ()
    mass: Callable[..., jax.Array] | None = None


def superquantile(alpha: optax.ScalarOrSchedule) -> Spectrum:
    """The worst share `alpha`, in (0, 1], equally; 1 is plain training.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> rule = also_optax.reweight_by_spectral_risk(also_optax.spectra.superquantile(alpha=0.5))
      >>> print(also_optax.example_weights(rule.init(None), jnp.array([0.3, 2.0, 0.1, 0.7])))
      [0. 2. 0. 2.]
    """
    check_scalar("alpha", alpha, "in (0, 1]", lambda v: 0 < v <= 1)
    return Spectrum(_superquantile_cdf, (alpha,), _superquantile_mass)


def extremile(r: optax.ScalarOrSchedule) -> Spectrum:
    """The mean of the largest of `r` losses drawn at random, with `r` at least 1; 1 is plain training.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> rule = also_optax.reweight_by_spectral_risk(also_optax.spectra.extremile(r=2.0))
      >>> print(also_optax.example_weights(rule.init(None), jnp.array([0.3, 2.0, 0.1, 0.7])))
      [0.75 1.75 0.25 1.25]
    """
    check_scalar("r", r, "at least 1 and finite", lambda v: 1 <= v < jnp.inf)
    return Spectrum(_extremile_cdf, (r,), _extremile_mass)


def esrm(rho: optax.ScalarOrSchedule) -> Spectrum:
    """The exponential spectral risk measure, with aversion `rho` of at least 0; 0 is plain training.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> rule = also_optax.reweight_by_spectral_risk(also_optax.spectra.esrm(rho=2.0))
      >>> weights = also_optax.example_weights(rule.init(None), jnp.array([0.3, 2.0, 0.1, 0.7]))
      >>> print(*(f"{weight:.2f}" for weight in weights))
      0.67 1.82 0.41 1.10
    """
    check_scalar("rho", rho, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    return Spectrum(_esrm_cdf, (rho,), _esrm_mass)


def as_spectrum(spectrum: Spectrum | ArrayLike) -> Spectrum:
    """A spectrum as it is, or that of an array of masses, whose cdf is linear from rank to rank.

    Raises:
      TypeError: if it is neither.
      ValueError: if masses are not a vector, negative, not ascending, not finite or all zero.

    Examples:
      >>> from also_optax import spectra
      >>> spectrum = spectra.as_spectrum([1.0, 1.0, 2.0])
      >>> print(*(float(spectrum.cdf(u, *spectrum.parameters)) for u in (0.0, 1 / 3, 2 / 3, 1.0)))
      0.0 0.25 0.5 1.0
    """
    if isinstance(spectrum, Spectrum):
        return spectrum
    if callable(spectrum) or not hasattr(spectrum, "__len__") or isinstance(spectrum, jax.core.Tracer | str):
        raise TypeError(
            "`spectrum` must be one of also_optax.spectra (superquantile, extremile, esrm), a concrete array of masses "
            f"or `Spectrum(cdf, parameters)`, got {spectrum!r}."
        )
    masses = np.asarray(spectrum, dtype=np.float64)
    if masses.ndim != 1 or masses.size == 0:
        raise ValueError(f"`spectrum` must have one mass per rank, shape [n], got shape {masses.shape}.")
    if not (np.isfinite(masses).all() and masses[0] >= 0 and (np.diff(masses) >= 0).all() and masses[-1] > 0):
        raise ValueError("`spectrum` must be finite, not negative, ascending and not all zero.")
    masses = masses / masses[-1]
    masses = masses / masses.sum()
    heads = np.concatenate([[0.0], np.cumsum(masses)])
    rounded = heads.astype(np.float32).astype(
        np.float64
    )  # and what that leaves: two floats have the digits of one mass
    return Spectrum(_table_cdf, (masses, rounded, heads - rounded), _table_mass)


def _superquantile_cdf(u: jax.Array, alpha: jax.Array) -> jax.Array:
    return jnp.maximum(1 - (1 - u) / alpha, 0)


def _superquantile_mass(below: jax.Array, inside: jax.Array, above: jax.Array, alpha: jax.Array) -> jax.Array:
    share = alpha * (below + inside + above)
    return jnp.clip(share - above, 0, inside) / jnp.maximum(share, jnp.finfo(share.dtype).tiny)


def _extremile_cdf(u: jax.Array, r: jax.Array) -> jax.Array:
    return u**r


def _extremile_mass(below: jax.Array, inside: jax.Array, above: jax.Array, r: jax.Array) -> jax.Array:
    reached = below + inside
    return jnp.exp(r * jnp.log1p(-above / (reached + above))) * -jnp.expm1(r * jnp.log1p(-inside / reached))


def _esrm_cdf(u: jax.Array, rho: jax.Array) -> jax.Array:
    rho = jnp.maximum(rho, 1e-30)
    return jnp.exp(-rho * (1 - u)) * jnp.expm1(-rho * u) / jnp.expm1(-rho)


def _esrm_mass(below: jax.Array, inside: jax.Array, above: jax.Array, rho: jax.Array) -> jax.Array:
    count, rho = below + inside + above, jnp.maximum(rho, 1e-30)
    return jnp.exp(-rho * above / count) * jnp.expm1(-rho * inside / count) / jnp.expm1(-rho)


def _table_cdf(u: jax.Array, masses: jax.Array, heads: jax.Array, rests: jax.Array) -> jax.Array:
    rank, part = _place(u * masses.size, masses)
    return heads[rank] + (rests[rank] + part * masses[rank])


def _table_mass(
    below: jax.Array, inside: jax.Array, above: jax.Array, masses: jax.Array, heads: jax.Array, rests: jax.Array
) -> jax.Array:
    ranks_each = masses.size / (below + inside + above)
    low, low_part = _place(below * ranks_each, masses)
    high, high_part = _place((below + inside) * ranks_each, masses)
    parts = high_part * masses[high] - low_part * masses[low]
    return jnp.maximum((heads[high] - heads[low]) + ((rests[high] - rests[low]) + parts), 0)


def _place(position: jax.Array, masses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rank whose mass begins at or before a position in [0, n], and how much of it lies before that."""
    rank = jnp.clip(jnp.floor(position), 0, masses.size - 1).astype(jnp.int32)
    return rank, position - rank
