r"""RGD: weights that are a fixed, clipped function of each example's own loss.

With the KL divergence (arXiv 2306.09222, Algorithm 1), on a batch of :math:`B`:

.. math:: w_b = \exp\left(\frac{\min(\ell_b, T)}{T + 1}\right), \qquad g = \frac{1}{B} \sum_b w_b \nabla \ell_b

:math:`T` is ``clip``; other divergences are in :mod:`also_optax.divergences`. The weights are *not* normalised, as in
the paper, so they also lengthen the step: a learning rate a little below the baseline's is usual.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax import divergences
from also_optax._base import AxisName, Sums, counts, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import check_scalar
from also_optax.divergences import Divergence


class RgdHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_rgd`, as its arguments."""

    clip: Any
    max_loss: Any


class RgdState(NamedTuple):
    """State of :func:`reweight_by_rgd`: no memory of losses, only what the read side needs.

    Attributes:
      step: how many batches were seen.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: RgdHyperparams

    @property
    def num_groups(self) -> None:
        """RGD has no groups."""

    @property
    def divergence(self) -> Divergence:
        """The divergence, which belongs to the state's type: a function is no array (see `_state_type`)."""
        raise NotImplementedError

    def observe(self, examples: Examples) -> Sums:
        """Counts only."""
        return Sums(*counts(examples))

    def advance(self, statistics: Sums) -> "RgdState":
        """Nothing moves."""
        del statistics
        return self

    def weigh(self, statistics: Sums | None, examples: Examples) -> jax.Array:
        """The divergence's weights of the losses."""
        del statistics
        return self.divergence.weight_fn(examples.losses, self.hyperparams.clip)

    def diagnostics(self) -> dict[str, jax.Array]:
        """Only the count of what could not be used."""
        return {"rejected": self.rejected}


@functools.cache
def _state_type(divergence: Divergence) -> type[RgdState]:
    """The type of the states that weigh by `divergence`.

    The read side knows nothing but the state, and a state of arrays cannot hold a function; its type can, and stays a
    NamedTuple for every checkpointer.
    """
    members = {"__slots__": (), "__module__": __name__, "divergence": divergence, "__reduce__": _reduce}
    return type("RgdState", (RgdState,), members)


def _reduce(state: RgdState) -> tuple[Any, ...]:
    """Pickles a state as its divergence and its values, since pickle does not find its type by name."""
    return _rebuild, (state.divergence, tuple(state))


def _rebuild(divergence: Divergence, values: tuple[Any, ...]) -> RgdState:
    return _state_type(divergence)(*values)


def reweight_by_rgd(
    clip: optax.ScalarOrSchedule = 1.0,
    divergence: Divergence = divergences.kl,
    *,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs each example by a clipped function of its own loss.

    Args:
      clip: T, above 0 and finite; a scalar or a schedule. In units of the loss; 1 is the paper's, tune over 0.5 to 10.
      divergence: one of ``kl``, ``chi2``, ``reverse_kl`` of :mod:`also_optax.divergences`, or your own ``Divergence``.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `divergence` is not a ``Divergence``.
      ValueError: if `clip` is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.reweight_by_rgd(clip=1.0).init(None)
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.0, 1.0, 50.0])).round(3))
      [1.    1.649 1.649]

    References:
      *Stochastic Re-weighted Gradient Descent via Distributionally Robust Optimization*,
      `arXiv 2306.09222 <https://arxiv.org/abs/2306.09222>`_, Algorithm 1.
    """
    check_scalar("clip", clip, "above 0 and finite", lambda v: 0 < v < jnp.inf)
    if not isinstance(divergence, Divergence):
        raise TypeError(
            "`divergence` must be one of also_optax.divergences (kl, chi2, reverse_kl) or "
            f"`Divergence(weight_fn)`, got {divergence!r}."
        )
    state_type = _state_type(divergence)

    def init(hyperparams: RgdHyperparams, step: jax.Array) -> RgdState:
        return state_type(step, jnp.zeros([], jnp.int32), hyperparams)

    return rule_transformation("reweight_by_rgd", init, RgdHyperparams(clip, max_loss), axis_name)
