r"""Tilted losses (TERM): weights exp(t·loss) of single examples or of groups, for any sign of t.

The tilted objective (arXiv 2007.01162) of losses :math:`\ell_1, \dots, \ell_B`, here a batch,

.. math:: \tilde R_t = \frac{1}{t} \log \frac{1}{B} \sum_b e^{t \ell_b},
          \qquad \nabla \tilde R_t = \frac{1}{B} \sum_b w_b \nabla \ell_b,
          \qquad w_b = \frac{e^{t \ell_b}}{\frac1B \sum_{b'} e^{t \ell_{b'}}},

is a smooth maximum for :math:`t > 0`, the mean for :math:`t = 0` and a smooth minimum for :math:`t < 0`. Of single
examples it is ABSGD at :math:`\lambda = 1/t`, and made by it. Of groups (the paper's, with no tilt inside a group),
with :math:`L_g` the mean over the examples of group :math:`g` in a batch and :math:`\gamma` the averaging rate,

.. math::
   A_g &\leftarrow (1 - \gamma) A_g + \gamma e^{t L_g} \quad \text{for the groups of the batch; a first visit sets} \\
   w_b &= \frac{A_{g(b)}}{\frac1B \sum_{b'} A_{g(b')}} \quad\text{or}\quad
          \frac{A_{g(b)}}{\sum_j q_j A_j / \sum_j q_j}

where the second, over all groups :math:`j` that have been seen, does not depend on what else is in the batch.

:math:`t` is ``t``, :math:`\gamma` is ``averaging_rate``, :math:`q` is ``group_frequencies``. The state holds
:math:`R_g = \frac1t \log A_g` as ``tilted_losses``, in units of the loss, which is what stays put when a schedule moves
:math:`t`; with :math:`x = t (L_g - R_g)`

.. math:: R_g \leftarrow R_g + (L_g - R_g)\, \frac{\log(1 + \gamma (e^x - 1))}{x}

needs no power of :math:`e^{t L}` itself, and at :math:`t = 0` is the moving average of :math:`L_g`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _group_means, _simplex
from also_optax._base import AxisName, Sums, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import LARGEST_LOG, check_count, check_one_of, check_scalar, saturated, statistics_dtype
from also_optax.rules.absgd import reweight_by_absgd

SMALLEST_EXPONENT = 1e-20
"""Below it log(1 + gamma (e^x - 1)) is gamma x to the last digit."""


class TiltedHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_tilted` with groups, as its arguments."""

    t: Any
    averaging_rate: Any
    max_loss: Any


