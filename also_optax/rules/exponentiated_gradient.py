r"""Exponentiated gradient reweighting: a weight for every example, which each of its losses makes smaller.

The game with a friendly adversary (arXiv 2104.01493), for data of which some labels are wrong:

.. math:: \min_\theta \min_{\pi \in \Delta} \sum_i \pi_i \ell_i(\theta),

of which the weights' side is, for the examples of a batch, and then normalised over all :math:`n`,

.. math::
   \log \pi_i \leftarrow \log \pi_i - \eta \ell_i, \qquad w_i = n \pi_i

An example that is learnt late, or never, has the largest sum of losses, and loses its weight.

:math:`\eta` is ``step_size``, :math:`n` is ``num_examples``; ``groups`` of a batch are the indices of its examples.
The weights are kept as scores (``_scores``), of which a step touches the batch's; nothing pulls them to the prior, so
their scale stays 1. The weights of a batch are those before its own step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _game, _scores, _simplex
from also_optax._base import AxisName, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import check_count, check_scalar, saturated, statistics_dtype
from also_optax._pairs import Pairs, pairs_of
from also_optax._scores import Scores

LARGEST_SUMMED = 50_000
"""Up to so many examples a pass over all of them costs less than keeping their histogram."""


class ExponentiatedGradientHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_exponentiated_gradient`, as its arguments."""

    step_size: Any
    max_loss: Any


class ExponentiatedGradientState(NamedTuple):
    """State of :func:`reweight_by_exponentiated_gradient`.

    Attributes:
      step: how many batches were seen.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      log_prior: log of the prior, ``[n]``, or the scalar ``-log(n)`` where it is uniform.
      scores: the sums of -step_size times loss, ``[n]``, and their normaliser.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: ExponentiatedGradientHyperparams
    log_prior: jax.Array
    scores: Scores

    @property
    def num_groups(self) -> int:
        """n: each example is a group of its own."""
        return self.scores.size

    @property
    def keeps_still(self) -> bool:
        """Whether `advance` leaves it as it is without examples: by itself, without a choice between two tables."""
        return True

    @property
    def no_tables(self) -> tuple[str, ...]:
        """Fields whose arrays are not of examples, though their shape may be ``[n]`` by chance."""
        return ("scale", "normalizer", "histogram")

    def observe(self, examples: Examples) -> Pairs:
        """The indices and losses of the batch."""
        return pairs_of(examples)

    def advance(self, statistics: Pairs, upcoming: Any = None) -> "ExponentiatedGradientState":
        """The step of the module docstring; no step needs to know the next one's hyperparameters, `upcoming`."""
        del upcoming
        return _advanced(self, statistics)

    def weigh(self, statistics: Pairs | None, examples: Examples) -> jax.Array:
        """n·pi of each example."""
        del statistics
        log_frequencies = jnp.full([], -np.log(self.num_groups), self.log_prior.dtype)
        return self.scores.weights(examples, self.log_prior, log_frequencies, self.step)

    def group_weights(self) -> jax.Array:
        """pi, ``[n]``, in a pass over all."""
        return jax.nn.softmax(self.log_prior + self.scores.log_ratios(self.step))

    def diagnostics(self) -> dict[str, jax.Array]:
        """How far the weights are from the prior, in a few passes over all of them."""
        zero = jnp.zeros([], self.scores.values.dtype)
        log_ratios = self.scores.log_ratios(self.step)
        spread = _game.spread(self.log_prior, log_ratios, _simplex.LogNormalizer(zero, zero))
        return {"rejected": self.rejected} | spread


@functools.partial(jax.jit, inline=True)  # where a user's step is not, its loops would be compiled in every step
def _advanced(state: ExponentiatedGradientState, statistics: Pairs) -> ExponentiatedGradientState:
    ascent = saturated(-state.hyperparams.step_size * statistics.losses)
    nothing = jnp.zeros([], ascent.dtype)
    ids, count = statistics.ids, statistics.count
    return state._replace(scores=state.scores.move(ids, count, ascent, nothing, nothing, state.step, state.log_prior))


def reweight_by_exponentiated_gradient(
    num_examples: int,
    step_size: optax.ScalarOrSchedule,
    *,
    prior: ArrayLike | None = None,
    lazy: bool | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs each example of a data set less the more it has lost so far, against wrong labels.

    Give each batch's indices into the data as ``groups``. It is for sampling in which each example is drawn equally
    often, as in epochs: an example that is drawn more often has more losses taken off. An index that a batch has twice
    counts twice, and so do the entries of a row of ``[B, T, ...]``, whose losses add up.

    **Which strength.** Nothing pulls the weights back: after T epochs they are softmax(-step_size · sum of T losses),
    and with a constant `step_size` in the end a few examples hold all of the weight. Set it so that
    ``step_size * epochs`` is about 1 over the difference between the loss of a wrong label and that of a right one, or
    let a schedule take it to 0.

    Special cases: ``step_size=0`` keeps the prior, and without one it is plain training; adding a constant to every
    loss changes nothing after whole epochs.

    Args:
      num_examples: n, the size of the data set, at least 1; a Python int.
      step_size: eta, at least 0; a scalar or a schedule of the rule's steps. In 1/loss.
      prior: the weights to start from, ``[n]``, not negative; normalised here. None is uniform, weights of 1. A zero
        stays zero.
      lazy: True takes no pass over all weights, in a step whose time does not grow with n. False reads all of them in
        every step. None is True for more than 50,000 examples.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses`` and ``groups``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_examples` is not a Python int, or `lazy` not True, False or None.
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.reweight_by_exponentiated_gradient(4, step_size=0.5)
      >>> opt_state = tx.init(None)
      >>> losses, indices = jnp.array([0.2, 3.0]), jnp.array([0, 3])
      >>> for _ in range(3):
      ...     _, rw = also_optax.reweight(opt_state, losses, indices)
      ...     print(*(f"{w:.3f}" for w in rw.weights))
      ...     _, opt_state = tx.update(None, opt_state, **rw.extra_args)
      1.000 1.000
      1.157 0.285
      1.142 0.069

    References:
      *Exponentiated Gradient Reweighting for Robust Training Under Label Noise and Beyond*,
      `arXiv 2104.01493 <https://arxiv.org/abs/2104.01493>`_.
    """
    check_count("num_examples", num_examples)
    if num_examples >= 2**31:
        raise ValueError(f"`num_examples` must be below 2**31, because ids are int32, got {num_examples}.")
    check_scalar("step_size", step_size, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    if lazy is not None and not isinstance(lazy, bool):
        raise TypeError(f"`lazy` must be True, False or None, got {lazy!r}.")
    histogram = num_examples > LARGEST_SUMMED if lazy is None else lazy
    log_prior = _simplex.log_simplex("prior", prior, num_examples, zeros=True)

    def init(hyperparams: ExponentiatedGradientHyperparams, step: jax.Array) -> ExponentiatedGradientState:
        prior = jnp.array(log_prior, statistics_dtype())
        return ExponentiatedGradientState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            log_prior=prior,
            scores=_scores.start(num_examples, prior, bonus=False, histogram=histogram),
        )

    hyperparams = ExponentiatedGradientHyperparams(step_size, max_loss)
    return rule_transformation("reweight_by_exponentiated_gradient", init, hyperparams, axis_name)
