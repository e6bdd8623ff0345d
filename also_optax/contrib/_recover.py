r"""RECOVER: KL-regularised DRO with variance reduction, at two gradients a step.

The objective is :math:`\lambda \log \mathbb{E}\, e^{\ell(\theta)/\lambda}` (arXiv 2006.10138, eq. 2). Its gradient is a
ratio of two means, so an unbiased batch gradient of it does not exist; a moving average (ABSGD) has an error that stays
with the step size. STORM removes it, by evaluating each batch at the new *and* the previous parameters. With
:math:`u` the estimate of :math:`\mathbb{E}\, e^{\ell/\lambda}`, :math:`v` that of :math:`\mathbb{E}\, e^{\ell/\lambda}
\nabla\ell`, and a bar for the mean over the batch of step t,

.. math::
   u_t &= \overline{e^{\ell(\theta_t)/\lambda}} + (1 - a)\,(u_{t-1} - \overline{e^{\ell(\theta_{t-1})/\lambda}}) \\
   v_t &= \overline{e^{\ell(\theta_t)/\lambda} \nabla\ell(\theta_t)}
       + (1 - a)\,(v_{t-1} - \overline{e^{\ell(\theta_{t-1})/\lambda} \nabla\ell(\theta_{t-1})}) \\
   \theta_{t+1} &= \theta_t - \gamma\, v_t / u_t

:math:`\lambda` is ``temperature``, :math:`a` is ``averaging_rate``, :math:`\gamma` is ``learning_rate``. The paper's
stages, each with a smaller :math:`\gamma` and an :math:`a` in proportion to its square, are two schedules.

Deviations. The state holds :math:`\nu = \log u` and :math:`z = v/u`, the direction itself, and each step is worked out
relative to the largest exponential in it: nothing overflows at any :math:`\ell/\lambda`. The correction can bring u
below what the batch alone would leave of it, :math:`a\,\overline{e^{\ell/\lambda}}`, even below 0, where the recursion
of the paper divides by it: there, and where u is more than :math:`e^{c}` above the batch's mean or below any part of
its sum (c is ``max_log_ratio``), both estimates start anew from the batch, as they do in the first step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax._examples import as_examples
from also_optax._hyperparams import check_scalar, saturated, statistics_dtype, values_at


class RecoverHyperparams(NamedTuple):
    """Scalars of :func:`recover`, as its arguments."""

    temperature: Any
    averaging_rate: Any
    max_log_ratio: Any
    max_loss: Any


class RecoverState(NamedTuple):
    """State of :func:`recover`.

    Attributes:
      step: how many steps were made.
      rejected: how many examples could not be used.
      restarts: how often the estimates began anew, the first step not counted.
      log_mean: nu, the log of the estimated mean of exp(loss/temperature); times the temperature it is the objective.
      direction: z, the estimated gradient of the objective, like the parameters, in float32 at least.
      previous_params: the parameters of the last step.
      inner_state: of the optimizer that the direction goes through.
    """

    step: jax.Array
    rejected: jax.Array
    restarts: jax.Array
    log_mean: jax.Array
    direction: Any
    previous_params: Any
    inner_state: Any


class Recover(NamedTuple):
    """What :func:`recover` returns: two pure functions, like an `optax.GradientTransformation` without gradients.

    It takes them itself, of the function that it is given in their place.

    Attributes:
      init: ``init(params) -> state``.
      update: ``update(per_example_loss, state, params, *args, where=None) -> (updates, state)``, where
        ``per_example_loss(params, *args)`` gives losses ``[B]`` or ``[B, ...]``.
    """

    init: Callable[[Any], RecoverState]
    update: Callable[..., tuple[Any, RecoverState]]


def recover(
    learning_rate: optax.ScalarOrSchedule,
    temperature: ArrayLike,
    averaging_rate: optax.ScalarOrSchedule = 0.1,
    *,
    optimizer: optax.GradientTransformation | None = None,
    max_log_ratio: ArrayLike = 10.0,
    max_loss: ArrayLike = np.inf,
) -> Recover:
    r"""Minimises :math:`\lambda \log \mathbb{E}\, e^{\ell/\lambda}` by variance-reduced estimates of its gradient.

    Why it is not a gradient transformation: a step needs the gradients of one batch at two points, and a transformation
    is handed one gradient, averaged. So the update is given the function in place of the gradient, takes both, and
    returns *updates* as optax does: `optax.apply_updates`, schedules, and any optimizer behind the direction stay.
    Under ``jax.jit`` on a mesh the batch may be sharded as in any step; there is no ``axis_name``.

    Use it where :func:`also_optax.absgd` stalls in the noise of its average, and two gradients a step are affordable.

    Special cases: ``averaging_rate=1`` is SGD on the batch's own objective, ``absgd(learning_rate,
    temperature=temperature, averaging_rate=1, momentum=0)``; on batches that are all of the data it is gradient descent
    on the objective whatever the averaging rate is.

    Args:
      learning_rate: gamma; a scalar or a schedule of the step.
      temperature: lambda, not 0, in units of the loss; above 0 robust, below 0 for label noise, inf is plain training.
      averaging_rate: a, in (0, 1]; a scalar or a schedule of the step. The weight of the new batch alone.
      optimizer: a transformation *before* the learning rate that the direction goes through, such as
        ``optax.scale_by_adam()``; None is plain descent, the paper's.
      max_log_ratio: c, above 0, how far the estimate may be from the batch before it starts anew; more than 80 is 80.
      max_loss: losses above it are rejected.

    Returns:
      A :class:`Recover`.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from also_optax import contrib
      >>> method = contrib.recover(learning_rate=0.1, temperature=1.0)
      >>> params = jnp.array(0.0)
      >>> state = method.init(params)
      >>> for _ in range(100):
      ...     updates, state = method.update(lambda x, y: (x - y) ** 2, state, params, jnp.array([0.0, 0.0, 0.0, 3.0]))
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{params:.2f}, the mean is 0.75")
      1.35, the mean is 0.75

    References:
      Qi et al, *An Online Method for A Class of Distributionally Robust Optimization with Non-Convex Objectives*,
      `arXiv 2006.10138 <https://arxiv.org/abs/2006.10138>`_, algorithms 1 and 2.
    """
    check_scalar("temperature", temperature, "a number other than 0", lambda v: v != 0 and v == v)
    check_scalar("averaging_rate", averaging_rate, "in (0, 1]", lambda v: 0 < v <= 1)
    check_scalar("max_log_ratio", max_log_ratio, "above 0", lambda v: v > 0)
    check_scalar("max_loss", max_loss, "a number, not NaN", lambda v: v == v)
    hyperparams = RecoverHyperparams(temperature, averaging_rate, max_log_ratio, max_loss)
    if callable(temperature) or callable(max_log_ratio) or callable(max_loss):
        raise TypeError("only `learning_rate` and `averaging_rate` may be schedules.")
    inner = optax.chain(optimizer or optax.identity(), optax.scale_by_learning_rate(learning_rate))

    def init_fn(params: Any) -> RecoverState:
        return RecoverState(
            step=jnp.zeros([], jnp.int32),
            rejected=jnp.zeros([], jnp.int32),
            restarts=jnp.zeros([], jnp.int32),
            log_mean=jnp.zeros([], statistics_dtype()),
            direction=jax.tree.map(lambda p: jnp.zeros(p.shape, _wide(p.dtype)), params),
            previous_params=jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params),
            inner_state=inner.init(params),
        )

    def update_fn(
        per_example_loss: Callable[..., jax.Array], state: RecoverState, params: Any, *args: Any, where: Any = None
    ) -> tuple[Any, RecoverState]:
        values = values_at(hyperparams, state.step)
        begins = state.step == 0
        previous = jax.tree.map(lambda p, old: jnp.where(begins, p, old), params, state.previous_params)
        new, old = (_tilted(per_example_loss, point, args, where, values) for point in (params, previous))
        estimate, restarts = _storm(state, new, old, values)
        updates, inner_state = inner.update(optax.tree.cast_like(estimate.gradient, params), state.inner_state, params)
        moved = RecoverState(
            step=state.step + 1,
            rejected=state.rejected + new.rejected,
            restarts=state.restarts + (restarts & ~begins),
            log_mean=estimate.log_mean,
            direction=estimate.gradient,
            previous_params=params,
            inner_state=inner_state,
        )
        moves = new.count > 0
        updates = jax.tree.map(lambda update: jnp.where(moves, update, 0), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, state)
        return updates, kept._replace(rejected=moved.rejected)

    return Recover(init_fn, update_fn)


class _Tilted(NamedTuple):
    """A batch at one point: its log mean exp(loss/temperature), and the gradient of its objective."""

    log_mean: jax.Array
    gradient: Any
    count: jax.Array  # type: ignore[assignment]  # tuple.count, which nobody needs here
    rejected: jax.Array


def _tilted(
    per_example_loss: Callable[..., jax.Array], params: Any, args: Any, where: Any, values: RecoverHyperparams
) -> _Tilted:
    """The batch's own objective at `params`."""

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        losses = per_example_loss(params, *args)
        examples = as_examples(losses, None, where, num_groups=None, max_loss=values.max_loss)
        scaled = jnp.where(examples.valid, saturated(examples.losses / values.temperature), -jnp.inf)
        count, rejected = examples.valid.sum(), examples.rejected.sum()
        peak = jnp.max(scaled, where=examples.valid, initial=-jnp.inf)
        peak = jnp.where(count > 0, peak, 0)
        mass = jnp.exp(scaled - peak)
        total = jnp.maximum(mass.sum(), 1)  # the peak itself is 1
        weights = jax.lax.stop_gradient(mass / total)
        loss = jnp.sum(weights * jnp.where(examples.valid, losses.astype(weights.dtype), 0))
        log_mean = peak + jnp.log(total / jnp.maximum(count, 1).astype(total.dtype))
        return loss, (log_mean, count, rejected)

    gradient, (log_mean, count, rejected) = jax.grad(loss_fn, has_aux=True)(params)
    gradient = jax.tree.map(lambda g: g.astype(_wide(g.dtype)), gradient)
    return _Tilted(log_mean, gradient, count, rejected.astype(jnp.int32))


