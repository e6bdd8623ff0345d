r"""The protocol that every rule meets, and what passes between its two sides.

Optax sees gradients after the batch was averaged; these methods weigh each example before that, and their adversary
sees each loss after it. So a rule is one state with two sides:

    read   weights = f(opt_state, losses, groups)             inside the loss, before the gradient
    write  tx.update(grads, opt_state, params, losses=...)    the ordinary optax step

and behind both stands a map-reduce over examples, which makes micro-batches, shards and hosts one idea:

    state.observe(examples)             -> statistics         of these examples
    statistics.merge(other)             -> statistics         over micro-batches
    statistics.pool(axis_name)          -> statistics         over the shards of a mapped axis
    state.advance(statistics)           -> state              the write side, once per optimizer step
    state.weigh(statistics, examples)   -> weights            the read side

Symbols and shapes, the same in every module:

==================  ===============  ==========================================================================
name                shape            meaning
==================  ===============  ==========================================================================
losses              [B] or [B, ...]  per-example losses, not averaged
reference_losses    as losses        of a reference model; what rules see is then the excess over them
groups              leading shape    int ids in [0, G); a negative id is padding for every rule
where               leading shape    bool mask, false is padding
count               []               entries that count: `where` true, a finite loss, a valid id
weights             as losses        scaled so that all ones is plain training
prior               [G]              pi-hat, also the weights that training starts from
group_frequencies   [G]              q, the chance that a drawn example is of each group
==================  ===============  ==========================================================================
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from also_optax._examples import Examples, as_examples
from also_optax._hyperparams import check_scalar, values_at

AxisName = str | tuple[str, ...] | None


class Statistics(Protocol):
    """What a rule keeps of some examples: enough to advance, small enough to send.

    Attributes:
      count: how many examples counted, scalar.
      rejected: how many could not be used, scalar.
    """

    @property
    def count(self) -> jax.Array: ...

    @property
    def rejected(self) -> jax.Array: ...

    def merge(self, other: Any) -> Any:
        """The statistics of both sets of examples together."""

    def pool(self, axis_name: str | tuple[str, ...]) -> Any:
        """The statistics of the examples of all shards along mapped axes."""


class RuleState(Protocol):
    """The state of a rule, which carries all that its weights need.

    Any NamedTuple of arrays with these members is one. What `advance` makes of a batch without examples is thrown away,
    by a choice between two trees. A state whose tables are too large to be copied sees to that itself, and says so by a
    member ``keeps_still``; it is also told the next step's hyperparameters, as a second argument of `advance`. A rule
    that cannot do without reference losses says so by a member ``needs_reference``.

    Attributes:
      step: how often the adversary has moved, int scalar; the clock of its schedules.
      rejected: how many examples could not be used so far, int scalar.
      hyperparams: a NamedTuple of scalars with at least `max_loss`.
    """

    @property
    def step(self) -> jax.Array: ...

    @property
    def rejected(self) -> jax.Array: ...

    @property
    def hyperparams(self) -> Any: ...

    @property
    def num_groups(self) -> int | None:
        """G, or None for a rule that has no groups."""

    def observe(self, examples: Examples) -> Any:
        """The statistics of `examples`."""

    def advance(self, statistics: Any) -> Any:
        """The state after one move of the adversary; `step`, `rejected` and `hyperparams` are not its business."""

    def weigh(self, statistics: Any, examples: Examples) -> jax.Array:
        """The weights of `examples` in a batch with `statistics`, of the shape of the losses."""

    def diagnostics(self) -> dict[str, jax.Array]:
        """What can be said of the run so far, by name."""


class Reweighted(NamedTuple):
    """A batch after the read side, with what the write side needs of it.

    Attributes:
      losses: the per-example losses, ``[B, ...]``, gradient stopped.
      weights: their weights, of the same shape, gradient stopped, 0 where an entry does not count.
      groups: the group ids given, or None.
      where: the mask given, or None.
      reference_losses: those given, or None.
      statistics: the pooled statistics given (two-pass accumulation), or None.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.reweight_by_rgd().init(None)
      >>> loss, rw = also_optax.reweight(opt_state, jnp.array([0.0, 7.0]), where=jnp.array([True, False]))
      >>> print(rw.weights, sorted(rw.extra_args))
      [1. 0.] ['losses', 'where']
    """

    losses: jax.Array
    weights: jax.Array
    groups: jax.Array | None = None
    where: jax.Array | None = None
    reference_losses: jax.Array | None = None
    statistics: Any = None

    @property
    def extra_args(self) -> dict[str, Any]:
        """Keyword arguments for ``tx.update(grads, opt_state, params, **rw.extra_args)``."""
        given = self._asdict()
        del given["weights"]
        return {name: value for name, value in given.items() if value is not None}


class Sums(NamedTuple):
    """Statistics that are sums over examples; :func:`sums_of` makes them.

    Attributes:
      count: how many examples counted, scalar.
      rejected: how many could not be used, scalar.
      losses: sums of their losses by group, ``[G]``, or None for a rule that does not look at them.
      sizes: how many of them are of each group, ``[G]``, or None for a rule that needs no means.
    """

    count: jax.Array  # type: ignore[assignment]  # tuple.count, which nobody needs here
    rejected: jax.Array
    losses: jax.Array | None = None
    sizes: jax.Array | None = None

    def merge(self, other: "Sums") -> "Sums":
        """Sums of both."""
        return jax.tree.map(jnp.add, self, other)

    def pool(self, axis_name: str | tuple[str, ...]) -> "Sums":
        """Sums over shards."""
        return jax.lax.psum(self, axis_name)


def is_rule_state(node: Any) -> bool:
    """Whether a node of a tree is the state of a rule: a NamedTuple with the members of :class:`RuleState`."""
    members = ("step", "rejected", "hyperparams", "num_groups", "observe", "advance", "weigh", "diagnostics")
    return isinstance(node, tuple) and all(hasattr(type(node), member) for member in members)


def counts(examples: Examples) -> tuple[jax.Array, jax.Array]:
    """How many examples count and how many are rejected, in the dtype of the statistics.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> valid, rejected = jnp.array([True, True, False]), jnp.array([False, False, True])
      >>> count, refused = base.counts(base.Examples(jnp.zeros(3), None, valid, rejected))
      >>> print(count, refused)
      2.0 1.0
    """
    both = jnp.stack([examples.valid, examples.rejected])
    count, rejected = both.sum(axis=tuple(range(1, both.ndim)), dtype=examples.losses.dtype)
    return count, rejected


def examples_for(state: RuleState, losses: Any, groups: Any, where: Any, reference_losses: Any) -> Examples:
    """The batch as :class:`Examples`, checked against what the rule of `state` needs."""
    if reference_losses is None and getattr(state, "needs_reference", False):
        raise TypeError(
            "this rule compares losses with those of a reference model, and needs `reference_losses`, of the shape of "
            "`losses`."
        )
    return as_examples(
        losses,
        groups,
        where,
        num_groups=state.num_groups,
        max_loss=state.hyperparams.max_loss,
        reference_losses=reference_losses,
    )


def pooled(statistics: Any, axis_name: AxisName) -> Any:
    """The statistics of all shards along mapped axes; as they are without any.

    Raises:
      ValueError: if an axis is not mapped where this is called.
    """
    if axis_name is None:
        return statistics
    for axis in (axis_name,) if isinstance(axis_name, str) else axis_name:
        try:
            jax.lax.psum(1, axis)
        except (NameError, KeyError) as error:
            raise ValueError(
                f"`axis_name` {axis!r} is not a mapped axis here: name the axes of the `jax.shard_map` that split the "
                "batch, or leave it out under `jax.jit` alone, where the batch is whole."
            ) from error
    return statistics.pool(axis_name)


def rule_transformation(
    name: str,
    init: Callable[[Any, jax.Array], Any],
    hyperparams: Any,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """A gradient transformation that leaves the updates alone and moves an adversary.

    Args:
      name: the public name, for messages.
      init: ``init(hyperparams, step)``, the state to start from; `hyperparams` are arrays by then.
      hyperparams: a NamedTuple of numbers, arrays, tracers or schedules of the adversary's step count.
      axis_name: the mapped axes over which the batch is split, for use inside ``shard_map``. Statistics that are handed
        to the update are taken as pooled already.

    Returns:
      A transformation whose update takes ``losses`` (with ``groups``, ``where`` and ``reference_losses``) or
      ``statistics`` of them.

    Examples:
      A rule without a memory:

      >>> import jax, jax.numpy as jnp, also_optax
      >>> from typing import Any, NamedTuple
      >>> class Hyperparams(NamedTuple):
      ...     max_loss: Any
      >>> class State(NamedTuple):
      ...     step: jax.Array
      ...     rejected: jax.Array
      ...     hyperparams: Hyperparams
      ...     num_groups = None
      ...     def observe(self, examples):
      ...         return also_optax.base.Sums(*also_optax.base.counts(examples))
      ...     def advance(self, statistics):
      ...         return self
      ...     def weigh(self, statistics, examples):
      ...         return jnp.exp(jnp.clip(examples.losses, 0, 1))
      ...     def diagnostics(self):
      ...         return {"rejected": self.rejected}
      >>> def init(hyperparams, step):
      ...     return State(step, jnp.zeros([], jnp.int32), hyperparams)
      >>> tx = also_optax.base.rule_transformation("reweight_by_exp", init, Hyperparams(jnp.inf))
      >>> print(also_optax.example_weights(tx.init(None), jnp.array([0.0, 5.0])))
      [1.        2.7182817]
    """

    check_scalar("max_loss", hyperparams.max_loss, "a number, not NaN", lambda v: v == v)

    def init_fn(params: optax.Params) -> Any:
        del params
        step = jnp.zeros([], jnp.int32)
        return init(values_at(hyperparams, step), step)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        losses: Any = None,
        groups: Any = None,
        where: Any = None,
        reference_losses: Any = None,
        statistics: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        if statistics is None:  # otherwise they were made with the hyperparameters in the state, and so is the move
            state = state._replace(hyperparams=values_at(hyperparams, state.step))
            if losses is None:
                raise TypeError(
                    f"`{name}` needs the batch's `losses`: call `tx.update(grads, opt_state, params, **rw.extra_args)` "
                    "with the `rw` that `also_optax.reweight` returned."
                )
            statistics = pooled(state.observe(examples_for(state, losses, groups, where, reference_losses)), axis_name)
        return updates, _move(state, statistics)

    def _move(state: Any, statistics: Any) -> Any:
        moves = statistics.count > 0
        if getattr(state, "keeps_still", False):
            moved = state.advance(statistics, values_at(hyperparams, state.step + 1))
        else:
            moved = jax.tree.map(lambda new, old: jnp.where(moves, new, old), state.advance(statistics), state)
        step = state.step + moves.astype(jnp.int32)
        return moved._replace(
            step=step,
            rejected=state.rejected + statistics.rejected.astype(jnp.int32),
            hyperparams=values_at(hyperparams, step),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
