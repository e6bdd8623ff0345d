r"""Optimism of the primal side: negative momentum, or a gradient taken at the extrapolated point.

With :math:`g_t` the gradient at step t and :math:`A` the inner optimizer's step (for SGD :math:`A(g) = -\gamma g`),

.. math::
   \text{optimistic gradient:} \quad & \theta_{t+1} = \theta_t + A((1 + \alpha) g_t - \alpha g_{t-1}),
       \qquad g_{-1} = g_0 \\
   \text{past extragradient:} \quad & \theta_{t+1/2} = \theta_t + A(\alpha g_{t-1/2}), \quad
       \theta_{t+1} = \theta_t + A(g_{t+1/2})

where :math:`g_{t+1/2}` is the gradient at :math:`\theta_{t+1/2}` (Popov's two-point form, the one that the authors of
ALSO run). For SGD at :math:`\alpha = 1` the two walk the same path of extrapolated points; for Adam they do not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from also_optax._hyperparams import check_scalar, is_static_zero


def optimistic_gradient(optimism: ArrayLike = 1.0) -> optax.GradientTransformation:
    """Replaces the gradient g by (1 + optimism) g - optimism g_previous; the first gradient counts as its own previous.

    ``optimism=0``, the Python number, is ``optax.identity()`` and keeps no gradient; otherwise it is
    ``optax.scale_by_optimistic_gradient(alpha=1, beta=optimism)`` with updates in the dtype of the gradients.

    Args:
      optimism: alpha, at least 0; a number, an array or a tracer.

    Raises:
      TypeError: if `optimism` is a schedule, which would need a step count of its own.
      ValueError: if `optimism` is negative or not a scalar.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.optimistic_gradient(1.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> for gradient in (1.0, 2.0):
      ...     updates, state = tx.update(jnp.array([gradient]), state)
      ...     print(updates)
      [1.]
      [3.]

    References:
      `arXiv 2508.16734 <https://arxiv.org/abs/2508.16734>`_, Algorithm 1.
    """
    _check_optimism(optimism)
    if is_static_zero(optimism):
        return optax.identity()
    inner = optax.scale_by_optimistic_gradient(alpha=1.0, beta=optimism)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        looking_ahead, state = inner.update(updates, state, params)
        return optax.tree.cast_like(looking_ahead, updates), state

    return optax.GradientTransformation(inner.init, update_fn)


class PastExtragradientState(NamedTuple):
    """State of :func:`past_extragradient`.

    Attributes:
      ahead: the extrapolated point, which the user's parameters are, minus the point itself; like the parameters.
      inner_state: the inner optimizer's state.
    """

    ahead: Any
    inner_state: Any


def past_extragradient(
    inner: optax.GradientTransformation, optimism: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Takes gradients at the extrapolated point: the parameters that the user holds *are* that point.

    Use :func:`eval_params` for the point itself, to evaluate and to save. The inner optimizer is called twice a step,
    so a schedule inside it should be a function of ``count // 2``; :func:`also_optax.also` sees to that.

    Args:
      inner: a complete optimizer, learning rate included, such as ``optax.adam(1e-3)``. A rule does not belong inside.
      optimism: alpha, at least 0, the length of the look-ahead; a number, an array or a tracer.

    Returns:
      A transformation whose updates lead from one extrapolated point to the next; it needs `params` where `inner` does.

    Raises:
      TypeError: if `optimism` is a schedule.
      ValueError: if `optimism` is negative or not a scalar.

    Examples:
      >>> import jax.numpy as jnp, optax, also_optax
      >>> tx = also_optax.past_extragradient(optax.sgd(0.1))
      >>> params = jnp.array(1.0)
      >>> opt_state = tx.init(params)
      >>> updates, opt_state = tx.update(jnp.array(2.0), opt_state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(f"extrapolated {params:.1f}, itself {also_optax.eval_params(opt_state, params):.1f}")
      extrapolated 0.6, itself 0.8

    References:
      Popov, *A modification of the Arrow-Hurwicz method for search of saddle points*, 1980.
    """
    _check_optimism(optimism)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> PastExtragradientState:
        nothing = optax.tree.zeros_like(params)
        return PastExtragradientState(nothing, inner.init(params))

    def update_fn(
        updates: Any, state: PastExtragradientState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        point = None if params is None else optax.tree.sub(params, state.ahead)
        step, inner_state = inner.update(updates, state.inner_state, point, **extra_args)
        next_point = None if point is None else optax.apply_updates(point, step)
        scaled = jax.tree.map(lambda g: (jnp.asarray(optimism) * g).astype(g.dtype), updates)
        ahead, inner_state = inner.update(scaled, inner_state, next_point, **extra_args)
        moved = jax.tree.map(lambda s, old, new: s - old + new, step, state.ahead, ahead)
        return moved, PastExtragradientState(optax.tree.cast_like(ahead, state.ahead), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def eval_params(opt_state: Any, params: optax.Params) -> optax.Params:
    """The parameters to evaluate and to save.

    Args:
      opt_state: any optimizer state.
      params: the parameters that the training loop holds.

    Returns:
      The point theta itself where `opt_state` holds a :func:`past_extragradient` (``lookahead=True``) of them;
      otherwise `params`.

    Raises:
      ValueError: if the look-ahead is not of the tree of `params` (``optax.flatten`` changes it).

    Examples:
      >>> import jax.numpy as jnp, optax, also_optax
      >>> tx = also_optax.past_extragradient(optax.sgd(0.1))
      >>> params = jnp.array(1.0)
      >>> updates, opt_state = tx.update(jnp.array(2.0), tx.init(params), params)
      >>> print(f"{also_optax.eval_params(opt_state, optax.apply_updates(params, updates)):.1f}")
      0.8
    """
    for node in jax.tree.leaves(opt_state, is_leaf=_is_lookahead):
        if _is_lookahead(node):
            params = _without(node.ahead, params)
    return params


def _without(ahead: Any, params: Any) -> Any:
    """`params` less the look-ahead; those that another optimizer moves (``optax.masked``, ``partition``) stay."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    def subtract(ahead: Any, params: Any) -> Any:
        return params if is_masked(ahead) else (params - ahead).astype(params.dtype)

    held, looked = (str(jax.tree.structure(tree, is_leaf=is_masked)) for tree in (params, ahead))
    if held != looked:
        raise ValueError(
            f"the look-ahead in `opt_state` is not of the tree of `params` (is it inside `optax.flatten`?): "
            f"{looked} against {held}."
        )
    return jax.tree.map(subtract, ahead, params, is_leaf=is_masked)


def _is_lookahead(node: Any) -> bool:
    return isinstance(node, PastExtragradientState)


def _check_optimism(optimism: Any) -> None:
    if callable(optimism):
        raise TypeError("`optimism` must be a number or an array; a schedule of it is not supported.")
    check_scalar("optimism", optimism, "at least 0 and finite", lambda v: 0 <= v < jnp.inf)