def _storm(state: RecoverState, new: _Tilted, old: _Tilted, values: RecoverHyperparams) -> tuple[_Tilted, jax.Array]:
    """The estimates of the module docstring as nu and z, and whether they begin anew."""
    rate = values.averaging_rate
    peak = jnp.maximum(jnp.maximum(new.log_mean, old.log_mean), state.log_mean)
    of_new, of_old, of_state = (jnp.exp(part - peak) for part in (new.log_mean, old.log_mean, state.log_mean))
    mean = of_new + (1 - rate) * (of_state - of_old)
    farthest = jnp.exp(-jnp.minimum(values.max_log_ratio, 80))
    anew = (state.step == 0) | (mean < rate * of_new) | (mean < farthest) | (of_new < farthest * mean)
    mean = jnp.where(anew, 1, mean)
    log_mean = jnp.where(anew, new.log_mean, peak + jnp.log(mean))

    def estimate(g_new: jax.Array, g_old: jax.Array, z: jax.Array) -> jax.Array:
        corrected = (of_new * g_new + (1 - rate) * (of_state * z - of_old * g_old)) / mean
        return jnp.where(anew, g_new, corrected).astype(z.dtype)

    gradient = jax.tree.map(estimate, new.gradient, old.gradient, state.direction)
    return new._replace(log_mean=log_mean, gradient=gradient), anew


def _wide(dtype: Any) -> Any:
    """float32 for half precision: the corrections are small differences."""
    return jnp.promote_types(dtype, jnp.float32)
