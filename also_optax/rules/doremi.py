r"""DoReMi: weights of domains that grow with how much worse than a reference model each is done.

Step 2 of DoReMi (arXiv 2305.10429, Algorithm 1), on a batch of :math:`B`, of which :math:`B_g` are of domain
:math:`g`, with :math:`\ell^{\mathrm{ref}}` the losses of a reference model on the same examples:

.. math::
   \lambda_g &= \frac{1}{B_g} \sum_{b : g(b) = g} \max(\ell_b - \ell^{\mathrm{ref}}_b, 0) \\
   \alpha'_g &\propto \alpha_g \exp(\eta \lambda_g), \qquad
   \alpha^+_g = (1 - c)\, \alpha'_g + c / G \\
   w_b &= \alpha^+_{g(b)} B / B_{g(b)}

so that the loss is :math:`\sum_g \alpha^+_g L_g` over the domains of the batch. The result of the method is the mean of
:math:`\alpha^+` over all steps, by which a larger model's data is then drawn.

:math:`\eta` is ``step_size``, :math:`c` is ``smoothing``, :math:`\lambda` is ``excess``, :math:`\alpha` is kept as
``log_weights``. A domain that the batch has not keeps its last excess, as in the authors' code; one not seen yet has an
excess of 0 here (there: the log of the number of tokens, which draws the first weights to what was not seen). The mean
is of the weights after each step; the authors' code counts those of the start as one step more. In the paper
:math:`c` is 1e-3, in the authors' code 1e-4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _game, _group_means, _simplex
from also_optax._base import AxisName, Sums, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import LARGEST, check_count, check_scalar, saturated, statistics_dtype
from also_optax._precise import two_sum


class DoremiHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_doremi`, as its arguments."""

    step_size: Any
    smoothing: Any
    max_loss: Any


