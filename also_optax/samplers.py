r"""Index batches as pure functions of a key, each with the ``group_frequencies`` that its weights need.

How a batch is drawn and how its examples are weighed belong together (ALSO, arXiv 2508.16734, appendix A): with
:math:`q_i` the chance that a drawn example is of group :math:`i`,

.. math:: w_b = \pi_{g(b)} / q_{g(b)}, \qquad h[i] = \frac{1}{B} \sum_{b : g(b) = i} \ell_b / q_i

are unbiased, for :math:`\sum_i \pi_i \bar\ell_i` and for the mean losses :math:`\bar\ell_i` of the groups, whatever
q is, as long as the examples *within* a group are drawn alike. So pass to :func:`also_optax.also`, for groups and for
one weight per example:

==========================================  ================================  ===========================
drawn by                                    ``group_frequencies``             examples as groups
==========================================  ================================  ===========================
:func:`uniform`, :func:`epoch_batch`        ``counts / counts.sum()``         None
:func:`group_balanced`                      None                              ``frequencies[groups]``
the same, ``group_weights=v``               v                                 ``frequencies[groups]``
the same, v the current ``group_weights``   ``"pi"``                          (none: pi is of groups)
:func:`upsampling`                          :func:`upsampling_frequencies`    ``frequencies[groups]``
:func:`by_weights`                          (none: unlike within a group)     the weights
==========================================  ================================  ===========================

with ``frequencies[groups] = (v / counts)[groups]``, the chance of each example. ``None`` for groups under uniform draws
is a different objective: the *sums* of groups, eq. (4).

The tables of :func:`group_index` are made once; a draw of ``B`` then costs O(B log G). All functions but
:class:`GrainSampler` are for use inside ``jax.jit``: sizes are static, all else may be traced or vmapped.
"""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from also_optax._bits import mixed
from also_optax._examples import NUMBER_THEM
from also_optax._hyperparams import Table, check_count, check_scalar, statistics_dtype

SMALL = 2**12
"""Up to so many examples an epoch is shuffled by sorting; beyond, each entry of it is worked out by itself."""

ROUNDS = 6
"""Of two half-rounds each, of the network that shuffles large epochs."""

FAN = 8
"""Children of each sum in the tree that weights are drawn from."""


def uniform(key: jax.Array, num_examples: int, batch_size: int) -> jax.Array:
    """Draws examples uniformly, with replacement.

    Goes with ``group_frequencies=counts / counts.sum()``.

    Args:
      key: a key of `jax.random`.
      num_examples: n, below 2**31.
      batch_size: B.

    Returns:
      Indices, int32 ``[B]``.

    Raises:
      TypeError: if a size is not a Python int.
      ValueError: if a size is out of range.

    Examples:
      >>> import jax
      >>> from also_optax import samplers
      >>> samplers.uniform(jax.random.key(0), num_examples=10, batch_size=4).shape
      (4,)
    """
    _check_sizes(num_examples, batch_size)
    return jax.random.randint(key, (batch_size,), 0, num_examples, jnp.int32)