class TiltedState(NamedTuple):
    """State of :func:`reweight_by_tilted` with groups; tables are ``[G]``.

    Attributes:
      step: how many batches were seen.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      log_frequencies: log of q, ``[G]``; None where weights are relative to the batch.
      tilted_losses: R of the module docstring; 0 of a group not seen yet.
      visits: how many batches had each group.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: TiltedHyperparams
    log_frequencies: jax.Array | None
    tilted_losses: jax.Array
    visits: jax.Array

    @property
    def num_groups(self) -> int:
        """G."""
        return self.tilted_losses.shape[0]

    def observe(self, examples: Examples) -> Sums:
        """Sums and numbers of the losses by group."""
        return _group_means.sums_of(examples, self.num_groups, like=self.tilted_losses)

    def advance(self, statistics: Sums) -> "TiltedState":
        """The moving averages after the batch."""
        losses, present = _group_means.means_of(statistics)
        t, rate = self.hyperparams.t, self.hyperparams.averaging_rate
        averaged = jnp.where(self.visits > 0, _averaged(self.tilted_losses, losses, t, rate), losses)
        return self._replace(
            tilted_losses=jnp.where(present, averaged, self.tilted_losses),
            visits=self.visits + present.astype(self.visits.dtype),
        )

    def weigh(self, statistics: Sums, examples: Examples) -> jax.Array:
        """A of each example's group, after the batch, over the mean of the module docstring."""
        after = self.advance(statistics)
        mass = statistics.sizes if self.log_frequencies is None else after._seen_frequencies()
        assert mass is not None  # noqa: S101 (observe has made the sizes)
        log_weights = after._log_powers(mass)
        return _group_means.at_examples(jnp.exp(jnp.minimum(log_weights, LARGEST_LOG)), examples)

    def diagnostics(self) -> dict[str, jax.Array]:
        """The moving averages R; with frequencies also what they make of all groups seen so far."""
        found = {"rejected": self.rejected, "group_losses": self.tilted_losses}
        if self.log_frequencies is None:
            return found
        mass = self._seen_frequencies()
        t, total = self.hyperparams.t, jnp.where(jnp.any(self.visits > 0), jnp.sum(mass), 1)
        plain = jnp.sum(mass / total * self.tilted_losses)
        peak, log_mean = self._log_mean(mass)
        robust = peak + saturated(log_mean / jnp.where(t == 0, 1, t))
        return found | {"erm_value": plain, "robust_value": jnp.where(t == 0, plain, robust)}

    def _seen_frequencies(self) -> jax.Array:
        """q, 0 of groups not seen yet, ``[G]``."""
        assert self.log_frequencies is not None  # noqa: S101 (it is asked only where there are any)
        return jnp.where(self.visits > 0, jnp.exp(self.log_frequencies), 0)

    def _log_powers(self, mass: jax.Array) -> jax.Array:
        """log of A over the mean of A by `mass`, ``[G]``."""
        peak, log_mean = self._log_mean(mass)
        return saturated(self.hyperparams.t * (self.tilted_losses - peak)) - log_mean

    def _log_mean(self, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The R of the largest A among groups with `mass`, ``[G]``, and the log of the mean of A over that A."""
        t, counts = self.hyperparams.t, mass > 0
        sign = jnp.where(t < 0, -1, 1).astype(t.dtype)
        highest = jnp.max(sign * self.tilted_losses, where=counts, initial=-jnp.inf)
        peak = jnp.where(jnp.isneginf(highest), 0, sign * highest)
        exponents = jnp.where(counts, saturated(t * (self.tilted_losses - peak)), 0)
        share = mass / jnp.where(jnp.isneginf(highest), 1, jnp.sum(mass))
        mean, excess = (jnp.sum(share * of(exponents)) for of in (jnp.exp, jnp.expm1))
        few = (mean < 0.5) & (mean > 0)  # log1p has the digits where most are near the peak, log where few are
        return peak, jnp.where(few, jnp.log(jnp.where(few, mean, 1)), jnp.log1p(jnp.maximum(excess, -0.5)))


def _averaged(average: jax.Array, losses: jax.Array, t: jax.Array, rate: jax.Array) -> jax.Array:
    """The recursion of the module docstring, counted from the side of the larger power."""
    distance = losses - average
    exponent = saturated(t * distance)
    linear = jnp.abs(exponent) < SMALLEST_EXPONENT
    per_exponent = distance / jnp.where(linear, 1, exponent)
    log_rate, log_rest = jnp.log(rate), jnp.log1p(-rate)
    below = average + per_exponent * _log_mixture(rate, log_rate, log_rest, jnp.minimum(exponent, 0))
    above = losses + per_exponent * _log_mixture(1 - rate, log_rest, log_rate, jnp.minimum(-exponent, 0))
    curved = jnp.where(exponent > 0, above, below)
    return jnp.where(rate == 1, losses, jnp.where(linear, average + rate * distance, curved))


def _log_mixture(rate: jax.Array, log_rate: jax.Array, log_rest: jax.Array, exponent: jax.Array) -> jax.Array:
    """log(1 - rate + rate·e^exponent) of an exponent of at most 0."""
    near = jnp.log1p(rate * jnp.expm1(jnp.maximum(exponent, -1)))
    return jnp.where(exponent > -1, near, jnp.logaddexp(log_rest, log_rate + exponent))


def reweight_by_tilted(
    t: optax.ScalarOrSchedule | None = None,
    *,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    num_groups: int | None = None,
    averaging_rate: optax.ScalarOrSchedule = 1.0,
    group_frequencies: ArrayLike | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weighs examples, or groups by their mean losses, by exp(t·loss).

    A positive `t` stresses the hard ones (fairness between groups, imbalance), a negative one mistrusts them (outliers,
    label noise). Weights come from the batch: micro-batches of one step take two passes, as :func:`also_optax.observe`
    describes.

    Special cases: ``t=0`` is plain training. Without `num_groups` it is
    ``reweight_by_absgd(temperature=1/t, averaging_rate)``, at the default rate the batch's softmax of t·loss times its
    count. With groups of one example in a batch, it is the same at the default rate.

    Args:
      t: the tilt, finite, of either sign; a scalar or a schedule of the rule's steps. In 1/loss. Without groups the
        moving average begins anew at 0, and a schedule may not cross it unless `averaging_rate` is 1.
      radius: in place of t, how far from uniform the batch's weights are, as KL divergence in nats; negative for a
        negative tilt. Of single examples only, and as in :func:`also_optax.reweight_by_absgd`.
      target_ess: the same as an effective number of examples.
      num_groups: G, to tilt groups by the mean losses of theirs; None tilts single examples.
      averaging_rate: gamma in (0, 1], the weight of the *new* batch in the moving average of exp(t·loss): 1 minus
        optax's decay. 1 has no memory but of absent groups. A scalar or a schedule.
      group_frequencies: q, with `num_groups`: weights are then relative to all groups seen so far, in these
        proportions, ``[G]``, positive; normalised here. None: relative to the groups of the batch, with a mean weight
        of 1.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses`` (and ``groups``), as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if not exactly one of `t`, `radius` and `target_ess` is given, an argument is out of range or of the
        wrong shape, `group_frequencies` has no `num_groups`, or a bound has one.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> losses, groups = jnp.array([0.0, 0.2, 1.0, 1.4]), jnp.array([0, 0, 0, 1])
      >>> for t in (0.0, 1.0, -1.0):
      ...     opt_state = also_optax.reweight_by_tilted(t).init(None)
      ...     print(*(f"{w:.2f}" for w in also_optax.example_weights(opt_state, losses)))
      1.00 1.00 1.00 1.00
      0.44 0.54 1.21 1.80
      1.64 1.35 0.60 0.41
      >>> opt_state = also_optax.reweight_by_tilted(1.0, num_groups=2).init(None)
      >>> print(*(f"{w:.2f}" for w in also_optax.example_weights(opt_state, losses, groups)))
      0.70 0.70 0.70 1.90

    References:
      *Tilted Empirical Risk Minimization*, `arXiv 2007.01162 <https://arxiv.org/abs/2007.01162>`_.
    """
    check_one_of(t=t, radius=radius, target_ess=target_ess)
    if t is not None:
        check_scalar("t", t, "finite", lambda v: -jnp.inf < v < jnp.inf)
    check_scalar("averaging_rate", averaging_rate, "in (0, 1]", lambda v: 0 < v <= 1)
    if num_groups is None:
        if group_frequencies is not None:
            raise ValueError("`group_frequencies` needs `num_groups`, since without groups single examples are tilted.")
        return reweight_by_absgd(
            None if t is None else _inverse(t),
            averaging_rate,
            radius=radius,
            target_ess=target_ess,
            max_loss=max_loss,
            axis_name=axis_name,
        )
    if t is None:
        raise ValueError(
            "`radius` and `target_ess` are for single examples: with `num_groups` give `t`, or use `also(radius=...)`."
        )
    check_count("num_groups", num_groups)
    log_frequencies = None
    if group_frequencies is not None:
        log_frequencies = _simplex.log_simplex("group_frequencies", group_frequencies, num_groups, zeros=False)

    def init(hyperparams: TiltedHyperparams, step: jax.Array) -> TiltedState:
        dtype = statistics_dtype()
        return TiltedState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            log_frequencies=None if log_frequencies is None else jnp.array(log_frequencies, dtype),
            tilted_losses=jnp.zeros((num_groups,), dtype),
            visits=jnp.zeros((num_groups,), jnp.int32),
        )

    hyperparams = TiltedHyperparams(t, averaging_rate, max_loss)
    return rule_transformation("reweight_by_tilted", init, hyperparams, axis_name)


def _inverse(t: Any) -> Any:
    """1/t, infinite of 0 and of what the statistics cannot tell from it; of a schedule a schedule."""
    if callable(t):
        return lambda step: _inverse(t(step))
    smallest = float(jnp.finfo(statistics_dtype()).tiny)
    if isinstance(t, jax.Array):
        magnitude = jnp.abs(t).astype(statistics_dtype())
        zero = magnitude < smallest
        inverse = jnp.maximum(1 / jnp.where(zero, 1, magnitude), smallest)
        return jnp.where(zero, jnp.inf, jnp.where(t < 0, -inverse, inverse))
    number = float(np.asarray(t))
    return math.copysign(math.inf if abs(number) < smallest else max(1 / abs(number), smallest), number)
