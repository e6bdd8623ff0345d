r"""ALSO: an optimistic KL mirror step for the weights of groups or of single examples.

The game of ALSO (arXiv 2508.16734, eq. 4), with :math:`n` examples :math:`f_{ij}` in :math:`G` groups:

.. math::
   \min_\theta \max_{\pi \in \Delta} \frac{G}{n} \sum_i \pi_i \sum_j f_{ij}(\theta) - \tau\,\mathrm{KL}(\pi\|\hat\pi)

On a batch of :math:`B` examples, drawn of group :math:`i` with chance :math:`q_i` (``None`` is the paper's
:math:`q = 1/G`), the dual side of its Algorithm 1 is

.. math::
   w_b &= \pi_{g(b)} / q_{g(b)} \\
   h_t[i] &= \frac{1}{B} \sum_{b : g(b) = i} \ell_b / q_i \\
   d_t &= (1 + \alpha) h_t - \alpha h_{t-1}, \qquad h_{-1} = h_0 \\
   \log \pi_{t+1} &= \mathrm{log\,softmax}\left(\frac{\log \pi_t + \eta (\tau \log \hat\pi + d_t)}{1 + \eta\tau}\right)

A ``radius`` in place of the penalty projects: of the step without a pull, :math:`y`, the new weights are
:math:`\pi_{t+1} \propto y^{c} \hat\pi^{1 - c}` with the largest :math:`c \le 1` inside the ball (``_strength``),
which is the point of the ball next to :math:`y` in KL. The two-point form, which the authors' code runs, has
:math:`\pi_{t+1/2} = \mathrm{prox}(\pi_t, h_{t-1})`, :math:`\pi_{t+1} = \mathrm{prox}(\pi_t, h_t)`.

:math:`\eta` is ``dual_learning_rate``, :math:`\tau` is ``kl_penalty``, :math:`\alpha` is ``optimism``, :math:`\hat\pi`
is ``prior``, :math:`q` is ``group_frequencies``, :math:`h` is ``dual_gradient``. :math:`\pi` is kept as a tilt of the
prior (``_simplex``), so no epsilon is needed where the authors' code adds one, groups of prior zero stay at zero, and
uniform weights are exactly 1 at any G.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _average, _game, _groups, _scores, _simplex, _strength
from also_optax._base import AxisName, Sums, counts, rule_transformation
from also_optax._examples import Examples
from also_optax._hyperparams import (
    LARGEST_LOG,
    LARGEST_TO_SQUARE,
    check_count,
    check_scalar,
    is_static_zero,
    saturated,
    statistics_dtype,
)
from also_optax.rules.also_scores import AlsoScoresState

LARGEST_TABLES = 50_000
"""Up to so many groups a pass over all of them costs less than finding those of the batch."""


class AlsoHyperparams(NamedTuple):
    """Scalars of :func:`reweight_by_also`, as its arguments; `kl_penalty` is 0 with a bound, of which one is None."""

    dual_learning_rate: Any
    kl_penalty: Any
    optimism: Any
    max_loss: Any
    average_decay: Any
    radius: Any = None
    target_ess: Any = None
    min_weight: Any = None

    @property
    def bound(self) -> _strength.Bound | None:
        """How far the weights may go from the prior, or None."""
        is_free = self.radius is None and self.target_ess is None
        return None if is_free else _strength.Bound(self.radius, self.target_ess)


class AlsoState(NamedTuple):
    """State of :func:`reweight_by_also`; tables are ``[G]``.

    Attributes:
      step: how often the adversary has moved.
      rejected: how many examples could not be used.
      hyperparams: the values for the next step.
      log_prior: log of the prior, ``[G]``, or the scalar ``-log(G)`` where it is uniform.
      log_frequencies: log of q, ``[G]`` or the scalar ``-log(G)``; None where groups are drawn from pi.
      tilt: u of ``log pi = log_prior + u - log_normalizer``.
      log_normalizer: log Z of the same.
      previous_dual_gradient: h of the last batch; None without optimism and with look-ahead.
      moments: Adam's, of d; None where the step is along d itself.
      ahead: tilt and log_normalizer of the extrapolated weights; None without look-ahead.
      average_losses: moving average of h, not yet debiased; None where it is not kept.
    """

    step: jax.Array
    rejected: jax.Array
    hyperparams: AlsoHyperparams
    log_prior: jax.Array
    log_frequencies: jax.Array | None
    tilt: jax.Array
    log_normalizer: _simplex.LogNormalizer
    previous_dual_gradient: jax.Array | None
    moments: Any
    ahead: tuple[jax.Array, _simplex.LogNormalizer] | None
    average_losses: jax.Array | None

    @property
    def num_groups(self) -> int:
        """G."""
        return self.tilt.shape[0]

    def observe(self, examples: Examples) -> Sums:
        """Sums of the losses by group."""
        return Sums(*counts(examples), _groups.loss_sums(examples, self.num_groups, like=self.tilt))

    def advance(self, statistics: Sums) -> "AlsoState":
        """The prox step of the module docstring on the batch's dual gradient."""
        dual_gradient = self._dual_gradient(statistics)
        direction, moments = self._momentum(dual_gradient), None
        if self.moments is not None:
            direction = saturated(direction, LARGEST_TO_SQUARE)
            direction, moments = optax.scale_by_adam().update(direction, self.moments)
        tilt, log_normalizer = self._prox(direction)
        moved = self._replace(tilt=tilt, log_normalizer=log_normalizer, moments=moments)
        if self.previous_dual_gradient is not None:
            moved = moved._replace(previous_dual_gradient=dual_gradient)
        if self.ahead is not None:
            moved = moved._replace(ahead=moved._prox(dual_gradient))
        if self.average_losses is not None:
            decay = self.hyperparams.average_decay
            average = decay * self.average_losses + (1 - decay) * dual_gradient
            moved = moved._replace(average_losses=average)
        return moved

    def weigh(self, statistics: Sums | None, examples: Examples) -> jax.Array:
        """Weights pi/q of each example's group; at the extrapolated pi with look-ahead."""
        del statistics
        tilt, log_normalizer = (self.tilt, self.log_normalizer) if self.ahead is None else self.ahead
        assert examples.groups is not None  # noqa: S101 (as_examples has required them)
        groups = examples.groups

        def at_groups(table: jax.Array) -> jax.Array:
            return _groups.take(table, groups)

        if self.log_frequencies is None:  # q is pi, and what is left of pi/q is the look-ahead
            log_ratio = _simplex.normalized(at_groups(tilt), log_normalizer)
            log_ratio = log_ratio - _simplex.normalized(at_groups(self.tilt), self.log_normalizer)
        else:
            log_ratio = at_groups(self.log_prior) - at_groups(self.log_frequencies)
            log_ratio = log_ratio + _simplex.normalized(at_groups(tilt), log_normalizer)
        return examples.each(jnp.exp(jnp.minimum(log_ratio, LARGEST_LOG)))

    def group_weights(self) -> jax.Array:
        """pi, ``[G]``."""
        return jax.nn.softmax(_simplex.log_weights(self.log_prior, self.tilt, self.log_normalizer))

    def diagnostics(self) -> dict[str, jax.Array]:
        """The state of the game between the model and the adversary."""
        return _game.of(self, self.tilt, self.log_normalizer, self.average_losses)

    def _log_frequencies_or_pi(self) -> jax.Array:
        if self.log_frequencies is None:
            return _simplex.log_weights(self.log_prior, self.tilt, self.log_normalizer)
        return self.log_frequencies

    def _dual_gradient(self, statistics: Sums) -> jax.Array:
        """h of the module docstring, saturated."""
        assert statistics.losses is not None  # noqa: S101 (observe has summed them)
        means = statistics.losses / jnp.maximum(statistics.count, 1)
        inverse = _groups.inverse_of(self._log_frequencies_or_pi(), self.num_groups)
        return saturated(means * inverse)

    def _momentum(self, dual_gradient: jax.Array) -> jax.Array:
        """d of the module docstring; without a previous gradient (descent-ascent, look-ahead) h itself."""
        if self.previous_dual_gradient is None:
            return dual_gradient
        previous = jnp.where(self.step == 0, dual_gradient, self.previous_dual_gradient)
        return saturated(dual_gradient + self.hyperparams.optimism * (dual_gradient - previous))

    def _prox(self, ascent_direction: jax.Array) -> tuple[jax.Array, _simplex.LogNormalizer]:
        """Tilt and log_normalizer after a prox step; the largest tilt is put to 0, and the rest keep their digits."""
        step_size, penalty = self.hyperparams.dual_learning_rate, self.hyperparams.kl_penalty
        ascent = saturated(step_size * ascent_direction)
        tilt = _simplex.prox_step(self.tilt, ascent, step_size * penalty)
        tilt = _simplex.below_highest(self.log_prior, tilt)
        if (bound := self.hyperparams.bound) is not None:
            tilt = tilt * _strength.largest_scale(self.log_prior, tilt, bound, self.num_groups, 1)
        if (min_weight := self.hyperparams.min_weight) is not None:
            tilt = _simplex.floored(self.log_prior, tilt, jnp.log(min_weight) - np.log(self.num_groups))
        return tilt, _simplex.log_partition(self.log_prior, tilt)


