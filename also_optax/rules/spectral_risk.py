r"""Spectral risk: weights by the rank of the loss, smoothed on request.

With a spectrum :math:`0 \le \sigma_1 \le \dots \le \sigma_B` of sum 1 and the losses of a batch in ascending order
(arXiv 2212.05149, 2310.13863),

.. math:: R(\ell) = \sum_i \sigma_i \ell_{(i)} = \max_{p \in \Pi(\sigma)} \langle p, \ell\rangle,

with :math:`\Pi(\sigma)` the permutahedron, all mixtures of permutations of :math:`\sigma`. So :math:`p_b` is the
:math:`\sigma` of the loss's rank; equal losses share theirs. The smoothed form is the maximum of

.. math:: \langle p, \ell\rangle - \nu D(p), \qquad D(p) = \tfrac{1}{2B} \sum_b (B p_b - 1)^2
          \;\text{ or }\; \mathrm{KL}(p \,\|\, \tfrac{1}{B}),

which is continuous in the losses: two that change places do not change their weights at once. It is an isotonic
regression (``_isotonic``). :math:`\sigma` is ``spectrum``, :math:`\nu` is ``penalty``, :math:`D` is ``smoothing``.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from also_optax import _groups, _isotonic, _whole_batch
from also_optax._base import AxisName, rule_transformation
from also_optax._hyperparams import check_scalar, saturated
from also_optax._isotonic import Smoothing
from also_optax._whole_batch import Batch, WholeBatchState
from also_optax.spectra import Spectrum, as_spectrum

SMOOTHINGS = {None: None, "chi2": _isotonic.chi2, "kl": _isotonic.kl}


class SpectralRiskHyperparams(NamedTuple):
    """Arrays of :func:`reweight_by_spectral_risk`.

    Attributes:
      parameters: those of the spectrum.
      penalty: of the smoothing; 0 without.
      max_loss: as its argument.
    """

    parameters: tuple[Any, ...]
    penalty: Any
    max_loss: Any


class SpectralRiskState(WholeBatchState):
    """State of :func:`reweight_by_spectral_risk`: see :class:`~also_optax._whole_batch.WholeBatchState`."""

    __slots__ = ()

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum's functions, which belong to the state's type: a function is no array (see `_state_type`)."""
        raise NotImplementedError

    @property
    def smoothing(self) -> Smoothing | None:
        """The divergence, which belongs to the state's type."""
        raise NotImplementedError

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The spectrum's mass of a loss's rank, or what smoothing makes of it."""
        ascending = batch.ascending()
        below = _whole_batch.number_below(ascending, losses)
        if self.smoothing is not None:
            return _groups.take(self._smoothed(ascending, batch.count, self.smoothing), below)
        below = below.astype(losses.dtype)
        upto = _whole_batch.number_below(ascending, losses, or_equal=True).astype(losses.dtype)
        inside = jnp.maximum(jnp.minimum(upto, batch.count) - below, 1)
        return self._mass(below, inside, batch.count) * batch.count / inside

    def penalty_of(self, batch: Batch, weights: jax.Array) -> jax.Array | float:
        """penalty·D(p)."""
        if self.smoothing is None:
            return 0.0
        return saturated(self.hyperparams.penalty) * batch.total(self.smoothing.terms(weights)) / batch.count

    def _smoothed(self, ascending: jax.Array, count: jax.Array, smoothing: Smoothing) -> jax.Array:
        """The weights of the losses in ascending order, ``[P]``."""
        ranks = jnp.arange(ascending.size, dtype=ascending.dtype)
        mass = count * self._mass(ranks, jnp.ones_like(ranks), count)
        return _isotonic.weights_of_sorted(ascending, mass, count, self.hyperparams.penalty, smoothing)

    def _mass(self, below: jax.Array, inside: jax.Array, count: jax.Array) -> jax.Array:
        """The spectrum's mass of `inside` losses with `below` under them, of `count`."""
        below = jnp.minimum(below, count - inside)  # entries without a part are beyond
        cdf, mass, parameters = self.spectrum.cdf, self.spectrum.mass, self.hyperparams.parameters
        if mass is not None:
            return mass(below, inside, count - below - inside, *parameters)
        return cdf((below + inside) / count, *parameters) - cdf(below / count, *parameters)


