r"""CVaR: the mean of the worst share of a batch.

The conditional value at risk at level :math:`\alpha` of the losses of a batch of :math:`B` (arXiv 2010.05893, eq. 3),

.. math::
   \mathrm{CVaR}_\alpha(\ell) = \max_p \sum_b p_b \ell_b, \qquad \sum_b p_b = 1,\; 0 \le p_b \le \frac{1}{\alpha B},

is met by sharing equally among the :math:`\alpha B` largest losses, the last of which has what is left:

.. math::
   w_b = B p_b = \begin{cases}
       1/\alpha & \ell_b > t \\
       (\alpha B - n_>) / (\alpha\, n_=) & \ell_b = t \\
       0 & \ell_b < t
   \end{cases}

with :math:`t` the loss of rank :math:`\lceil \alpha B \rceil` from the top, :math:`n_>` losses above it and
:math:`n_=` equal to it: these share, where the published code takes whichever the sort puts first.

:math:`\alpha` is ``alpha``. :math:`t` is found by halving (``_bisection``), not by sorting: a batch of any order costs
32 passes of comparisons.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax import _bisection, _whole_batch
from also_optax._base import AxisName, rule_transformation
from also_optax._hyperparams import check_scalar
from also_optax._whole_batch import Batch, WholeBatchState


class CvarHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_cvar`, as its arguments."""

    alpha: Any
    max_loss: Any


class CvarState(WholeBatchState):
    """State of :func:`reweight_by_cvar`: see :class:`~also_optax._whole_batch.WholeBatchState`."""

    __slots__ = ()

    def weights(self, batch: Batch, losses: jax.Array) -> jax.Array:
        """The cases of the module docstring."""
        alpha = jnp.maximum(self.hyperparams.alpha, jnp.finfo(losses.dtype).tiny)
        share = alpha * batch.count

        def is_low_enough(threshold: jax.Array) -> jax.Array:
            return batch.total(batch.losses >= threshold) >= share

        threshold = _bisection.largest(is_low_enough, batch.lowest, batch.highest)
        above, equal = (batch.total(of(batch.losses, threshold)) for of in (jnp.greater, jnp.equal))
        left = (share - above) / (alpha * jnp.maximum(equal, 1))
        return jnp.where(losses > threshold, 1 / alpha, jnp.where(losses == threshold, left, 0))


def reweight_by_cvar(
    alpha: optax.ScalarOrSchedule,
    *,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains on the worst share of each batch.

    Special cases: ``alpha=1`` is plain training; ``alpha`` of 1/B or less weighs the largest loss alone.

    Args:
      alpha: the share of each batch that counts, in (0, 1]; a scalar or a schedule. Published searches try 0.01 to 0.5.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if `alpha` is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.reweight_by_cvar(alpha=0.5).init(None)
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.3, 2.0, 0.1, 0.7, 0.5])))
      [0. 2. 0. 2. 1.]

    References:
      *Large-Scale Methods for Distributionally Robust Optimization*,
      `arXiv 2010.05893 <https://arxiv.org/abs/2010.05893>`_, section 2.
    """
    check_scalar("alpha", alpha, "in (0, 1]", lambda v: 0 < v <= 1)

    def init(hyperparams: CvarHyperparams, step: jax.Array) -> CvarState:
        return _whole_batch.start(CvarState, hyperparams, step)

    return rule_transformation("reweight_by_cvar", init, CvarHyperparams(alpha, max_loss), axis_name)
