"""The read side: from any optimizer state and a batch of losses to weights, before the gradient is taken."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from also_optax._base import AxisName, Reweighted, Statistics, examples_for, is_rule_state, pooled
from also_optax._examples import as_ids


def find_rule_state(opt_state: Any) -> Any:
    """The one rule state inside a nested optimizer state: chained, named, masked, injected, accumulated, nnx.

    Raises:
      ValueError: if there is none, or more than one.
    """
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_rule_state) if is_rule_state(node)]
    if not found:
        is_optimizer = hasattr(opt_state, "init") and hasattr(opt_state, "update")
        raise ValueError(
            "found no rule state in `opt_state`: it must come from an optimizer such as `also_optax.also`, or a chain "
            f"with a `reweight_by_*` rule, got a {type(opt_state).__name__}."
            + (" Pass `tx.init(params)`, not the optimizer." if is_optimizer else "")
        )
    if len(found) > 1:
        names = ", ".join(type(state).__name__ for state in found)
        raise ValueError(
            f"found {len(found)} rule states in `opt_state` ({names}), and it is open whose weights to use. "
            "Chain one rule with all the rest, outside of `optax.partition`."
        )
    # nnx.Optimizer wraps every leaf in a Variable, and restored states hold NumPy arrays.
    state = jax.tree.map(jnp.asarray, found[0], is_leaf=lambda leaf: hasattr(leaf, "__jax_array__"))
    if state.step.ndim:
        raise ValueError(
            f"the {type(state).__name__} in `opt_state` is a stack of shape {state.step.shape}: "
            "call this under `jax.vmap`."
        )
    return state


def reweight(
    opt_state: Any,
    losses: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
    reference_losses: ArrayLike | None = None,
    statistics: Statistics | None = None,
) -> tuple[jax.Array, Reweighted]:
    """The weighted loss of a batch, to be differentiated, and what the optimizer step needs beside its gradient.

    The loss is ``sum(weights * losses) / count``, with weights from the rule inside `opt_state` and no gradient through
    them, and ``count`` the entries that count. With all weights 1 it is the mean of plain training.

    Args:
      opt_state: the state of any optimizer that contains one rule.
      losses: per-example losses, *not averaged*, ``[B]`` or ``[B, T, ...]`` (every entry is an example).
      groups: int ids in ``[0, G)``, of the leading shape of `losses`; a negative id is padding. Required where the rule
        weighs groups.
      where: bool mask of the leading shape of `losses`; false entries are padding.
      axis_name: inside ``shard_map``, the mapped axes that split the batch: the loss is then the shard's share of the
        global one.
      reference_losses: what a reference model loses on the same examples, of the shape of `losses`: the rule then sees
        the excess ``losses - reference_losses`` in their place; the loss itself stays one of `losses`. Required where
        the rule is made for it.
      statistics: those of a larger batch of which this is a part, as :func:`observe` and :func:`merge` give them: the
        loss is then this part's share of the larger batch's, and gradients of all parts *add up*.

    Returns:
      The loss, a scalar in float32 (float64 under x64), and a :class:`Reweighted` whose ``extra_args`` belong into
      ``tx.update(grads, opt_state, params, **rw.extra_args)``.

    Raises:
      TypeError: if a dtype is wrong, or `groups` or `reference_losses` are missing.
      ValueError: if a shape does not fit, an axis is not mapped, or `opt_state` has no rule, or two.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, also_optax
      >>> tx = also_optax.rgd(learning_rate=0.1)
      >>> params = jnp.array(1.0)
      >>> opt_state = tx.init(params)
      >>> def loss_fn(params):
      ...     losses = (params - jnp.array([1.0, 2.0, 9.0])) ** 2
      ...     return also_optax.reweight(opt_state, losses)
      >>> (loss, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
      >>> updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
      >>> print(rw.weights.round(3))
      [1.    1.649 1.649]
    """
    state = find_rule_state(opt_state)
    examples = examples_for(state, losses, groups, where, reference_losses)
    given_statistics = statistics
    if statistics is None:
        statistics = _observe(state, examples, axis_name)
    weights = jnp.where(examples.valid, state.weigh(statistics, examples), 0)
    # A product past the largest float would make the loss infinite; the weight gives way, the loss is obeyed.
    largest = jnp.finfo(weights.dtype).max / (2 * max(weights.size, 1))  # half, because each product may be rounded up
    losses = jnp.asarray(losses)
    counted = jnp.where(examples.valid, losses.astype(weights.dtype), 0)
    weights = jnp.minimum(weights, largest / jnp.maximum(jnp.abs(counted), 1))
    weights = jax.lax.stop_gradient(weights)
    loss = (weights * counted).sum() / jnp.maximum(statistics.count, 1)
    losses = jax.lax.stop_gradient(losses)
    groups, where, reference_losses = (
        None if part is None else jax.lax.stop_gradient(jnp.asarray(part))
        for part in (None if groups is None else as_ids(groups), where, reference_losses)
    )
    if getattr(state, "keeps_still", False):  # a table that is written only after it was read is not copied
        losses = jnp.where(jnp.isnan(weights), weights.astype(losses.dtype), losses)
    return loss, Reweighted(losses, weights, groups, where, reference_losses, given_statistics)


def example_weights(
    opt_state: Any,
    losses: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
    reference_losses: ArrayLike | None = None,
    statistics: Statistics | None = None,
) -> jax.Array:
    """The weights of a batch alone, for a loss of your own making; arguments and errors as of :func:`reweight`.

    Returns:
      Weights of the shape of `losses`, gradient stopped, 0 where an entry does not count; all ones is plain training,
      where the loss is ``sum(weights * losses) / count``.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.absgd(0.1, temperature=jnp.inf).init(jnp.zeros(3))
      >>> print(also_optax.example_weights(opt_state, jnp.array([3.0, jnp.nan, 1.0])))
      [1. 0. 1.]
    """
    _, reweighted = reweight(
        opt_state,
        losses,
        groups,
        where=where,
        axis_name=axis_name,
        reference_losses=reference_losses,
        statistics=statistics,
    )
    return reweighted.weights


def group_weights(opt_state: Any) -> jax.Array:
    """The adversary's distribution pi over the groups, ``[G]``, on the simplex.

    Raises:
      ValueError: if the rule inside `opt_state` has none (ABSGD, RGD), or there is no rule, or two.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.also(1e-3, num_groups=2, prior=jnp.array([1.0, 1.0])).init(jnp.zeros(3))
      >>> print(also_optax.group_weights(opt_state))
      [0.5 0.5]
    """
    state = find_rule_state(opt_state)
    if not hasattr(state, "group_weights"):
        raise ValueError(f"the rule of {type(state).__name__} keeps no weights of groups; see `example_weights`.")
    return state.group_weights()


def observe(
    opt_state: Any,
    losses: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
    reference_losses: ArrayLike | None = None,
) -> Statistics:
    """What the rule inside `opt_state` needs to know of a batch: the first pass of exact accumulation.

    Rules that look at the whole batch before they weigh it (ABSGD, CVaR) need two passes over its micro-batches
    for the same answer as one large batch. First :func:`observe` each and :func:`merge`, then :func:`reweight` each
    with ``statistics=`` and add the gradients up; ``rw.extra_args`` carries the statistics to the update. Arguments and
    errors are as of :func:`reweight`.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.reweight_by_absgd(temperature=1.0).init(None)
      >>> parts = [jnp.array([0.0, 1.0]), jnp.array([2.0])]
      >>> statistics = also_optax.merge(*(also_optax.observe(opt_state, part) for part in parts))
      >>> print(*(also_optax.example_weights(opt_state, part, statistics=statistics).round(3) for part in parts))
      [0.27  0.734] [1.996]
    """
    state = find_rule_state(opt_state)
    return _observe(state, examples_for(state, losses, groups, where, reference_losses), axis_name)


def merge(first: Statistics, *others: Statistics) -> Statistics:
    """The statistics of several batches together, as :func:`observe` would give of all at once.

    Raises:
      TypeError: if they are statistics of different rules.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.reweight_by_also(2).init(None)
      >>> first = also_optax.observe(opt_state, jnp.array([1.0, 2.0]), jnp.array([0, 1]))
      >>> second = also_optax.observe(opt_state, jnp.array([3.0]), jnp.array([1]))
      >>> merged = also_optax.merge(first, second)
      >>> print(merged.count, merged.losses)
      3.0 [1. 5.]
    """
    merged = first
    for other in others:
        if type(first) is not type(other):
            raise TypeError(
                f"`merge` needs statistics of one rule, got {type(first).__name__} and {type(other).__name__}."
            )
        merged = merged.merge(other)
    return merged


def value_and_grad(
    per_example_loss: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """`jax.value_and_grad` of a per-example loss, reweighted by the rule inside an optimizer state.

    Args:
      per_example_loss: ``per_example_loss(params, *args) -> losses`` of shape ``[B]`` or ``[B, ...]``, or
        ``(losses, aux)``.
      argnums: which of ``(params, *args)`` to differentiate; the optimizer's state is not counted.
      has_aux: whether `per_example_loss` returns ``(losses, aux)``.

    Returns:
      ``fn(params, opt_state, *args, groups=None, where=None, **kwargs)``, which takes the keywords of :func:`reweight`,
      hands others on to `per_example_loss` and returns ``((loss, rw), grads)``, or ``((loss, (rw, aux)), grads)`` with
      `has_aux`. Loss and ``rw`` are those of :func:`reweight`.

    Raises:
      TypeError: from ``fn``, if `per_example_loss` does not return what `has_aux` says.
      ValueError: from ``fn``, if `opt_state` has no rule, or two; and what :func:`reweight` raises.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.rgd(learning_rate=0.1)
      >>> opt_state = tx.init(jnp.array(1.0))
      >>> fn = also_optax.value_and_grad(lambda params, targets: (params - targets) ** 2)
      >>> (loss, rw), grads = fn(jnp.array(1.0), opt_state, jnp.array([1.0, 2.0, 9.0]))
      >>> print(rw.weights.round(3))
      [1.    1.649 1.649]
    """

    def fn(
        params: Any,
        opt_state: Any,
        *args: Any,
        groups: ArrayLike | None = None,
        where: ArrayLike | None = None,
        axis_name: AxisName = None,
        reference_losses: ArrayLike | None = None,
        statistics: Statistics | None = None,
        **kwargs: Any,
    ) -> tuple[tuple[jax.Array, Any], Any]:
        find_rule_state(opt_state)  # here, before a forgotten argument is missed by `per_example_loss`

        def loss_fn(*args: Any) -> tuple[jax.Array, Any]:
            output = per_example_loss(*args, **kwargs)
            if isinstance(output, tuple) != has_aux or (has_aux and len(output) != 2):
                expected = (
                    "a pair (losses, aux), because `has_aux=True`" if has_aux else "losses alone; is it `has_aux`?"
                )
                raise TypeError(f"`per_example_loss` must return {expected}")
            losses, *aux = output if has_aux else (output,)
            loss, rw = reweight(
                opt_state,
                losses,
                groups,
                where=where,
                axis_name=axis_name,
                reference_losses=reference_losses,
                statistics=statistics,
            )
            return loss, (rw, *aux) if has_aux else rw

        return jax.value_and_grad(loss_fn, argnums, has_aux=True)(params, *args)

    return fn


def _observe(state: Any, examples: Any, axis_name: AxisName) -> Any:
    return pooled(state.observe(examples), axis_name)
