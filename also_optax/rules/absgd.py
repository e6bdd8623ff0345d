r"""ABSGD: weights exp(loss/lambda) over a moving average of their mean.

The dual of KL-penalised DRO (arXiv 2012.06951, eq. 2 and Algorithm 1),
:math:`F(\theta) = \lambda \log \frac{1}{n} \sum_i \exp(\ell_i(\theta)/\lambda)`, on a batch of :math:`B`:

.. math::
   s_{t+1} &= (1 - \gamma) s_t + \gamma \frac{1}{B} \sum_b \exp(\ell_b/\lambda) \\
   w_b &= \exp(\ell_b/\lambda) / s_{t+1}

:math:`\lambda` is ``temperature``, :math:`\gamma` is ``averaging_rate``. Here :math:`\nu = \log s` carries the average:

.. math:: \nu_{t+1} = \mathrm{logaddexp}(\log(1 - \gamma) + \nu_t,\; \log\gamma + m_t), \qquad
          m_t = \mathrm{logmeanexp}(\ell/\lambda), \qquad w_b = \exp(\ell_b/\lambda - \nu_{t+1})

The state holds :math:`\lambda\nu`, the moving average in units of the loss, which is what stays put when a schedule
moves :math:`\lambda`. A batch is kept as its *peak* (the loss of the largest :math:`\ell/\lambda`) and the sums of
:math:`\exp` and :math:`\mathrm{expm1}` of :math:`(\ell - \mathrm{peak})/\lambda`: together exact for the smallest and
the largest :math:`|\lambda|` alike.
A ``radius`` in place of the temperature finds, in each batch, the :math:`\lambda` at which
:math:`\mathrm{KL}(p\|\mathrm{uniform})` of the batch's :math:`p = \mathrm{softmax}(\ell/\lambda)` is the radius
(``_strength``), by halving; ``target_ess`` the one at which :math:`1/\sum_b p_b^2` is the target.
Deviations, each for a fault of the published code:

- It starts at :math:`s_0 = 0`, so its first weights are :math:`1/\gamma` too large. Here the first visit sets
  :math:`\nu = m` (mean weight exactly 1); so does the step after plain training, :math:`|\lambda| = \infty`.
- It overflows past :math:`\ell/\lambda = 88` and is silent ever after. Here all is in logs, relative to the peak.
- One absurd loss would starve all steps until :math:`\nu` has fallen, by only :math:`-\log(1-\gamma)` each. Here the
  average restarts at :math:`m` where it exceeds it by more than ``max_log_ratio``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax import _strength
from also_optax._base import AxisName, counts, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import LARGEST, check_one_of, check_scalar, saturated, statistics_dtype
from also_optax._pairs import Pairs, entries_of


class AbsgdHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_absgd`, as its arguments; two of the first three are None."""

    temperature: Any
    radius: Any
    target_ess: Any
    averaging_rate: Any
    max_log_ratio: Any
    max_loss: Any


