r"""ALSO with very many weights, one per example: the rule of ``also``, which a step moves where its batch is.

The equations are those of ``also``. With ``_scores``, the tilt of the prior is :math:`u_i = a v_i + c_i` and its step,

.. math::
   u_{t+1} = \frac{u_t + \eta\,((1+\alpha) h_t - \alpha h_{t-1})}{1 + \eta\tau},

is one of the batch's entries alone: :math:`h_t` is zero elsewhere, and what optimism takes back of :math:`h_{t-1}` is
lent in the step before, as the bonus :math:`c = \eta\alpha h_{t-1}`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _game, _groups, _simplex
from also_optax._average import SparseAverage
from also_optax._examples import Examples
from also_optax._hyperparams import saturated
from also_optax._pairs import Pairs, pairs_of
from also_optax._scores import Scores


class AlsoScoresState(NamedTuple):
    """State of :func:`also_optax.reweight_by_also` that a step moves where its batch is.

    Attributes:
      step: how often the adversary has moved.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      log_prior: log of the prior, ``[G]``, or the scalar ``-log(G)`` where it is uniform.
      log_frequencies: log of q, ``[G]`` or the scalar ``-log(G)``.
      scores: the tilts, ``[G]``, and their normaliser.
      average_losses: moving average of h; None where it is not kept.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: Any
    log_prior: jax.Array
    log_frequencies: jax.Array
    scores: Scores
    average_losses: SparseAverage | None

    @property
    def num_groups(self) -> int:
        """G."""
        return self.scores.size

    @property
    def keeps_still(self) -> bool:
        """Whether `advance` leaves it as it is without examples: by itself, without a choice between two tables."""
        return True

    @property
    def no_tables(self) -> tuple[str, ...]:
        """Fields whose arrays are not of groups, though their shape may be ``[G]`` by chance."""
        return ("scale", "normalizer", "histogram")

    def observe(self, examples: Examples) -> Pairs:
        """The ids and losses of the batch."""
        return pairs_of(examples)

    def advance(self, statistics: Pairs, upcoming: Any = None) -> "AlsoScoresState":
        """The prox step of the module docstring on the batch's dual gradient.

        Args:
          statistics: the batch.
          upcoming: the hyperparameters of the next step, which takes back what this one lends; None: as now.
        """
        return _advanced(self, statistics, self.hyperparams if upcoming is None else upcoming)

    def weigh(self, statistics: Pairs | None, examples: Examples) -> jax.Array:
        """Weights pi/q of each example's entry."""
        del statistics
        return self.scores.weights(examples, self.log_prior, self.log_frequencies, self.step)

    def group_weights(self) -> jax.Array:
        """pi, ``[G]``, in a pass over all."""
        return jax.nn.softmax(self.log_prior + self.scores.log_ratios(self.step))

    def diagnostics(self) -> dict[str, jax.Array]:
        """The state of the game, in a few passes over all weights."""
        zero = jnp.zeros([], self.scores.values.dtype)
        average = None if self.average_losses is None else self.average_losses.value()
        return _game.of(self, self.scores.log_ratios(self.step), _simplex.LogNormalizer(zero, zero), average)


@functools.partial(jax.jit, inline=True)  # where a user's step is not, its loops would be compiled in every step
def _advanced(state: AlsoScoresState, statistics: Pairs, upcoming: Any) -> AlsoScoresState:
    step_size, penalty, optimism, _, average_decay, *_ = state.hyperparams
    ids, losses = statistics.ids, statistics.losses
    inverse = _groups.inverse_of(_groups.take(state.log_frequencies, ids), state.num_groups)
    dual_gradient = saturated(losses / jnp.maximum(statistics.count, 1) * inverse)
    ascent = saturated(step_size * dual_gradient)
    lent = saturated(upcoming.dual_learning_rate * upcoming.optimism * dual_gradient)
    if state.scores.bonus is not None:
        ascent = jnp.where(state.step == 0, ascent, saturated((1 + optimism) * ascent))
    scores = state.scores.move(ids, statistics.count, ascent, lent, step_size * penalty, state.step, state.log_prior)
    average = state.average_losses
    if average is not None:
        average = average.updated(ids, dual_gradient, jnp.where(statistics.count > 0, average_decay, 1))
    return state._replace(scores=scores, average_losses=average)