def epoch_batch(key: jax.Array, step: ArrayLike, num_examples: int, batch_size: int) -> jax.Array:
    """The batch of a step in training by shuffled epochs, as a function of nothing but the key and the step.

    So a run is resumed by its step count alone. An epoch is ``num_examples // batch_size`` steps; each has a
    permutation of its own, whose remainder is left out. Up to 4096 examples the permutation is
    `jax.random.permutation`; beyond it is a Feistel network, of which a step works out only the batch's entries, in a
    time that does not grow with the number of examples.

    Goes with ``group_frequencies=counts / counts.sum()``.

    Args:
      key: a key of `jax.random`, the same for all steps.
      step: count of steps from 0, int scalar.
      num_examples: n, below 2**31.
      batch_size: B, at most n.

    Returns:
      Indices, int32 ``[B]``; none is repeated within an epoch.

    Raises:
      TypeError: if a size is not a Python int.
      ValueError: if a size is out of range.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from also_optax import samplers
      >>> epoch = [samplers.epoch_batch(jax.random.key(0), step, num_examples=6, batch_size=3) for step in range(2)]
      >>> print(jnp.sort(jnp.concatenate(epoch)))
      [0 1 2 3 4 5]
    """
    _check_sizes(num_examples, batch_size)
    if batch_size > num_examples:
        raise ValueError(f"`batch_size` must be at most `num_examples`, got {batch_size} for {num_examples}.")
    step = jnp.asarray(step)
    epoch, position = jnp.divmod(step, jnp.asarray(num_examples // batch_size, step.dtype))
    key = jax.random.fold_in(key, epoch)
    start = position.astype(jnp.int32) * batch_size
    if num_examples <= SMALL:
        order = jax.random.permutation(key, num_examples).astype(jnp.int32)
        return jax.lax.dynamic_slice(order, (start,), (batch_size,))
    return _shuffled(key, start + jnp.arange(batch_size, dtype=jnp.int32), num_examples)


class GroupIndex(NamedTuple):
    """Where the examples of each group are, as :func:`group_index` makes it.

    Attributes:
      order: indices of the examples, sorted by group, ``[n]``.
      starts: where each group begins in `order`, ``[G]``.
      counts: how many examples each group has, ``[G]``.
      present: the groups that have examples come first, ``[G]``.
    """

    order: jax.Array
    starts: jax.Array
    counts: jax.Array
    present: jax.Array


def group_index(groups: Table, num_groups: int) -> GroupIndex:
    """The table of the examples of each group, made once.

    Args:
      groups: int id of each example, ``[n]``; examples of ids outside ``[0, num_groups)`` are never drawn.
      num_groups: G.

    Returns:
      A :class:`GroupIndex` of int32, to be handed to the jitted step as an argument. Concrete ids are sorted in NumPy.

    Raises:
      TypeError: if `groups` are not integer or `num_groups` is not a Python int.
      ValueError: if `groups` are not a vector, or (where they are concrete) none is in range.

    Examples:
      >>> from also_optax import samplers
      >>> index = samplers.group_index([1, 0, 1, 1], num_groups=2)
      >>> print(index.order, index.counts)
      [1 0 2 3] [1 3]
    """
    check_count("num_groups", num_groups)
    xp: Any = jnp if isinstance(groups, jax.core.Tracer) else np
    ids = xp.asarray(groups)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`groups` must be integer ids, got dtype {ids.dtype}. {NUMBER_THEM}")
    if ids.ndim != 1:
        raise ValueError(f"`groups` must have one id per example, shape [n], got shape {ids.shape}.")
    if ids.dtype.itemsize < 4:  # G itself may not fit into a narrow dtype
        ids = ids.astype(xp.int32)
    order = xp.argsort(ids, stable=True)
    edges = xp.searchsorted(ids[order], xp.arange(num_groups + 1, dtype=ids.dtype))
    counts = edges[1:] - edges[:-1]
    if xp is np and not counts.any():
        raise ValueError(f"`groups` must have an id in [0, {num_groups}), got none.")
    present = xp.argsort(counts == 0, stable=True)
    return GroupIndex(*(jnp.asarray(table, jnp.int32) for table in (order, edges[:-1], counts, present)))


def group_balanced(
    key: jax.Array, index: GroupIndex, batch_size: int, *, group_weights: Table | None = None
) -> jax.Array:
    """Draws a group, then one of its examples uniformly, with replacement.

    Goes with ``group_frequencies=None``; with `group_weights` it goes with those, and where they are the current
    ``also_optax.group_weights(opt_state)`` with ``group_frequencies="pi"``.

    Args:
      key: a key of `jax.random`.
      index: of :func:`group_index`.
      batch_size: B.
      group_weights: chance of each group, ``[G]``, not negative; need not be normalised. None draws the groups that
        have examples uniformly; those without are never drawn.

    Returns:
      Indices, int32 ``[B]``.

    Raises:
      TypeError: if `batch_size` is not a Python int, or `index` none of :func:`group_index`.
      ValueError: if `group_weights` are not of shape ``[G]``, or `batch_size` is out of range.

    Examples:
      >>> import jax
      >>> from also_optax import samplers
      >>> index = samplers.group_index([0] * 990 + [1] * 10, num_groups=2)
      >>> drawn = samplers.group_balanced(jax.random.key(0), index, batch_size=1000)
      >>> bool(400 < (drawn >= 990).sum() < 600)
      True
    """
    check_count("batch_size", batch_size)
    _check_index(index)
    group_key, example_key = jax.random.split(key)
    if group_weights is None:
        num_present = jnp.maximum((index.counts > 0).sum(), 1)
        groups = index.present[jax.random.randint(group_key, (batch_size,), 0, num_present, jnp.int32)]
    else:
        group_weights = jnp.asarray(group_weights)
        if group_weights.shape != index.counts.shape:
            raise ValueError(
                f"`group_weights` must have one entry per group, shape {index.counts.shape}, "
                f"got shape {group_weights.shape}."
            )
        groups = by_weights(group_key, jnp.where(index.counts > 0, group_weights, 0), batch_size)
    counts = jnp.maximum(index.counts[groups], 1)
    return index.order[index.starts[groups] + jax.random.randint(example_key, (batch_size,), 0, counts, jnp.int32)]


def upsampling(key: jax.Array, index: GroupIndex, batch_size: int, *, strength: ArrayLike = 1.0) -> jax.Array:
    """Draws groups with chances of ``counts ** (1 - strength)``, then one of its examples: the rare more often.

    Special cases: ``strength=0`` is :func:`uniform`; ``strength=1`` is :func:`group_balanced`, or :func:`by_weights`
    with inverse counts, ``1 / counts[groups]``. Fractions between are the temperatures of multilingual training.

    Goes with ``group_frequencies=upsampling_frequencies(counts, strength)``; without weights it is a baseline of its
    own.

    Args:
      key: a key of `jax.random`.
      index: of :func:`group_index`.
      batch_size: B.
      strength: finite; usually in [0, 1].

    Returns:
      Indices, int32 ``[B]``.

    Raises:
      TypeError: if `batch_size` is not a Python int, or `index` none of :func:`group_index`.
      ValueError: if an argument is out of range.

    Examples:
      >>> import jax
      >>> from also_optax import samplers
      >>> index = samplers.group_index([0] * 990 + [1] * 10, num_groups=2)
      >>> drawn = samplers.upsampling(jax.random.key(0), index, batch_size=1000, strength=0.5)
      >>> bool(50 < (drawn >= 990).sum() < 150)
      True
    """
    _check_index(index)
    return group_balanced(key, index, batch_size, group_weights=upsampling_frequencies(index.counts, strength))


def upsampling_frequencies(counts: Table, strength: ArrayLike = 1.0) -> jax.Array:
    """The chance of each group under :func:`upsampling`, ``[G]``; 0 where a group has no examples.

    Args:
      counts: examples of each group, ``[G]``.
      strength: as there.

    Raises:
      ValueError: if `strength` is not a finite scalar.

    Examples:
      >>> from also_optax import samplers
      >>> print(*(f"{chance:.2f}" for chance in samplers.upsampling_frequencies([81, 1, 0], strength=0.5)))
      0.90 0.10 0.00
    """
    check_scalar("strength", strength, "finite", lambda v: -np.inf < v < np.inf)
    counts = jnp.asarray(counts, statistics_dtype())
    log_weights = (1 - strength) * jnp.log(jnp.maximum(counts, 1))
    return jax.nn.softmax(jnp.where(counts > 0, log_weights, -jnp.inf))


def by_weights(key: jax.Array, weights: ArrayLike, batch_size: int) -> jax.Array:
    """Draws entries with chances in proportion to `weights`, with replacement.

    A running sum in float32 is wrong by several percent per entry at a million of them. Here a tree of sums is gone
    down with a draw of its own at each level, so each chance is right to the rounding of float32, down to 1e-13 of all
    where the weights differ. It costs a pass over the weights and B log n.

    For one weight per example it goes with ``group_frequencies=weights``; of groups, see :func:`group_balanced`.

    Args:
      key: a key of `jax.random`.
      weights: ``[n]``, not negative, need not be normalised; such as ``also_optax.group_weights(opt_state)``. Entries
        of 0, negative or NaN are never drawn, as long as there are others.
      batch_size: B.

    Returns:
      Indices, int32 ``[B]``.

    Raises:
      TypeError: if `batch_size` is not a Python int.
      ValueError: if `weights` are not a vector or empty, or `batch_size` is out of range.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from also_optax import samplers
      >>> drawn = samplers.by_weights(jax.random.key(0), jnp.array([0.0, 3.0, 1.0]), batch_size=1000)
      >>> bool(700 < (drawn == 1).sum() < 800), bool((drawn == 0).any())
      (True, False)
    """
    weights = jnp.asarray(weights)
    check_count("batch_size", batch_size)
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"`weights` must have one entry per example, shape [n], got shape {weights.shape}.")
    levels = _tree_of_sums(weights.astype(statistics_dtype()))
    # In the high mode the Gumbel-max choice is right for chances down to 1e-13, in the low one to 1e-7.
    gumbels = jax.random.gumbel(key, (len(levels), batch_size, FAN), statistics_dtype(), mode="high")
    drawn = jnp.zeros((batch_size,), jnp.int32)
    for children, gumbel in zip(levels, gumbels, strict=True):
        choice = jnp.argmax(jnp.log(children[drawn]) + gumbel, axis=-1)
        drawn = FAN * drawn + choice.astype(jnp.int32)
    return jnp.minimum(drawn, weights.size - 1)


def _check_index(index: GroupIndex) -> None:
    if not isinstance(index, GroupIndex):
        raise TypeError(f"`index` must be made by `group_index(groups, num_groups)`, got a {type(index).__name__}.")


def _check_sizes(num_examples: int, batch_size: int) -> None:
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size)
    if num_examples >= 2**31:
        raise ValueError(f"`num_examples` must be below 2**31, because indices are int32, got {num_examples}.")


