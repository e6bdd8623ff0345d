r"""Group DRO: exponentiated gradient on the weights of groups, by their mean losses in each batch.

The game of Group DRO (arXiv 1911.08731), with :math:`L_g(\theta)` the mean loss of group :math:`g`, of
which the data has :math:`n_g` examples,

.. math:: \min_\theta \max_{q \in \Delta} \sum_g q_g \left(L_g(\theta) + C/\sqrt{n_g}\right),

is played by its Algorithm 1 on a batch of :math:`B`, of which :math:`B_g` are of group :math:`g`:

.. math::
   \log q'_g &= \log q_g + \eta \left(L_g + C/\sqrt{n_g} - m\right) \quad \text{if } B_g > 0,
                \text{ else } \log q_g, \qquad \text{then normalised} \\
   w_b &= q'_{g(b)} B / B_{g(b)}

with :math:`L_g` the mean over the batch. The loss is then :math:`\sum_g q'_g L_g` over the groups of the batch, with
the *new* weights. :math:`\eta` is ``step_size``, :math:`C` is ``adjustment``, :math:`n` is ``group_counts``.

:math:`m` is the mean of :math:`\bar L_g + C/\sqrt{n_g}` by the weights :math:`q`, where :math:`\bar L_g` is the moving
average of the group's :math:`L_g` over the batches that had it, this one too; a group that no batch had yet has no part
in it. Where a batch has all groups, :math:`m` cancels in the normalising, and the step is the paper's. Where it has
not, the published code takes a loss of 0 for those that are absent, which makes rare groups vanish (one of four falls
from 0.25 to 0.04 in 200 batches without it); and if the weights were normalised among the present alone, a batch of one
group could not move its weight. Measured from :math:`m`, a group gains when it does worse than the weighted mean of
all. What is unchanged of an absent group is its unnormalised weight, ``tilt``: its share falls when those present do
worse than :math:`m`, rises when they do better, and stays where they all do as :math:`m`, such as always the same, with
the absent one not seen yet; the ratio of two absent groups always stays.
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
from also_optax._hyperparams import check_count, check_scalar, is_static_zero, saturated, statistics_dtype


class GroupDroHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_group_dro`, as its arguments."""

    step_size: Any
    adjustment: Any
    max_loss: Any
    average_decay: Any