class DoremiState(NamedTuple):
    """State of :func:`reweight_by_doremi`; tables are ``[G]``.

    Attributes:
      step: how often the weights have moved.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      log_prior: log of the weights of the start, ``[G]``, or the scalar ``-log(G)`` where they are uniform.
      log_weights: log of the weights.
      excess: of each group's last batch, its mean clipped excess loss; 0 before the first.
      weight_sums: the sum of the weights after each step, and what rounding left out of it.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: DoremiHyperparams
    log_prior: jax.Array
    log_weights: jax.Array
    excess: jax.Array
    weight_sums: tuple[jax.Array, jax.Array]

    @property
    def num_groups(self) -> int:
        """G."""
        return self.log_weights.shape[0]

    @property
    def needs_reference(self) -> bool:
        """What it weighs by is an excess over reference losses."""
        return True

    @property
    def average_weights(self) -> jax.Array:
        """The mean of the weights over all steps, ``[G]``; before the first, those of the start."""
        total, rest = self.weight_sums
        mean = (total + rest) / jnp.maximum(self.step, 1).astype(total.dtype)
        return jnp.where(self.step > 0, mean, self.group_weights())

    def observe(self, examples: Examples) -> Sums:
        """Sums and numbers of the clipped excess losses by group."""
        clipped = examples._replace(losses=jnp.maximum(examples.losses, 0))
        return _group_means.sums_of(clipped, self.num_groups, like=self.log_weights)

    def advance(self, statistics: Sums) -> "DoremiState":
        """The step of the module docstring."""
        means, present = _group_means.means_of(statistics)
        excess = jnp.where(present, means, self.excess)
        ascent = saturated(self.hyperparams.step_size * excess)
        ascended = jax.nn.log_softmax(self.log_weights + ascent)
        smoothing = self.hyperparams.smoothing
        uniform = jnp.log(smoothing) - np.log(self.num_groups)
        log_weights = jnp.maximum(jnp.logaddexp(jnp.log1p(-smoothing) + ascended, uniform), -LARGEST)
        total, error = two_sum(self.weight_sums[0], jnp.exp(log_weights))
        return self._replace(
            log_weights=log_weights, excess=excess, weight_sums=two_sum(total, self.weight_sums[1] + error)
        )

    def weigh(self, statistics: Sums, examples: Examples) -> jax.Array:
        """Weights by which the loss is <alpha, L>, with the weights alpha after the batch."""
        return _group_means.weights_of(self.advance(statistics).group_weights(), statistics, examples)

    def group_weights(self) -> jax.Array:
        """alpha, ``[G]``."""
        return jnp.exp(self.log_weights)

    def diagnostics(self) -> dict[str, jax.Array]:
        """The weights, their mean, and the last excess losses as `group_losses`."""
        zero = jnp.zeros([], self.log_weights.dtype)
        tilt = self.log_weights - self.log_prior
        found = {"rejected": self.rejected, "group_losses": self.excess, "average_weights": self.average_weights}
        return found | _game.spread(self.log_prior, tilt, _simplex.LogNormalizer(zero, zero))


def reweight_by_doremi(
    num_groups: int,
    *,
    step_size: optax.ScalarOrSchedule = 1.0,
    smoothing: optax.ScalarOrSchedule = 1e-3,
    prior: ArrayLike | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs domains by their excess loss over a reference model; the mean of its weights is a mixture of data.

    The result is ``diagnostics(opt_state)["average_weights"]``: draw the data of the final training by it. The rule
    cannot do without ``reference_losses`` at :func:`also_optax.reweight`; each example's excess is clipped at 0 before
    the mean, so that what the reference cannot do either does not count. It weighs from the batch: micro-batches of one
    step take two passes, as :func:`also_optax.observe` describes.

    Special cases: ``step_size=0, smoothing=0`` keeps the prior; ``smoothing=1`` is uniform, training balanced by group;
    reference losses of 0 and ``smoothing=0`` make losses that are not negative the step of
    :func:`also_optax.reweight_by_group_dro`, where batches have every group.

    Args:
      num_groups: G, at least 1; a Python int.
      step_size: eta, at least 0; a scalar or a schedule of the rule's steps. In 1/loss.
      smoothing: c in [0, 1], the share of the uniform weights in each step's; a scalar or a schedule. It keeps every
        weight at c/G or more.
      prior: the weights to start from, ``[G]``, positive; normalised here. None is uniform, as in the paper.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, ``groups`` and ``reference_losses``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.reweight_by_doremi(2)
      >>> opt_state = tx.init(None)
      >>> losses, reference_losses = jnp.array([3.0, 1.0]), jnp.array([2.8, 0.2])
      >>> _, rw = also_optax.reweight(opt_state, losses, jnp.array([0, 1]), reference_losses=reference_losses)
      >>> _, opt_state = tx.update(None, opt_state, **rw.extra_args)
      >>> print(*(f"{w:.3f}" for w in also_optax.group_weights(opt_state)))
      0.354 0.646

      The second domain has the smaller loss, but more to learn.

    References:
      *DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining*,
      `arXiv 2305.10429 <https://arxiv.org/abs/2305.10429>`_, Algorithm 1.
    """
    check_count("num_groups", num_groups)
    check_scalar("step_size", step_size, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    check_scalar("smoothing", smoothing, "in [0, 1]", lambda v: 0 <= v <= 1)
    log_prior = _simplex.log_simplex("prior", prior, num_groups, zeros=False)

    def init(hyperparams: DoremiHyperparams, step: jax.Array) -> DoremiState:
        dtype = statistics_dtype()
        return DoremiState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            log_prior=jnp.array(log_prior, dtype),
            log_weights=jnp.zeros((num_groups,), dtype) + jnp.array(log_prior, dtype),
            excess=jnp.zeros((num_groups,), dtype),
            weight_sums=(jnp.zeros((num_groups,), dtype), jnp.zeros((num_groups,), dtype)),
        )

    return rule_transformation("reweight_by_doremi", init, DoremiHyperparams(step_size, smoothing, max_loss), axis_name)