def _tree_of_sums(weights: jax.Array) -> list[jax.Array]:
    """Sums of weights, each row the children of an entry of the level above; from the root, ``[1, FAN]``, down."""
    known = jnp.where(weights > 0, weights, 0)
    sums = known / jnp.maximum(jnp.max(known), jnp.finfo(known.dtype).tiny)
    levels: list[jax.Array] = []
    while not levels or sums.size > 1:
        rows = jnp.pad(sums, (0, -sums.size % FAN)).reshape(-1, FAN)
        levels.append(rows)
        sums = rows.sum(axis=1)
    return levels[::-1]


def _shuffled(key: jax.Array, positions: jax.Array, num_examples: int) -> jax.Array:
    """Entries of a permutation of ``[0, num_examples)`` at `positions`, without the rest of it.

    A Feistel network permutes the numbers of as many bits; one that lands outside goes through it again, until it is
    inside (cycle walking), which is a permutation of those inside.
    """
    bits = (num_examples - 1).bit_length()
    low = bits // 2
    low_mask, high_mask = (np.uint32(2**of - 1) for of in (low, bits - low))
    round_keys = jax.random.bits(key, (ROUNDS, 2), jnp.uint32)

    def permute(values: jax.Array) -> jax.Array:
        right, left = values & low_mask, values >> np.uint32(low)
        for of_left, of_right in round_keys:
            left = left ^ (mixed(right ^ of_left) & high_mask)
            right = right ^ (mixed(left ^ of_right) & low_mask)
        return left << np.uint32(low) | right

    def outside(values: jax.Array) -> jax.Array:
        return values >= np.uint32(num_examples)

    inside = jax.lax.while_loop(
        lambda values: outside(values).any(),
        lambda values: jnp.where(outside(values), permute(values), values),
        permute(positions.astype(jnp.uint32)),
    )
    return inside.astype(jnp.int32)


