r"""KL-CVaR: a softmax of the losses of a batch, capped at the weights of CVaR.

With level :math:`\alpha` and penalty :math:`\nu` (arXiv 2010.05893, section 2), on a batch of :math:`B`,

.. math::
   \max_p \sum_b p_b \ell_b - \nu\,\mathrm{KL}(p \,\|\, \tfrac{1}{B}), \qquad
   \sum_b p_b = 1,\; 0 \le p_b \le \frac{1}{\alpha B},

is met at

.. math::
   w_b = B p_b = \min\left(\exp\frac{\ell_b - \eta}{\nu},\; \frac{1}{\alpha}\right), \qquad \frac{1}{B} \sum_b w_b = 1.

:math:`\alpha` is ``alpha``, :math:`\nu` is ``penalty``. With :math:`t = \eta - \nu\log\alpha`, the loss from which on
the cap holds, the second equation says that

.. math:: \sum_b \min\left(1, \exp\frac{\ell_b - t}{\nu}\right) = \alpha B.

:math:`t` is found by halving, to the two floats between which it lies; then it is known which losses are capped, and
:math:`n_>` of them leave the others a softmax of sum :math:`B - n_>/\alpha`. So no digits are lost at any penalty.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax import _bisection, _whole_batch
from also_optax._base import AxisName, rule_transformation
from also_optax._hyperparams import check_scalar, saturated
from also_optax._simplex import kl_terms
from also_optax._whole_batch import Batch, WholeBatchState


class KlCvarHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_kl_cvar`, as its arguments."""

    alpha: Any
    penalty: Any
    max_loss: Any


class KlCvarState(WholeBatchState):
    """State of :func:`reweight_by_kl_cvar`: see :class:`~also_optax._whole_batch.WholeBatchState`."""

    __slots__ = ()

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The capped softmax of the module docstring."""
        tiny = jnp.finfo(losses.dtype).tiny
        alpha = jnp.maximum(self.hyperparams.alpha, tiny)
        penalty = jnp.maximum(self.hyperparams.penalty, tiny)
        share = alpha * batch.count

        def below(losses: jax.Array, peak: jax.Array) -> jax.Array:
            return jnp.exp(jnp.minimum((losses - peak) / penalty, 0))

        def is_low_enough(threshold: jax.Array) -> jax.Array:
            return batch.total(below(batch.losses, threshold)) >= share

        threshold = _bisection.largest(is_low_enough, batch.lowest, batch.highest)
        is_free = batch.losses <= threshold
        peak = jnp.max(batch.losses, where=batch.valid & is_free, initial=batch.lowest)
        mass = batch.total(jnp.where(is_free, below(batch.losses, peak), 0))
        left = jnp.maximum(share - batch.total(~is_free), 0) / (alpha * jnp.maximum(mass, 1))
        return jnp.where(losses > threshold, 1 / alpha, left * below(losses, peak))

    def penalty_of(self, batch: Batch, weights: jax.Array) -> jax.Array:
        """penalty·KL(p ‖ uniform)."""
        return saturated(self.hyperparams.penalty) * batch.total(kl_terms(weights)) / batch.count


def reweight_by_kl_cvar(
    alpha: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    *,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs each batch by a softmax of its losses that no example may exceed by much.

    Special cases: ``penalty=0`` is :func:`reweight_by_cvar`; ``penalty=inf`` or ``alpha=1`` is plain training;
    ``alpha`` of 1/B or less caps nothing, which is the batch's softmax,
    ``reweight_by_absgd(penalty, averaging_rate=1)``.

    Args:
      alpha: no weight is above 1/alpha, in (0, 1]; a scalar or a schedule.
      penalty: of the KL divergence from uniform weights, at least 0, in units of the loss; a scalar or a schedule.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if `alpha` or `penalty` is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> losses = jnp.array([0.0, 1.0, 2.0, 9.0])
      >>> for penalty in (0.0, 1.0, 1000.0):
      ...     opt_state = also_optax.reweight_by_kl_cvar(alpha=0.5, penalty=penalty).init(None)
      ...     print(*(f"{weight:.2f}" for weight in also_optax.example_weights(opt_state, losses)))
      0.00 0.00 2.00 2.00
      0.18 0.49 1.33 2.00
      1.00 1.00 1.00 1.01

    References:
      *Large-Scale Methods for Distributionally Robust Optimization*,
      `arXiv 2010.05893 <https://arxiv.org/abs/2010.05893>`_, section 2.
    """
    check_scalar("alpha", alpha, "in (0, 1]", lambda v: 0 < v <= 1)
    check_scalar("penalty", penalty, "at least 0", lambda v: v >= 0)

    def init(hyperparams: KlCvarHyperparams, step: jax.Array) -> KlCvarState:
        return _whole_batch.start(KlCvarState, hyperparams, step)

    return rule_transformation("reweight_by_kl_cvar", init, KlCvarHyperparams(alpha, penalty, max_loss), axis_name)