@functools.cache
def _state_type(spectrum: Spectrum, smoothing: str | None) -> type[SpectralRiskState]:
    """The type of the states that weigh by a spectrum, given without parameters, and a smoothing.

    The read side knows nothing but the state, and a state of arrays cannot hold a function; its type can, and stays a
    NamedTuple for every checkpointer.
    """
    members = {
        "__slots__": (),
        "__module__": __name__,
        "spectrum": spectrum,
        "smoothing": SMOOTHINGS[smoothing],
        "smoothing_name": smoothing,
        "__reduce__": _reduce,
    }
    return type("SpectralRiskState", (SpectralRiskState,), members)


def _reduce(state: Any) -> tuple[Any, ...]:
    """Pickles a state as what its type is made of and its values, since pickle does not find its type by name."""
    return _rebuild, (state.spectrum, state.smoothing_name, tuple(state))


def _rebuild(spectrum: Spectrum, smoothing: str | None, values: tuple[Any, ...]) -> SpectralRiskState:
    return _state_type(spectrum, smoothing)(*values)


def reweight_by_spectral_risk(
    spectrum: Spectrum | ArrayLike,
    *,
    penalty: optax.ScalarOrSchedule | None = None,
    smoothing: Literal["chi2", "kl"] | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs each example of a batch by the rank of its loss.

    Special cases: with :func:`also_optax.spectra.superquantile` it is :func:`reweight_by_cvar`, and smoothed by
    ``"kl"`` it is :func:`reweight_by_kl_cvar`; a spectrum with all mass on the largest loss, smoothed by ``"chi2"``,
    is ``reweight_by_chi2(penalty=penalty)``; ``penalty=0`` smoothes nothing and ``penalty=inf`` is plain training; so
    is a uniform spectrum without smoothing.

    Args:
      spectrum: one of :mod:`also_optax.spectra`, your own ``Spectrum``, or an array of masses in ascending order, which
        are normalised to sum 1. An array of another size than the batch is stretched: its cdf is linear from rank to
        rank.
      penalty: of the smoothing, at least 0, in units of the loss; a scalar or a schedule. Required with `smoothing`.
      smoothing: None, ``"chi2"`` or ``"kl"``.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `spectrum` is neither a ``Spectrum`` nor an array.
      ValueError: if an array is not one of ascending masses, only one of `penalty` and `smoothing` is given, or one is
        out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> losses = jnp.array([0.3, 0.29, 2.0, 0.1])
      >>> spectrum = also_optax.spectra.extremile(2.0)
      >>> opt_state = also_optax.reweight_by_spectral_risk(spectrum).init(None)
      >>> print(also_optax.example_weights(opt_state, losses))
      [1.25 0.75 1.75 0.25]
      >>> opt_state = also_optax.reweight_by_spectral_risk(spectrum, penalty=0.1, smoothing="chi2").init(None)
      >>> print(*(f"{weight:.2f}" for weight in also_optax.example_weights(opt_state, losses)))
      1.05 0.95 1.75 0.25

    References:
      *Stochastic Optimization for Spectral Risk Measures*, `arXiv 2212.05149 <https://arxiv.org/abs/2212.05149>`_;
      *Distributionally Robust Optimization with Bias and Variance Reduction*,
      `arXiv 2310.13863 <https://arxiv.org/abs/2310.13863>`_.
    """
    spectrum = as_spectrum(spectrum)
    if smoothing not in ("chi2", "kl", None):
        raise ValueError(f'`smoothing` must be None, "chi2" or "kl", got {smoothing!r}.')
    if (penalty is None) != (smoothing is None):
        raise ValueError("give `penalty` and `smoothing` together, or neither of them.")
    if penalty is not None:
        check_scalar("penalty", penalty, "at least 0", lambda v: v >= 0)
    state_type = _state_type(spectrum._replace(parameters=()), smoothing)

    def init(hyperparams: SpectralRiskHyperparams, step: jax.Array) -> SpectralRiskState:
        return _whole_batch.start(state_type, hyperparams, step)

    hyperparams = SpectralRiskHyperparams(spectrum.parameters, 0.0 if penalty is None else penalty, max_loss)
    return rule_transformation("reweight_by_spectral_risk", init, hyperparams, axis_name)
