r"""Optimistic Mirror-Prox: the form of ALSO for full gradients, constant step sizes and a linear rate.

With one weight per example, the game of ALSO (arXiv 2508.16734, eq. 4 with groups of one, and its convex case) is

.. math:: \min_\theta \max_{\pi \in \Delta} F(\theta, \pi)
   = \sum_i \pi_i \ell_i(\theta) + R(\theta) - \tau\,\mathrm{KL}(\pi\|\hat\pi).

Both players step along their gradients with the same momentum, the model in the Euclidean geometry and the adversary
in that of the simplex: with :math:`g_t = \nabla_\theta F(\theta_t, \pi_t)`, :math:`g_{-1} = g_0`,
:math:`\ell_{-1} = \ell_0`,

.. math::
   \theta_{t+1} &= \theta_t - \gamma\,((1 + \alpha) g_t - \alpha g_{t-1}) \\
   \log \pi_{t+1} &= \mathrm{log\,softmax}\left(
       \frac{\log \pi_t + \eta (\tau \log \hat\pi + (1 + \alpha) \ell_t - \alpha \ell_{t-1})}{1 + \eta\tau}\right)

How far a pair is from the saddle is bounded without solving anything. The adversary's side is exact, and the model's
follows from strong convexity: with F at least :math:`\mu`-strongly convex in :math:`\theta`,

.. math::
   \max_p F(\theta, p) - F(\theta, \pi) &= \tau\,\mathrm{KL}(\pi\|\mathrm{softmax}(\log\hat\pi + \ell(\theta)/\tau)) \\
   F(\theta, \pi) - \min_{\theta'} F(\theta', \pi) &\le \|\nabla_\theta F(\theta, \pi)\|^2 / (2\mu)

and the sum of both sides bounds the duality gap, and with it :math:`\max_p F(\theta, p)` less its minimum.

:math:`\gamma` is ``learning_rate``, :math:`\eta` is ``dual_learning_rate``, :math:`\tau` is ``kl_penalty``,
:math:`\alpha` is ``optimism``, :math:`\hat\pi` is ``prior``, R is ``regulariser``, :math:`\mu` is ``strong_convexity``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _simplex
from also_optax._hyperparams import check_count, check_scalar, saturated, statistics_dtype


class MirrorProxResult(NamedTuple):
    """What :func:`mirror_prox` found.

    Attributes:
      params: the last parameters.
      weights: pi, ``[n]``, on the simplex.
      steps: how many steps were made, int scalar.
      gaps: bound on the duality gap after each step, ``[max_steps]``; the last one is repeated after `steps`.
      adversary_gaps: the adversary's side of it alone, which is exact, ``[max_steps]``.
    """

    params: Any
    weights: jax.Array
    steps: jax.Array
    gaps: jax.Array
    adversary_gaps: jax.Array


class _Point(NamedTuple):
    """A pair of players, with what is known there."""

    params: Any
    tilt: jax.Array
    log_normalizer: _simplex.LogNormalizer
    gradient: Any
    losses: jax.Array
    gap: jax.Array
    adversary_gap: jax.Array


class _Carry(NamedTuple):
    """What the loop carries."""

    point: _Point
    previous_gradient: Any
    previous_losses: jax.Array
    step: jax.Array
    diverged: jax.Array
    gaps: jax.Array
    adversary_gaps: jax.Array


def mirror_prox(
    per_example_loss: Callable[[Any], jax.Array],
    params: Any,
    *,
    learning_rate: ArrayLike,
    dual_learning_rate: ArrayLike,
    kl_penalty: ArrayLike,
    prior: ArrayLike | None = None,
    optimism: ArrayLike = 1.0,
    regulariser: Callable[[Any], jax.Array] | None = None,
    strong_convexity: ArrayLike | None = None,
    tolerance: ArrayLike = 1e-6,
    max_steps: int = 1000,
) -> MirrorProxResult:
    r"""Finds the saddle of a distributionally robust objective by full gradients, to a given duality gap.

    For data that fit into one batch: convex models of which one wants *the* solution, last layers, and to check what a
    stochastic method has reached. It is one `jax.lax.while_loop`: it can be jitted, and a grid of step sizes vmapped.
    Step sizes that are too large make it diverge; it then stops at the last finite point.

    Special cases: ``optimism=0`` is descent-ascent; ``dual_learning_rate=0`` is gradient descent on the loss weighted
    by the prior.

    Args:
      per_example_loss: of the parameters alone, the losses of all examples, ``[n]``.
      params: any tree, where to start.
      learning_rate: gamma, above 0.
      dual_learning_rate: eta, at least 0. In 1/loss.
      kl_penalty: tau, at least 0; 0 is the maximum over examples. In units of the loss.
      prior: pi-hat and the weights to start from, ``[n]``, not negative; normalised here. None is uniform.
      optimism: alpha, at least 0.
      regulariser: R of the parameters, a scalar in units of the loss, or None.
      strong_convexity: mu of F in all of the parameters, above 0, as of ``mu/2 * norm(params)**2`` in R. With it
        `gaps` are bounds. None takes ``1 / learning_rate``: the model's side is then what a gradient step would gain,
        which tells when to stop but bounds nothing.
      tolerance: the gap to stop at, at least 0; 0 makes `max_steps` steps.
      max_steps: at least 1; a Python int.

    Returns:
      A :class:`MirrorProxResult`.

    Raises:
      TypeError: if `max_steps` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      Two examples that a model of one parameter cannot fit both; the adversary puts more weight on the worse one.

      >>> import jax.numpy as jnp
      >>> from also_optax import contrib
      >>> result = contrib.mirror_prox(
      ...     lambda x: (x - jnp.array([0.0, 3.0])) ** 2 / jnp.array([2.0, 1.0]), jnp.array(0.0),
      ...     learning_rate=0.3, dual_learning_rate=0.3, kl_penalty=1.0, strong_convexity=1.0, tolerance=1e-5)
      >>> print(f"{result.params:.2f} with weights {result.weights[0]:.2f} {result.weights[1]:.2f}")
      1.82 with weights 0.56 0.44
      >>> bool(result.gaps[-1] <= 1e-5)
      True

    References:
      *Aligning Distributionally Robust Optimization with Practical Deep Learning Needs*,
      `arXiv 2508.16734 <https://arxiv.org/abs/2508.16734>`_, the convex case.
    """
    check_scalar("learning_rate", learning_rate, "above 0 and finite", lambda v: 0 < v < np.inf)
    check_scalar("dual_learning_rate", dual_learning_rate, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    check_scalar("kl_penalty", kl_penalty, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    check_scalar("optimism", optimism, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    check_scalar("tolerance", tolerance, "at least 0", lambda v: v >= 0)
    check_count("max_steps", max_steps)
    if strong_convexity is not None:
        check_scalar("strong_convexity", strong_convexity, "above 0 and finite", lambda v: 0 < v < np.inf)
    shape = jax.eval_shape(per_example_loss, params).shape
    if len(shape) != 1:
        raise ValueError(f"`per_example_loss` must give losses of shape [n], not averaged, got shape {shape}.")
    dtype = statistics_dtype()
    gamma, eta, tau, alpha = (
        jnp.asarray(of, dtype) for of in (learning_rate, dual_learning_rate, kl_penalty, optimism)
    )
    log_prior = jnp.array(_simplex.log_simplex("prior", prior, shape[0], zeros=True), dtype)
    convexity = 1 / gamma if strong_convexity is None else jnp.asarray(strong_convexity, dtype)

    def weighted(params: Any, pi: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = per_example_loss(params).astype(dtype)
        penalty = 0.0 if regulariser is None else regulariser(params)
        return jnp.sum(pi * losses) + penalty, saturated(losses)  # whose gradient would vanish

    def evaluate(params: Any, tilt: jax.Array) -> _Point:
        log_normalizer = _simplex.log_partition(log_prior, tilt)
        pi = jnp.exp(_simplex.log_weights(log_prior, tilt, log_normalizer))
        gradient, losses = jax.grad(weighted, has_aux=True)(params, pi)
        adversary_gap = _simplex.adversary_gap(log_prior, tilt, log_normalizer, losses, tau)
        model_gap = optax.tree.norm(gradient, squared=True).astype(dtype) / (2 * convexity)
        return _Point(params, tilt, log_normalizer, gradient, losses, adversary_gap + model_gap, adversary_gap)

    def step(carry: _Carry) -> _Carry:
        point = carry.point
        moved = jax.tree.map(
            lambda p, g, old: (p - gamma * _ahead(g, old, alpha)).astype(p.dtype),
            point.params,
            point.gradient,
            carry.previous_gradient,
        )
        ascent = saturated(eta * _ahead(point.losses, carry.previous_losses, alpha))
        tilt = _simplex.prox_step(point.tilt, ascent, eta * tau)
        tilt = _simplex.below_highest(log_prior, tilt)
        new = evaluate(moved, tilt)
        diverged = ~jnp.isfinite(new.gap)
        kept = jax.tree.map(lambda new, old: jnp.where(diverged, old, new), new, point)
        return _Carry(
            point=kept,
            previous_gradient=point.gradient,
            previous_losses=point.losses,
            step=carry.step + 1,
            diverged=diverged,
            gaps=carry.gaps.at[carry.step].set(kept.gap),
            adversary_gaps=carry.adversary_gaps.at[carry.step].set(kept.adversary_gap),
        )

    def goes_on(carry: _Carry) -> jax.Array:
        return (carry.step < max_steps) & (carry.point.gap > tolerance) & ~carry.diverged

    first = evaluate(jax.tree.map(jnp.asarray, params), jnp.zeros(shape, dtype))
    empty = jnp.zeros((max_steps,), dtype)
    start = _Carry(first, first.gradient, first.losses, jnp.zeros([], jnp.int32), jnp.array(False), empty, empty)
    end = jax.lax.while_loop(goes_on, step, start)
    point, made = end.point, jnp.arange(max_steps) < end.step
    return MirrorProxResult(
        params=point.params,
        weights=jnp.exp(_simplex.log_weights(log_prior, point.tilt, point.log_normalizer)),
        steps=end.step,
        gaps=jnp.where(made, end.gaps, point.gap),
        adversary_gaps=jnp.where(made, end.adversary_gaps, point.adversary_gap),
    )


def _ahead(new: jax.Array, old: jax.Array, optimism: jax.Array) -> jax.Array:
    """The gradient with negative momentum."""
    return new + optimism * (new - old)