class GroupDroState(NamedTuple):
    """State of :func:`reweight_by_group_dro`; tables are ``[G]``.

    Attributes:
      step: how often the adversary has moved.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      group_counts: n, or None where it was not given.
      log_prior: log of the prior, ``[G]``, or the scalar ``-log(G)`` where it is uniform.
      tilt: u of ``log q = log_prior + u - log_normalizer``.
      log_normalizer: log Z of the same.
      average_losses: moving averages of the mean losses, without the adjustment; 0 of a group not seen yet.
      visits: how many batches had each group.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: GroupDroHyperparams
    group_counts: jax.Array | None
    log_prior: jax.Array
    tilt: jax.Array
    log_normalizer: _simplex.LogNormalizer
    average_losses: jax.Array
    visits: jax.Array

    @property
    def num_groups(self) -> int:
        """G."""
        return self.tilt.shape[0]

    def observe(self, examples: Examples) -> Sums:
        """Sums and numbers of the losses by group."""
        return _group_means.sums_of(examples, self.num_groups, like=self.tilt)

    def advance(self, statistics: Sums) -> "GroupDroState":
        """The step of the module docstring."""
        losses, present = _group_means.means_of(statistics)
        adjusted, moved = self._adjusted(losses), self._remembering(losses, present)
        # What is the same for all cancels: in place of m the heaviest group's own loss, so that its tilt stays put.
        whole = jnp.all(present | jnp.isneginf(self.log_prior))
        log_weights = self._log_weights()
        heaviest = jnp.max(jnp.where(log_weights == jnp.max(log_weights), adjusted, -jnp.inf))
        excess = saturated(adjusted - jnp.where(whole, heaviest, moved._value()))
        ascent = jnp.where(present, saturated(self.hyperparams.step_size * excess), 0)
        tilt = saturated(self.tilt + ascent)
        return moved._replace(tilt=tilt, log_normalizer=_simplex.log_partition(self.log_prior, tilt))

    def weigh(self, statistics: Sums, examples: Examples) -> jax.Array:
        """Weights by which the loss is <q, L>, with the weights q after the batch."""
        return _group_means.weights_of(self.advance(statistics).group_weights(), statistics, examples)

    def group_weights(self) -> jax.Array:
        """q, ``[G]``."""
        return jax.nn.softmax(self._log_weights())

    def diagnostics(self) -> dict[str, jax.Array]:
        """The state of the game; `robust_value` and `gap` are with the adjustment, of the groups seen so far."""
        value = self._value()
        worst = jnp.max(self._adjusted(self.average_losses), where=self._takes_part(), initial=-jnp.inf)
        found = {
            "rejected": self.rejected,
            "group_losses": self.average_losses,
            "robust_value": value,
            "gap": jnp.where(jnp.any(self._takes_part()), jnp.maximum(worst - value, 0), 0),
        } | _game.spread(self.log_prior, self.tilt, self.log_normalizer)
        if self.group_counts is not None:
            counts = jnp.where(self.visits > 0, self.group_counts, 0)
            found["erm_value"] = jnp.sum(counts / jnp.maximum(jnp.sum(counts), 1) * self.average_losses)
        return found

    def _log_weights(self) -> jax.Array:
        return _simplex.log_weights(self.log_prior, self.tilt, self.log_normalizer)

    def _adjusted(self, losses: jax.Array) -> jax.Array:
        """L + C/sqrt(n)."""
        if self.group_counts is None:
            return losses
        return saturated(losses + self.hyperparams.adjustment / jnp.sqrt(self.group_counts))

    def _remembering(self, losses: jax.Array, present: jax.Array) -> "GroupDroState":
        """The moving averages and visits after a batch; the first visit of a group sets its average."""
        visits = self.visits + present.astype(self.visits.dtype)
        decay = self.hyperparams.average_decay
        mass = -jnp.expm1(jnp.maximum(visits, 1) * jnp.log(decay))  # 1 - decay**visits, with its digits
        weight = jnp.where(visits > 1, (1 - decay) / mass, 1)
        average = self.average_losses + weight * (losses - self.average_losses)
        return self._replace(average_losses=jnp.where(present, average, self.average_losses), visits=visits)

    def _takes_part(self) -> jax.Array:
        """The groups that have been seen, and are not of prior zero, ``[G]``."""
        return (self.visits > 0) & ~jnp.isneginf(self._log_weights())

    def _value(self) -> jax.Array:
        """m of the module docstring; 0 where no group has a part in it."""
        part = self._takes_part()
        logs = jnp.where(part, self._log_weights(), -jnp.inf)
        top = jnp.max(logs)
        weights = jnp.exp(logs - jnp.where(jnp.isneginf(top), 0, top))  # at least one is 1, however small they all are
        return jnp.sum(weights * self._adjusted(self.average_losses)) / jnp.maximum(jnp.sum(weights), 1)


def reweight_by_group_dro(
    num_groups: int,
    step_size: optax.ScalarOrSchedule = 0.01,
    *,
    group_counts: ArrayLike | None = None,
    adjustment: optax.ScalarOrSchedule = 0.0,
    prior: ArrayLike | None = None,
    average_decay: ArrayLike = 0.9,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs groups by exponentiated gradient on their mean losses: the worst group's mean loss is minimised.

    It weighs from the batch: the weights are those after the batch's own step. Micro-batches of one step therefore take
    two passes, as :func:`also_optax.observe` describes.

    Special cases: batches that have every group make the paper's step exactly; ``step_size=0`` keeps the prior (a
    uniform one is training balanced by group); a single group is plain training. A group that no batch has keeps its
    share while the others do as well as the weighted mean of all that were seen.

    Args:
      num_groups: G, at least 1; a Python int.
      step_size: eta, at least 0; a scalar or a schedule of the adversary's steps. In 1/loss.
      group_counts: n, how many examples of each group the data has, ``[G]``, at least 1 each: counts, not frequencies.
        Needed with an `adjustment`; without one it lets :func:`also_optax.diagnostics` tell the plain loss.
      adjustment: C, at least 0: C/sqrt(n_g) is added to a group's loss, for small groups generalise worse; a scalar or
        a schedule. In units of the loss; the paper searches 0 to 5.
      prior: the weights to start from, ``[G]``, not negative; normalised here. None is uniform. A zero stays zero.
      average_decay: decay of the moving average of each group's loss, per batch that has the group, in [0, 1). It has
        no part in the weights where batches have every group. The authors' code has 0.9 for its averages.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses`` and ``groups``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape, or `adjustment` is given without `group_counts`.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.reweight_by_group_dro(2, step_size=1.0)
      >>> opt_state = tx.init(None)
      >>> losses, groups = jnp.array([2.0, 0.5, 0.5, 1.0]), jnp.array([0, 1, 1, 1])
      >>> loss, rw = also_optax.reweight(opt_state, losses, groups)
      >>> _, opt_state = tx.update(None, opt_state, **rw.extra_args)
      >>> print(*(f"{w:.3f}" for w in also_optax.group_weights(opt_state)), f"{loss:.3f}")
      0.791 0.209 1.722

      The loss is 0.791 of the first group's mean, 2, and 0.209 of the other's, 2/3.

    References:
      *Distributionally Robust Neural Networks for Group Shifts*, `arXiv 1911.08731 <https://arxiv.org/abs/1911.08731>`_,
      Algorithm 1, and section 3.3 for the adjustment.
    """
    check_count("num_groups", num_groups)
    check_scalar("step_size", step_size, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    check_scalar("adjustment", adjustment, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    if callable(average_decay):
        raise TypeError("`average_decay` must be a number or an array; schedules of it are not supported.")
    check_scalar(
        "average_decay", average_decay, "in [0, 1), in float32 too", lambda v: 0 <= v and bool(np.float32(v) < 1)
    )
    if group_counts is None and not is_static_zero(adjustment):
        raise ValueError("`adjustment` needs `group_counts`, how many examples of each group the data has.")
    if group_counts is not None:
        _check_counts(group_counts, num_groups)
    log_prior = _simplex.log_simplex("prior", prior, num_groups, zeros=True)

    def init(hyperparams: GroupDroHyperparams, step: jax.Array) -> GroupDroState:
        dtype = statistics_dtype()
        return GroupDroState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            group_counts=None if group_counts is None else jnp.array(group_counts, dtype),
            log_prior=jnp.array(log_prior, dtype),
            tilt=jnp.zeros((num_groups,), dtype),
            log_normalizer=_simplex.LogNormalizer(jnp.zeros([], dtype), jnp.zeros([], dtype)),
            average_losses=jnp.zeros((num_groups,), dtype),
            visits=jnp.zeros((num_groups,), jnp.int32),
        )

    hyperparams = GroupDroHyperparams(step_size, adjustment, max_loss, average_decay)
    return rule_transformation("reweight_by_group_dro", init, hyperparams, axis_name)


def _check_counts(group_counts: Any, num_groups: int) -> None:
    if np.shape(group_counts) != (num_groups,):
        raise ValueError(
            f"`group_counts` must have one entry per group, shape ({num_groups},), got shape {np.shape(group_counts)}."
        )
    if isinstance(group_counts, jax.core.Tracer):
        return
    known = np.asarray(group_counts)  # of a concrete jax.Array, jnp's own min would be traced inside a jit
    lowest, highest = known.min(), known.max()
    if not (lowest >= 1 and np.isfinite(highest)):
        raise ValueError(
            "`group_counts` must be finite and at least 1, numbers of examples and not frequencies, got values from "
            f"{lowest} to {highest}."
        )