def reweight_by_also(
    num_groups: int,
    *,
    dual_learning_rate: optax.ScalarOrSchedule = 1e-3,
    kl_penalty: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    optimism: ArrayLike = 1.0,
    prior: ArrayLike | None = None,
    group_frequencies: ArrayLike | Literal["pi"] | None = None,
    lookahead: bool = False,
    lazy: bool | None = None,
    dual_adam: bool = False,
    min_weight: ArrayLike = 0.0,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    average_decay: ArrayLike | None = 0.99,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Weighs groups, or single examples, by the adversary of ALSO.

    The rule leaves the updates alone: it may stand anywhere in a chain, and :func:`also_optax.reweight` reads its
    weights. :func:`also_optax.also` chains it with the primal step of the paper.

    **Which objective.** For known groups pass ``group_frequencies=counts / counts.sum()``: then pi is pulled to the
    groups of the largest *mean* loss, which is what most users of groups want. With the default, the paper's eq. (4),
    the adversary sees *sums*: under uniform sampling the biggest group wins. That is right for one weight per example
    (``num_groups`` the size of the data set, ``groups`` the indices of the batch) and for batches balanced by group.

    **Which strength.** The weights settle at softmax(log prior + L/kl_penalty), but at the default
    ``dual_learning_rate`` and ``kl_penalty``, which are the authors', they move for about 1e5 steps before they meet
    that pull, and until then the length of training is the strength. For a strength of your choice set ``kl_penalty``
    near the spread of the group losses, and ``dual_learning_rate`` so that ``1 / (dual_learning_rate * kl_penalty)``
    steps are a small part of training. In float32 a pull of ``dual_learning_rate * kl_penalty`` below 1e-7 is lost to
    rounding. Or give no penalty but a `radius`: the weights then go where the losses lead, as far as
    KL(pi ‖ prior) = radius, which says the same of any losses, early and late in training.

    Special cases: ``optimism=0`` without `lookahead` is descent-ascent and keeps no previous gradient;
    ``dual_learning_rate=0`` keeps the prior; ``kl_penalty=0`` is exponentiated gradient, and so are a `radius` of
    log(1/min(prior)) or more; ``radius=0`` keeps the prior; a single group is plain training.

    Args:
      num_groups: G, at least 1; a Python int.
      dual_learning_rate: eta, at least 0; a scalar or a schedule of the adversary's steps. In 1/loss.
      kl_penalty: tau, at least 0, the pull to the prior; a scalar or a schedule. In units of the loss. None is the
        authors' 1e-2, or no pull at all with a `radius` or a `target_ess`.
      radius: the largest KL(pi ‖ prior) in nats, at least 0, in place of the pull; a scalar or a schedule. A step then
        takes some thirty passes over pi.
      target_ess: the same by the smallest effective number of groups, G / sum(pi²/prior), which is 1/sum(pi²) under a
        uniform prior; above 0, and G or more keeps the prior.
      optimism: alpha, at least 0: the adversary steps along (1+alpha) h_t - alpha h_{t-1}.
      prior: pi-hat and the weights to start from, ``[G]``, not negative; normalised here. None is uniform: with
        `group_frequencies`, training then starts balanced by group; ``prior=group_frequencies`` starts it as plain.
      group_frequencies: q, the chance that a drawn example is of each group, ``[G]``, positive; normalised here. None
        is 1/G; ``"pi"`` says that groups are drawn by the current ``group_weights``, and leaves weights of 1.
      lookahead: the two-point form: weights are read at prox(pi, h_{t-1}). Use it with
        :func:`also_optax.past_extragradient`; `optimism` then has no part in the dual step.
      lazy: True touches only the batch's entries of pi, in time that does not grow with G. Then
        :func:`also_optax.diagnostics` has no losses and no gap, and a `dual_learning_rate` that is changed from outside
        (``optax.inject_hyperparams``; not a schedule given here) reaches optimism one step late. False works through
        all of pi in every step. None is True for more than 50,000 groups, but not with `lookahead`, ``"pi"``, `radius`,
        `target_ess`, `dual_adam` or `min_weight`, which need all of pi.
      dual_adam: True puts Adam (b1 .9, b2 .999) between d and the mirror step, the paper's A-pi-LSO: then
        `dual_learning_rate` is about the change of log pi in a step, whatever the scale of the losses. Not with
        `lookahead`.
      min_weight: in [0, 1): no weight of positive prior falls below ``min_weight/G``, the paper's truncated simplex
        (option II), by an exact projection. The Python number 0 is none. Not with a bound.
      max_loss: losses above it are rejected; a scalar or a schedule.
      average_decay: decay of the moving average of h that :func:`also_optax.diagnostics` reports on, in [0, 1). None
        keeps none and saves a table of ``[G]``.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      A transformation whose update needs ``losses`` and ``groups``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      >>> import jax.numpy as jnp, optax, also_optax
      >>> jnp.set_printoptions(precision=3)
      >>> tx = optax.chain(also_optax.reweight_by_also(2, dual_learning_rate=1.0), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> opt_state = tx.init(params)
      >>> losses, groups = jnp.array([2.0, 0.5, 0.5, 1.0]), jnp.array([0, 1, 1, 1])
      >>> _, opt_state = tx.update(jnp.ones(3), opt_state, params, losses=losses, groups=groups)
      >>> print(also_optax.example_weights(opt_state, losses, groups))
      [1. 1. 1. 1.]

      Both groups have a loss of 2 in sum, so eq. (4) leaves them alone. By their means the first is worse:

      >>> tx = also_optax.reweight_by_also(2, dual_learning_rate=1.0, group_frequencies=jnp.array([1, 3]))
      >>> _, opt_state = tx.update(jnp.ones(3), tx.init(params), params, losses=losses, groups=groups)
      >>> print(also_optax.group_weights(opt_state))
      [0.789 0.211]

    References:
      *Aligning Distributionally Robust Optimization with Practical Deep Learning Needs*,
      `arXiv 2508.16734 <https://arxiv.org/abs/2508.16734>`_, eq. (4), Algorithm 1, and appendix A for the sampling
      schemes behind `group_frequencies`.
    """
    check_count("num_groups", num_groups)
    if num_groups >= 2**31:
        raise ValueError(f"`num_groups` must be below 2**31, because ids are int32, got {num_groups}.")
    check_scalar("dual_learning_rate", dual_learning_rate, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    bounded = not (radius is None and target_ess is None)
    if kl_penalty is None:
        kl_penalty = 0.0 if bounded else 1e-2
    elif bounded:
        raise ValueError("give one of `kl_penalty`, `radius` and `target_ess`: a bound takes the place of the pull.")
    if radius is not None and target_ess is not None:
        raise ValueError("give one of `radius` and `target_ess`, got both.")
    check_scalar("kl_penalty", kl_penalty, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    if radius is not None:
        check_scalar("radius", radius, "at least 0", lambda v: v >= 0)
    if target_ess is not None:
        check_scalar("target_ess", target_ess, "above 0 and finite", lambda v: 0 < v < jnp.inf)
    check_scalar("optimism", optimism, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
    if callable(optimism) or callable(average_decay):
        raise TypeError(
            "`optimism` and `average_decay` must be numbers or arrays; schedules of them are not supported."
        )
    if average_decay is not None:
        check_scalar(
            "average_decay", average_decay, "in [0, 1), in float32 too", lambda v: 0 <= v and bool(np.float32(v) < 1)
        )
    drawn_from_pi = isinstance(group_frequencies, str)
    if drawn_from_pi and group_frequencies != "pi":
        raise ValueError(f'`group_frequencies` must be None, an array or "pi", got {group_frequencies!r}.')
    log_prior = _simplex.log_simplex("prior", prior, num_groups, zeros=True)
    log_frequencies = None
    if not drawn_from_pi:
        log_frequencies = _simplex.log_simplex("group_frequencies", group_frequencies, num_groups, zeros=False)
    keeps_gradient = not (lookahead or is_static_zero(optimism))

    check_scalar("min_weight", min_weight, "in [0, 1)", lambda v: 0 <= v < 1)
    is_floored = not is_static_zero(min_weight)
    if is_floored and bounded:
        raise ValueError("`min_weight` goes with neither `radius` nor `target_ess`: give one of them.")
    if dual_adam and lookahead:
        raise ValueError("`dual_adam=True` and `lookahead=True` are two forms of the adversary: give one of them.")
    by_scores, histogram = _mode(
        lazy, num_groups, lookahead or drawn_from_pi or bounded or bool(dual_adam) or is_floored
    )

    def init_scores(hyperparams: AlsoHyperparams, step: jax.Array) -> AlsoScoresState:
        dtype = statistics_dtype()
        prior = jnp.array(log_prior, dtype)
        keeps_average = not (histogram or average_decay is None)
        return AlsoScoresState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            log_prior=prior,
            log_frequencies=jnp.array(log_frequencies, dtype),
            scores=_scores.start(num_groups, prior, bonus=keeps_gradient, histogram=histogram),
            average_losses=_average.start(num_groups, dtype) if keeps_average else None,
        )

    def init_tables(hyperparams: AlsoHyperparams, step: jax.Array) -> AlsoState:
        def table() -> jax.Array:
            return jnp.zeros((num_groups,), statistics_dtype())

        def scalar() -> jax.Array:
            return jnp.zeros([], statistics_dtype())

        return AlsoState(
            step=step,
            rejected=jnp.zeros([], jnp.int32),
            hyperparams=hyperparams,
            log_prior=jnp.array(log_prior, statistics_dtype()),
            log_frequencies=None if log_frequencies is None else jnp.array(log_frequencies, statistics_dtype()),
            tilt=table(),
            log_normalizer=_simplex.LogNormalizer(scalar(), scalar()),
            previous_dual_gradient=table() if keeps_gradient else None,
            moments=optax.scale_by_adam().init(table()) if dual_adam else None,
            ahead=(table(), _simplex.LogNormalizer(scalar(), scalar())) if lookahead else None,
            average_losses=None if average_decay is None else table(),
        )

    hyperparams = AlsoHyperparams(
        dual_learning_rate,
        kl_penalty,
        optimism,
        max_loss,
        0.0 if average_decay is None else average_decay,
        radius,
        target_ess,
        min_weight if is_floored else None,
    )
    init = init_scores if by_scores else init_tables
    return rule_transformation("reweight_by_also", init, hyperparams, axis_name)


def _mode(lazy: Any, num_groups: int, needs_tables: bool) -> tuple[bool, bool]:
    """Whether the weights are kept as scores, and whether their normaliser comes from a histogram."""
    if lazy is not None and not isinstance(lazy, bool):
        raise TypeError(f"`lazy` must be True, False or None, got {lazy!r}.")
    if lazy and needs_tables:
        raise ValueError(
            '`lazy=True` goes with none of `lookahead`, `group_frequencies="pi"`, `radius`, `target_ess`, `dual_adam` '
            "and `min_weight`; pass `lazy=False` for the form that takes time in proportion to `num_groups`."
        )
    by_scores = lazy is True or (num_groups > LARGEST_TABLES and not needs_tables)
    return by_scores, by_scores and lazy is not False