class GrainSampler:
    """The draws of :func:`group_balanced` or :func:`uniform` as a sampler for ``grain.DataLoader``.

    The record of an index depends on the seed and the index alone: a loader that is restored from its own checkpoint
    goes on as if it had not stopped, and shards and workers take disjoint parts of one sequence. It is NumPy
    throughout, so that worker processes need no JAX. Grain itself is imported at the first record.

    Goes with the ``group_frequencies`` of :func:`uniform`, :func:`group_balanced` or its `group_weights`.

    Args:
      num_draws: how many records there are in all, over all shards; None is no end.
      num_examples: n of the data source, for uniform draws.
      groups: int id of each example, ``[n]``, for draws by group; examples of negative id are never drawn. Exactly one
        of `num_examples` and `groups`.
      group_weights: chance of each group, ``[G]``, not negative; need not be normalised. None draws the groups that
        have examples uniformly.
      seed: at least 0.

    Raises:
      TypeError: if `seed` is not an int or `groups` are not integer.
      ValueError: if an argument is out of range, or not exactly one of `num_examples` and `groups` is given.

    Examples:
      >>> from also_optax import samplers
      >>> sampler = samplers.GrainSampler(1000, groups=[0] * 990 + [1] * 10, seed=0)
      >>> drawn = [sampler.record_key(index) for index in range(1000)]
      >>> 400 < sum(key >= 990 for key in drawn) < 600, drawn[7] == sampler.record_key(7)
      (True, True)

      Then, with ``import grain.python as grain``::

          grain.DataLoader(data_source=source, sampler=sampler, operations=[grain.Batch(32)],
                           shard_options=grain.NoSharding())
    """

    def __init__(  # noqa: D107 (the class says it)
        self,
        num_draws: int | None = None,
        *,
        num_examples: int | None = None,
        groups: Table | None = None,
        group_weights: Table | None = None,
        seed: int = 0,
    ):
        if (num_examples is None) == (groups is None):
            given = "neither" if groups is None else "both"
            raise ValueError(f"exactly one of `num_examples` and `groups` must be given, got {given}.")
        if num_draws is not None:
            check_count("num_draws", num_draws)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"`seed` must be an int, got {seed!r}.")
        if not 0 <= seed < 2**64:
            raise ValueError(f"`seed` must be at least 0 and below 2**64, got {seed}.")
        if num_examples is not None:
            check_count("num_examples", num_examples)
            groups = np.zeros(num_examples, np.int32)
        ids = np.asarray(groups)
        num_groups = max(int(ids.max(initial=0)) + 1, 1) if group_weights is None else np.asarray(group_weights).size
        index = group_index(ids, num_groups)
        self._num_draws, self._seed = num_draws, int(seed)
        self._order, self._starts, self._counts = (np.asarray(table) for table in index[:3])
        self._chances = _chances(self._counts, group_weights)

    def __len__(self) -> int:
        """How many records there are; as many as a list can have where there is no end."""
        return np.iinfo(np.int64).max if self._num_draws is None else self._num_draws

    def __getitem__(self, index: int) -> Any:
        """The ``grain.RecordMetadata`` of an index: which example, and a generator for its random transformations."""
        from grain import python as grain

        example, generator = self._draw(index)
        return grain.RecordMetadata(index=index, record_key=example, rng=generator)

    def __iter__(self) -> Iterator[Any]:
        """The records in turn."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """What a checkpoint of the loader compares."""
        tables = zlib.crc32(self._order.tobytes() + self._counts.tobytes() + self._chances.tobytes())
        return (
            f"GrainSampler(num_draws={self._num_draws}, num_examples={self._order.size}, "
            f"num_groups={self._counts.size}, tables={tables:#010x}, seed={self._seed})"
        )

    def record_key(self, index: int) -> int:
        """Which example the record of an index is."""
        return self._draw(index)[0]

    def _draw(self, index: int) -> tuple[int, np.random.Generator]:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        generator = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        group = int(np.searchsorted(np.cumsum(self._chances), generator.random(), side="right"))
        group = min(group, int(np.flatnonzero(self._chances)[-1]))  # the last sum may be just below 1
        return int(self._order[self._starts[group] + generator.integers(self._counts[group])]), generator


def _chances(counts: np.ndarray, group_weights: Table | None) -> np.ndarray:
    """The chance of each group in float64, ``[G]``; 0 where it has no examples."""
    weights = np.ones(counts.size) if group_weights is None else np.asarray(group_weights, np.float64)
    if weights.shape != counts.shape or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"`group_weights` must be finite and not negative, one per group, got {group_weights}.")
    weights = np.where(counts > 0, weights, 0)
    if not weights.any():
        raise ValueError("`group_weights` must be positive for a group that has examples.")
    return weights / weights.sum()