class LogMeanExp(NamedTuple):
    """Statistics of :func:`reweight_by_absgd`.

    Attributes:
      count: how many examples counted, scalar.
      rejected: how many could not be used, scalar.
      temperature: lambda, by which they were made.
      peak: the loss of the largest loss/temperature, scalar; 0 without examples.
      mass: sum of exp((loss - peak)/temperature), scalar, at most count: precise where few examples are near the peak.
      excess: mass - count, as a sum of expm1, scalar: precise where most are.
    """

    count: jax.Array  # type: ignore[assignment]  # tuple.count, which nobody needs here
    rejected: jax.Array
    temperature: jax.Array
    peak: jax.Array
    mass: jax.Array
    excess: jax.Array

    def merge(self, other: "LogMeanExp") -> "LogMeanExp":
        """Of both sets of examples together."""
        peak = jnp.where(self._order() >= other._order(), self.peak, other.peak)
        return LogMeanExp(
            self.count + other.count,
            self.rejected + other.rejected,
            jnp.where(self.count > 0, self.temperature, other.temperature),
            peak,
            *jax.tree.map(jnp.add, self._relative_to(peak), other._relative_to(peak)),
        )

    def pool(self, axis_name: str | tuple[str, ...]) -> "LogMeanExp":
        """Of all shards."""
        highest = jax.lax.pmax(self._order(), axis_name)
        peak = jnp.where(jnp.isneginf(highest), 0, highest * _sign(self.temperature))
        sums = (self.count, self.rejected, *self._relative_to(peak))
        count, rejected, mass, excess = jax.lax.psum(sums, axis_name)
        return LogMeanExp(count, rejected, self.temperature, peak, mass, excess)

    def log_mean(self) -> jax.Array:
        """log of the mean of exp((loss - peak)/temperature), at most 0; 0 without examples."""
        count = jnp.maximum(self.count, 1)
        few = self.mass < 0.5 * self.count
        return jnp.where(few, jnp.log(jnp.where(few, self.mass, 1) / count), jnp.log1p(self.excess / count))

    def _order(self) -> jax.Array:
        """What the peak is the largest of; minus infinity without examples."""
        return jnp.where(self.count > 0, self.peak * _sign(self.temperature), -jnp.inf)

    def _relative_to(self, peak: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`mass` and `excess` relative to a peak at least as high."""
        shift = jnp.where(self.count > 0, _scaled(self.peak, peak, self.temperature), 0)
        return self.mass * jnp.exp(shift), self.excess * jnp.exp(shift) + self.count * jnp.expm1(shift)


class AbsgdState(NamedTuple):
    """State of :func:`reweight_by_absgd`.

    Attributes:
      step: how many batches were seen.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      averaged: how many batches are in the moving average; 0 where the next visit is the first.
      robust_value: lambda·nu, the moving average of lambda·logmeanexp(loss/lambda), in units of the loss.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: AbsgdHyperparams
    averaged: jax.Array
    robust_value: jax.Array

    @property
    def num_groups(self) -> None:
        """ABSGD has no groups."""

    def observe(self, examples: Examples) -> LogMeanExp | Pairs:
        """The peak of the losses and what they add up to below it; all of them where the temperature is to be found."""
        if self.hyperparams.temperature is None:
            return entries_of(examples)
        return _log_mean_exp(*counts(examples), examples.losses, examples.valid, self.hyperparams.temperature)

    def advance(self, statistics: LogMeanExp | Pairs) -> "AbsgdState":
        """The moving average after the batch."""
        statistics = self._summed(statistics)
        temperature = statistics.temperature
        plain = jnp.isinf(temperature)
        robust_value = statistics.peak + jnp.where(plain, 0, temperature) * self._next_log_mean(statistics)
        return self._replace(
            averaged=jnp.where(plain, 0, self.averaged + 1),
            robust_value=jnp.where(plain, 0, saturated(robust_value)),
        )

    def weigh(self, statistics: LogMeanExp | Pairs, examples: Examples) -> jax.Array:
        """exp(loss/lambda - nu), nu the moving average that has seen the batch already."""
        statistics = self._summed(statistics)
        scaled = _scaled(examples.losses, statistics.peak, statistics.temperature)
        return jnp.exp(jnp.where(examples.valid, scaled - self._next_log_mean(statistics), -jnp.inf))

    def diagnostics(self) -> dict[str, jax.Array]:
        """`robust_value` is 0 until the first visit at a finite temperature."""
        return {"rejected": self.rejected, "robust_value": self.robust_value}

    def _summed(self, statistics: LogMeanExp | Pairs) -> LogMeanExp:
        """The statistics, at the temperature that the radius asks for where none is given."""
        if isinstance(statistics, LogMeanExp):
            return statistics
        count, rejected, ids, losses = statistics
        return _log_mean_exp(count, rejected, losses, ids >= 0, self._temperature_of(count, losses, ids >= 0))

    def _temperature_of(self, count: jax.Array, losses: jax.Array, valid: jax.Array) -> jax.Array:
        """lambda of a batch: as low as the bound allows, with the bound's sign."""
        bound = _strength.Bound(self.hyperparams.radius, self.hyperparams.target_ess)
        sign = _sign(next(value for value in bound if value is not None))
        bound = jax.tree.map(jnp.abs, bound)
        below_peak = jnp.where(valid, sign * (losses - _highest(losses, valid, sign)), 0)
        log_prior = jnp.where(valid, -jnp.log(jnp.maximum(count, 1)), -jnp.inf)
        scale = _strength.largest_scale(log_prior, below_peak, bound, count, LARGEST)
        return sign / scale

    def _next_log_mean(self, statistics: LogMeanExp) -> jax.Array:
        """nu of the module docstring after the batch, less peak/lambda."""
        batch = statistics.log_mean()
        before = _scaled(self.robust_value, statistics.peak, statistics.temperature)
        ratio = saturated(before - batch)
        rate = self.hyperparams.averaging_rate
        far_above = jnp.logaddexp(jnp.log1p(-rate) + ratio, jnp.log(rate))
        otherwise = jnp.log1p(
            (1 - rate) * jnp.expm1(jnp.minimum(ratio, 1))
        )  # the same, with the digits of a small ratio
        restarts = (self.averaged == 0) | (ratio > self.hyperparams.max_log_ratio)
        return batch + jnp.where(restarts, 0, jnp.where(ratio > 1, far_above, otherwise))


def reweight_by_absgd(
    temperature: optax.ScalarOrSchedule | None = None,
    averaging_rate: optax.ScalarOrSchedule = 0.9,
    *,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    max_log_ratio: optax.ScalarOrSchedule = 10.0,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Weighs each example by exp(loss/temperature) over a moving average.

    A positive temperature stresses the hard examples (imbalance, shift), a negative one mistrusts them (label noise).
    What temperature is right depends on how far the losses are apart, and changes as they fall; a `radius` or a
    `target_ess` says instead how unequal the weights of a batch may be, and finds the temperature in each batch.

    Special cases: ``temperature=inf`` (of either sign), ``radius=0`` and a `target_ess` of the batch's size are plain
    training; ``averaging_rate=1`` makes the weights the batch's softmax times its count, whose gradient is that of
    temperature·logmeanexp(loss/temperature); with a radius they are then those of KL-constrained DRO on the batch.

    The published recipe for imbalance has two stages, plain training first. With optax's schedules, for a switch at
    step 800 that makes no spike:

      >>> import jax.numpy as jnp, optax, also_optax
      >>> two_stages = optax.join_schedules([optax.constant_schedule(jnp.inf), optax.constant_schedule(5.0)], [800])
      >>> tx = also_optax.reweight_by_absgd(two_stages)

    (Not ``optax.linear_schedule(jnp.inf, ...)``: what lies between infinity and a number is NaN.)

    Args:
      temperature: lambda, not 0; a scalar or a schedule of the rule's steps, which may change but not cross 0. In units
        of the loss: published values are 1 to 10 for imbalance, -0.1 to -15 for label noise.
      radius: in place of the temperature, the KL divergence of the batch's softmax weights from uniform weights, in
        nats; met exactly unless even the largest loss alone is inside (a radius of log(B) or more is that). Negative
        for label noise: -0.1 is as far as 0.1, to the small losses. A scalar or a schedule.
      target_ess: the same by the effective sample size (sum w)²/sum w² of the batch's softmax weights, in examples:
        from 1, the largest loss alone, to B. Negative for label noise. A scalar or a schedule.
      averaging_rate: gamma in (0, 1], the weight of the *new* batch: 1 minus optax's decay. A scalar or a schedule.
      max_log_ratio: the average restarts at a batch whose own logmeanexp is below it by more than this, above 0. At
        small temperatures ordinary steps may do that too. ``inf`` is the paper's recursion.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if not exactly one of `temperature`, `radius` and `target_ess` is given, or a value is out of range.

    Examples:
      >>> opt_state = also_optax.reweight_by_absgd(temperature=1.0).init(None)
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.0, 1.0, 2.0])).round(3))
      [0.27  0.734 1.996]

    References:
      *Attentional-Biased Stochastic Gradient Descent*, `arXiv 2012.06951 <https://arxiv.org/abs/2012.06951>`_,
      Algorithm 1.
    """
    check_one_of(temperature=temperature, radius=radius, target_ess=target_ess)
    if temperature is not None:
        requirement = "a number other than 0 (inf: plain training)"
        check_scalar("temperature", temperature, requirement, lambda v: v != 0 and v == v)
    if radius is not None:
        check_scalar("radius", radius, "a finite number", lambda v: -jnp.inf < v < jnp.inf)
    if target_ess is not None:
        check_scalar("target_ess", target_ess, "at least 1 in magnitude", lambda v: 1 <= abs(v) < jnp.inf)
    check_scalar("averaging_rate", averaging_rate, "in (0, 1]", lambda v: 0 < v <= 1)
    check_scalar("max_log_ratio", max_log_ratio, "above 0", lambda v: v > 0)

    def init(hyperparams: AbsgdHyperparams, step: jax.Array) -> AbsgdState:
        return AbsgdState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            averaged=jnp.zeros([], jnp.int32),
            robust_value=jnp.zeros([], statistics_dtype()),
        )

    hyperparams = AbsgdHyperparams(temperature, radius, target_ess, averaging_rate, max_log_ratio, max_loss)
    return rule_transformation("reweight_by_absgd", init, hyperparams, axis_name)


def _log_mean_exp(
    count: jax.Array, rejected: jax.Array, losses: jax.Array, valid: jax.Array, temperature: jax.Array
) -> LogMeanExp:
    peak = _highest(losses, valid, _sign(temperature))
    scaled = jnp.where(valid, _scaled(losses, peak, temperature), 0)
    mass, excess = (jnp.where(valid, of(scaled), 0).sum() for of in (jnp.exp, jnp.expm1))
    return LogMeanExp(count, rejected, temperature, peak, mass, excess)


def _highest(losses: jax.Array, valid: jax.Array, sign: jax.Array) -> jax.Array:
    """The largest loss, or with a negative sign the smallest; 0 without any."""
    highest = jnp.max(jnp.where(valid, losses * sign, -jnp.inf), initial=-jnp.inf)
    return jnp.where(jnp.isneginf(highest), 0, highest * sign)  # not by count: on a mesh that were one more reduction


def _sign(temperature: jax.Array) -> jax.Array:
    return jnp.where(temperature < 0, -1, 1).astype(temperature.dtype)


def _scaled(losses: jax.Array, peak: jax.Array, temperature: jax.Array) -> jax.Array:
    """(losses - peak)/temperature, saturated; 0 at an infinite temperature."""
    nonzero = jnp.where(temperature == 0, jnp.finfo(losses.dtype).tiny, temperature)
    return saturated((losses - peak) / nonzero)
