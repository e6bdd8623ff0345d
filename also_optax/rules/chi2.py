r"""Chi-square: weights that grow linearly with the loss, from a level on below which they are 0.

With :math:`D(p) = \frac{1}{2B} \sum_b (B p_b - 1)^2` on a batch of :math:`B` (arXiv 2010.05893, section 2),

.. math::
   \max_p \sum_b p_b \ell_b - \nu D(p) \quad\text{is met at}\quad w_b = B p_b &= \frac{(\ell_b - \eta)_+}{\nu}, \\
   \max_{p:\, D(p) \le \rho} \sum_b p_b \ell_b \quad\text{at}\quad
   w_b &= \frac{(\ell_b - \eta)_+}{\frac{1}{B} \sum_a (\ell_a - \eta)_+},

both of mean 1. :math:`\nu` is ``penalty``, :math:`\rho` is ``radius``. Which losses are above :math:`\eta` is found by
halving; with these :math:`k` losses, of mean :math:`m` and standard deviation :math:`s`, the solution is in closed
form:

.. math::
   \text{penalty:}\quad w_b = \frac{\ell_b - m}{\nu} + \frac{B}{k}, \qquad
   \text{ball:}\quad w_b = \frac{B}{k}\left(1 + \frac{\ell_b - m}{s} \sqrt{(1 + 2\rho)\frac{k}{B} - 1}\right).

A ball that holds even the weights that share all among the largest losses gives these. The published code halves
:math:`\eta` itself until the weights add up to within 1e-4, and returns uniform weights for batches without a positive
loss; here only differences of losses matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax import _bisection, _whole_batch
from also_optax._base import AxisName, rule_transformation
from also_optax._hyperparams import check_one_of, check_scalar, saturated
from also_optax._simplex import chi2_terms
from also_optax._whole_batch import Batch, WholeBatchState


class Chi2PenaltyHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_chi2` with a penalty, as its arguments."""

    penalty: Any
    max_loss: Any


class Chi2BallHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_chi2` with a radius, as its arguments."""

    radius: Any
    max_loss: Any


class Chi2PenaltyState(WholeBatchState):
    """State of :func:`reweight_by_chi2` with a penalty: see :class:`~also_optax._whole_batch.WholeBatchState`."""

    __slots__ = ()

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The penalised solution of the module docstring."""
        tiny = jnp.finfo(losses.dtype).tiny
        penalty = self.hyperparams.penalty
        budget = jnp.maximum(penalty * batch.count, tiny)

        def is_low_enough(threshold: jax.Array) -> jax.Array:
            return batch.total(jnp.maximum(batch.losses - threshold, 0)) >= budget

        is_active = _active(batch, is_low_enough)
        active = is_active(batch.losses)
        size = jnp.maximum(batch.total(active), 1)
        mean = batch.total(jnp.where(active, batch.losses - batch.highest, 0)) / size
        excess = (losses - batch.highest) - mean
        return jnp.maximum(excess / jnp.maximum(penalty, tiny) + batch.count / size, 0)

    def penalty_of(self, batch: Batch, weights: jax.Array) -> jax.Array:
        """penalty·D(p)."""
        return saturated(self.hyperparams.penalty) * batch.total(chi2_terms(weights)) / batch.count


class Chi2BallState(WholeBatchState):
    """State of :func:`reweight_by_chi2` with a radius: see :class:`~also_optax._whole_batch.WholeBatchState`."""

    __slots__ = ()

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The solution in the ball of the module docstring."""
        radius = self.hyperparams.radius

        def is_low_enough(threshold: jax.Array) -> jax.Array:
            """Whether weights that are 0 below `threshold` are in the ball; at the highest loss, its ties share."""
            height = jnp.where(batch.highest > threshold, batch.highest - threshold, 1)
            heights = jnp.maximum((batch.losses - threshold) / height, 0)
            heights = jnp.where(batch.losses >= batch.highest, 1, heights)
            return batch.count * batch.total(heights**2) <= (1 + 2 * radius) * batch.total(heights) ** 2

        is_active = _active(batch, is_low_enough)
        active = is_active(batch.losses)
        size = jnp.maximum(batch.total(active), 1)
        lowest = jnp.min(batch.losses, where=batch.valid & active, initial=batch.highest)
        extent = jnp.where(batch.highest > lowest, batch.highest - lowest, 1)

        def scaled(losses: jax.Array) -> jax.Array:
            return saturated((losses - batch.highest) / extent)

        mean = batch.total(jnp.where(active, scaled(batch.losses), 0)) / size
        deviation = jnp.sqrt(batch.total(jnp.where(active, scaled(batch.losses) - mean, 0) ** 2) / size)
        slope = jnp.sqrt(jnp.maximum(2 * radius * size - (batch.count - size), 0) / batch.count)
        slope = jnp.where(deviation > 0, slope / jnp.where(deviation > 0, deviation, 1), 0)
        weights = batch.count / size * (1 + (scaled(losses) - mean) * slope)
        return jnp.where(is_active(losses), jnp.maximum(weights, 0), 0)


def reweight_by_chi2(
    *,
    penalty: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs each batch by how far its losses are above a level: chi-square DRO, by a penalty or within a ball.

    Special cases: ``radius=0`` or ``penalty=inf`` is plain training; ``radius`` of (B-1)/2 or more, or ``penalty=0``,
    weighs the largest loss alone. With a radius small enough that no weight is 0, the robust value is the mean of the
    losses plus sqrt(2·radius) of their standard deviations.

    Args:
      penalty: nu of the module docstring, at least 0, in units of the loss; a scalar or a schedule. Give this or
        `radius`.
      radius: rho, at least 0: half the mean squared distance of the weights from 1; a scalar or a schedule.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if not exactly one of `penalty` and `radius` is given, or it is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> losses = jnp.array([0.0, 1.0, 2.0, 9.0])
      >>> opt_state = also_optax.reweight_by_chi2(penalty=5.0).init(None)
      >>> print(*(f"{weight:.2f}" for weight in also_optax.example_weights(opt_state, losses)))
      0.40 0.60 0.80 2.20
      >>> opt_state = also_optax.reweight_by_chi2(radius=0.5).init(None)
      >>> print(*(f"{weight:.2f}" for weight in also_optax.example_weights(opt_state, losses)))
      0.15 0.43 0.72 2.70

    References:
      *Large-Scale Methods for Distributionally Robust Optimization*,
      `arXiv 2010.05893 <https://arxiv.org/abs/2010.05893>`_, section 2.
    """
    check_one_of(penalty=penalty, radius=radius)
    name, value = ("penalty", penalty) if radius is None else ("radius", radius)
    check_scalar(name, value, "at least 0", lambda v: v >= 0)
    state_type: type[WholeBatchState] = Chi2PenaltyState if radius is None else Chi2BallState

    def init(hyperparams: Any, step: jax.Array) -> WholeBatchState:
        return _whole_batch.start(state_type, hyperparams, step)

    hyperparams: Any = (
        Chi2PenaltyHyperparams(penalty, max_loss) if radius is None else Chi2BallHyperparams(radius, max_loss)
    )
    return rule_transformation("reweight_by_chi2", init, hyperparams, axis_name)


def _active(batch: Batch, is_low_enough: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Which losses are above eta, as a function of losses; those equal to the largest always are.

    Args:
      batch: the batch.
      is_low_enough: whether a scalar is not above eta, which may itself be below all losses.
    """
    threshold = _bisection.largest(is_low_enough, batch.lowest, batch.highest)
    all_are = ~is_low_enough(batch.lowest)
    return lambda losses: all_are | (losses > threshold) | (losses == batch.highest)
