"""Gradient accumulation that is right for the adversary too."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from also_optax._base import AxisName, examples_for, pooled
from also_optax._examples import no_examples
from also_optax._hyperparams import check_count
from also_optax._pairs import Pairs
from also_optax._read import find_rule_state


class MultiStepsState(NamedTuple):
    """State of :func:`multi_steps`.

    Attributes:
      micro_step: micro-batches since the last optimizer step.
      gradient_sum: sum of their gradients, each times its count of examples; at least float32.
      statistics: the rule's statistics of them.
      inner_state: the optimizer's state.
    """

    micro_step: jax.Array
    gradient_sum: Any
    statistics: Any
    inner_state: Any


def multi_steps(
    tx: optax.GradientTransformation, every_k: int, *, batch_size: int | None = None, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Steps the optimizer, and its adversary, once per `every_k` micro-batches, as one large batch would.

    Each micro-batch's gradient counts by how many examples it had, and the adversary sees the pooled statistics of all
    (``optax.MultiSteps`` would show it the last micro-batch alone). For rules that weigh from the state (ALSO, RGD)
    this equals the large batch, with uneven masks too. For rules that weigh from the batch (ABSGD, CVaR and the others
    of a whole batch) one pass is an approximation: each micro-batch is weighed by its own statistics. The exact form
    takes two passes, :func:`also_optax.observe` and :func:`also_optax.merge` first, then ``reweight(...,
    statistics=)`` on each; its ``rw.extra_args`` tell this wrapper.

    Other extra arguments (``value=`` of ``optax.contrib.reduce_on_plateau``) reach the optimizer as the last
    micro-batch's.

    Args:
      tx: an optimizer with one rule inside.
      every_k: micro-batches per optimizer step, at least 1.
      batch_size: of each micro-batch, over all shards, for rules that keep the examples themselves, and for no others:
        the number of `groups` for rules that touch no more of pi than the batch's part (``also`` with ``lazy=True`` or
        more than 50,000 groups), the number of `losses` for rules that weigh a whole batch by its losses (CVaR,
        KL-CVaR, chi-square, spectral risks) or are given a `radius` or `target_ess` for one (ABSGD, tilted losses).
      axis_name: the mapped axes that split each micro-batch, inside ``shard_map``; that of the rule has no part here.

    Returns:
      A transformation whose update takes ``**rw.extra_args``; its updates are zero but on every k-th call.

    Raises:
      TypeError: if `every_k` is not a Python int.
      ValueError: if `every_k` or `batch_size` is below 1, `batch_size` is missing or not that of a micro-batch, or `tx`
        has no rule, or two (at ``init``).

    Examples:
      >>> import jax.numpy as jnp, optax, also_optax
      >>> tx = also_optax.multi_steps(optax.chain(also_optax.reweight_by_rgd(), optax.sgd(1.0)), every_k=2)
      >>> params = jnp.array(0.0)
      >>> opt_state = tx.init(params)
      >>> for gradient, losses in ((1.0, jnp.ones(3)), (5.0, jnp.ones(1))):
      ...     updates, opt_state = tx.update(jnp.array(gradient), opt_state, params, losses=losses)
      ...     print(updates)
      0.0
      -2.0
    """
    check_count("every_k", every_k)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: optax.Params) -> MultiStepsState:
        inner_state = tx.init(params)
        return MultiStepsState(
            micro_step=jnp.zeros([], jnp.int32),
            gradient_sum=jax.tree.map(_accumulator, params),
            statistics=nothing_yet(find_rule_state(inner_state)),
            inner_state=inner_state,
        )

    def nothing_yet(rule_state: Any) -> Any:
        statistics = rule_state.observe(no_examples())
        if not isinstance(statistics, Pairs):
            return statistics
        if batch_size is None:
            raise ValueError(
                "`multi_steps` keeps the examples themselves for a rule that touches only their part of pi, or weighs "
                "a whole batch by its losses, and needs `batch_size`, the number of ids or losses in each micro-batch."
            )
        return statistics.padded(every_k * batch_size)

    def both(total: Any, seen: Any, micro_step: jax.Array) -> Any:
        if not isinstance(seen, Pairs):
            return total.merge(seen)
        if seen.ids.size != batch_size:
            raise ValueError(
                f"a micro-batch has {seen.ids.size} examples, but `multi_steps` has `batch_size={batch_size}`."
            )
        return total.placed(seen, micro_step * batch_size)

    def update_fn(
        updates: optax.Updates,
        state: MultiStepsState,
        params: optax.Params | None = None,
        *,
        losses: Any = None,
        groups: Any = None,
        where: Any = None,
        reference_losses: Any = None,
        statistics: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MultiStepsState]:
        rule_state = find_rule_state(state.inner_state)
        if losses is None:
            raise TypeError("`multi_steps` needs each micro-batch's `losses`: pass `**rw.extra_args` to `tx.update`.")
        examples = examples_for(rule_state, losses, groups, where, reference_losses)
        seen = pooled(rule_state.observe(examples), axis_name)
        # With the statistics of the whole given, a gradient is a share of the whole: shares are added up as they are.
        scale = seen.count if statistics is None else statistics.count

        def add(total: jax.Array, gradient: jax.Array) -> jax.Array:
            return total + jnp.where(scale > 0, scale * gradient.astype(total.dtype), 0)  # 0 times NaN is NaN

        gradient_sum = jax.tree.map(add, state.gradient_sum, updates)
        merged = both(state.statistics, seen, state.micro_step)
        micro_step = state.micro_step + 1

        def step(inner_state: Any) -> tuple[Any, Any]:
            mean = jax.tree.map(lambda t, g: (t / jnp.maximum(merged.count, 1)).astype(g.dtype), gradient_sum, updates)
            return tx.update(mean, inner_state, params, statistics=merged, **extra_args)

        def wait(inner_state: Any) -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, jax.eval_shape(step, inner_state)[0]), inner_state

        steps = micro_step == every_k
        new_updates, inner_state = jax.lax.cond(steps, step, wait, state.inner_state)
        nothing = nothing_yet(rule_state)
        return new_updates, MultiStepsState(
            micro_step=jnp.where(steps, 0, micro_step),
            gradient_sum=jax.tree.map(lambda t: jnp.where(steps, 0, t), gradient_sum),
            statistics=jax.tree.map(lambda fresh, old: jnp.where(steps, fresh, old), nothing, merged),
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _accumulator(param: Any) -> jax.Array:
    return jnp.zeros(jnp.shape(param), jnp.promote_types(jnp.result_type(param), jnp.float32))
