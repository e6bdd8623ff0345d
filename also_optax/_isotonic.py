r"""Isotonic regression of a sorted batch, which is what a smoothed spectral risk comes down to.

With losses :math:`\ell_1 \le \dots \le \ell_B`, spectrum :math:`\sigma_1 \le \dots \le \sigma_B` of sum 1 and penalty
:math:`\nu`, the maximum of :math:`\langle p, \ell\rangle - \nu D(p)` over the permutahedron of :math:`\sigma` is at

.. math::
   B p_i = \frac{\ell_i - v_i}{\nu} \;(\chi^2), \qquad B p_i = \exp\frac{\ell_i - v_i}{\nu} \;(\mathrm{KL}),

where :math:`v_1 \le \dots \le v_B` is constant on blocks, and the value of a block makes its :math:`B p_i` add up to
its mass :math:`M = B \sum \sigma_i`:

.. math::
   v = \frac{\sum \ell_i - \nu M}{\mathrm{size}} \;(\chi^2), \qquad
   v = \nu \log\frac{\sum \exp(\ell_i/\nu)}{M} \;(\mathrm{KL}).

The blocks are found by halves, :math:`\log_2 B` levels of them. Where two neighbouring halves are isotonic, one new
block joins a suffix of the left with a prefix of the right: all that would have to cross its value. Where it begins and
ends is searched for by halving, in all segments of a level at once. So the steps are the same for every batch, and most
work is at the lowest levels; pooling by rounds of adjacent violators would take :math:`O(B)` rounds for a spectrum with
a step.

Nothing here subtracts large numbers: a run of entries is kept relative to its last, largest loss, in units of
:math:`\nu`, as *content* (the sum of :math:`(\ell_i - \ell_\mathrm{last})/\nu`, or the log of the sum of the
exponentials) and mass, and the *level* of a block is :math:`(v - \ell_\mathrm{last})/\nu`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from also_optax._hyperparams import saturated
from also_optax._simplex import chi2_terms, kl_terms

LEVELS_A_LOOP = 8
"""Levels that share their code: fewer waste less at their upper ends, more are sooner compiled."""


class Smoothing(NamedTuple):
    """A divergence D from uniform weights, by what it does to runs of entries; all functions are elementwise.

    Attributes:
      shifted: ``shifted(content, size, drop)``, the content relative to a loss that is higher by ``-drop``.
      joined: the content of two runs, both relative to the same loss.
      level: ``level(content, mass, size)`` of a block.
      weight: of ``(loss - v)/penalty``.
      terms: ``terms(weight)``, of which D is the mean.
    """

    shifted: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    joined: Callable[[jax.Array, jax.Array], jax.Array]
    level: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    weight: Callable[[jax.Array], jax.Array]
    terms: Callable[[jax.Array], jax.Array]


class Sums(NamedTuple):
    """Content and mass of runs of entries."""

    content: jax.Array
    mass: jax.Array


class Segments(NamedTuple):
    """Segments of a batch, each isotonic, one behind the other; all arrays are ``[P]``.

    Attributes:
      losses: ascending over all segments.
      prefix: of each entry, the run from its segment's first entry to it, relative to its loss.
      suffix: of each entry, the run from it to its segment's last entry, relative to the loss of that.
      first: of each entry, where its block begins, int.
      last: of each entry, the last loss of its block.
      level: of each entry's block; infinite where there is no mass to be had, which joins whatever follows.
    """

    losses: jax.Array
    prefix: Sums
    suffix: Sums
    first: jax.Array
    last: jax.Array
    level: jax.Array


def weights_of_sorted(
    losses: jax.Array, mass: jax.Array, count: jax.Array, penalty: jax.Array, smoothing: Smoothing
) -> jax.Array:
    """The weights B·p of a batch.

    Args:
      losses: ``[P]``, ascending, finite.
      mass: B·sigma, ``[P]``, ascending, at least 0.
      count: B, how many entries have a part: the first ones; scalar.
      penalty: at least 0, scalar; 0 leaves the spectrum, equal losses sharing.
      smoothing: the divergence.

    Returns:
      Weights, ``[P]``, 0 beyond the first `count`.
    """
    size = losses.size
    levels = max(size - 1, 0).bit_length()
    room = (0, (1 << levels) - size)
    losses, has_part = jnp.pad(losses, room), jnp.pad(jnp.arange(size) < count, room)
    mass = jnp.where(has_part, jnp.pad(mass, room), 0)
    zeros = losses * 0
    single = Sums(zeros, mass)
    segments = Segments(
        losses=losses,
        prefix=single,
        suffix=single,
        first=zeros.astype(jnp.int32) + jnp.arange(losses.size, dtype=jnp.int32),
        last=losses,
        level=jnp.where(has_part, smoothing.level(zeros, mass, zeros + 1), jnp.inf),
    )
    for lowest in range(0, levels, LEVELS_A_LOOP):
        merge = functools.partial(_merged, pairs=losses.size >> (lowest + 1), penalty=penalty, smoothing=smoothing)
        segments = jax.lax.fori_loop(lowest, min(lowest + LEVELS_A_LOOP, levels), merge, segments)
    weights = smoothing.weight(_difference(losses, segments.last, penalty) - segments.level)
    return jnp.where(has_part, weights, 0)[:size]


def _difference(loss: jax.Array, other: jax.Array, penalty: jax.Array) -> jax.Array:
    """(loss - other)/penalty, saturated."""
    return saturated((loss - other) / jnp.maximum(penalty, jnp.finfo(loss.dtype).tiny))


def _merged(
    exponent: jax.Array, segments: Segments, *, pairs: int, penalty: jax.Array, smoothing: Smoothing
) -> Segments:
    """Segments of ``2**exponent`` entries joined two by two, of which there are at most `pairs`."""
    exponent = exponent.astype(jnp.int32)
    half, size = 1 << exponent, segments.losses.size
    place = jnp.arange(size, dtype=jnp.int32)
    pair, is_left = place >> (exponent + 1), (place >> exponent) % 2 == 0
    middle = jnp.minimum(((2 * jnp.arange(pairs, dtype=jnp.int32) + 1) << exponent), size - 1)
    block = _pool(segments, middle, exponent, penalty, smoothing)

    left_last, right_last = (_at(segments.losses, last) for last in (middle - 1, middle - 1 + half))
    left, right = (jax.tree.map(lambda sums, at=at: _at(sums, at), segments.suffix) for at in (middle - half, middle))
    ends = Ends(left_last, right_last, left, right)
    block, ends = jax.tree.map(lambda of: _at(of, pair), (block, ends))
    drop = functools.partial(_difference, ends.left_last, penalty=penalty)
    before = smoothing.shifted(ends.left.content, half, drop(segments.losses))
    to_middle = smoothing.shifted(segments.suffix.content, half - place % half, drop(ends.right_last))
    pooled = (block.start <= place) & (place < block.end)
    return Segments(
        losses=segments.losses,
        prefix=Sums(
            jnp.where(is_left, segments.prefix.content, smoothing.joined(before, segments.prefix.content)),
            segments.prefix.mass + jnp.where(is_left, 0, ends.left.mass),
        ),
        suffix=Sums(
            jnp.where(is_left, smoothing.joined(to_middle, ends.right.content), segments.suffix.content),
            segments.suffix.mass + jnp.where(is_left, ends.right.mass, 0),
        ),
        first=jnp.where(pooled, block.start, segments.first),
        last=jnp.where(pooled, block.last, segments.last),
        level=jnp.where(pooled, block.level, segments.level),
    )


class Ends(NamedTuple):
    """Two neighbouring segments: the last losses of both, and each as a run."""

    left_last: jax.Array
    right_last: jax.Array
    left: Sums
    right: Sums


class Block(NamedTuple):
    """The block that joins two neighbouring segments: from `start` to before `end`, which is not above it if none."""

    start: jax.Array
    end: jax.Array
    level: jax.Array
    last: jax.Array


def _pool(
    segments: Segments, middle: jax.Array, exponent: jax.Array, penalty: jax.Array, smoothing: Smoothing
) -> Block:
    """The block that joins the two segments on both sides of each `middle`, ``[pairs]``.

    An entry of the left has a part where the run from its block up to all of the right that is below that block is
    below it too; an entry of the right, where the run from the start up to its block is above it.
    """
    half = 1 << exponent
    left_last = _at(segments.losses, middle - 1)

    def run(start: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Level and last loss of what is from `start` in the left up to before `end` in the right."""
        some = end > middle
        last = _at(segments.losses, end - 1)
        content = smoothing.shifted(
            _at(segments.suffix.content, start), middle - start, _difference(left_last, last, penalty)
        )
        content = jnp.where(some, smoothing.joined(content, _at(segments.prefix.content, end - 1)), content)
        mass = _at(segments.suffix.mass, start) + jnp.where(some, _at(segments.prefix.mass, end - 1), 0)
        return smoothing.level(content, mass, jnp.maximum(end - start, 1)), last

    def block_of(entry: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _at(segments.level, entry), _at(segments.last, entry)

    def is_below(level: jax.Array, last: jax.Array, other_level: jax.Array, other_last: jax.Array) -> jax.Array:
        return level + _difference(last, other_last, penalty) < other_level

    def stays(entry: jax.Array) -> jax.Array:
        """Whether an entry of the left has no part."""
        block = block_of(entry)
        end = _leading(lambda other: is_below(*block_of(other), *block), middle, half, exponent)
        return ~((end > middle) & is_below(*run(_at(segments.first, entry), end), *block))

    start = _leading(stays, middle - half, half, exponent)

    def joins(entry: jax.Array) -> jax.Array:
        """Whether an entry of the right has a part."""
        return is_below(*block_of(entry), *run(start, _at(segments.first, entry)))

    end = _leading(joins, middle, half, exponent)
    exists = (start < middle) & (end > middle)
    return Block(start, jnp.where(exists, end, start), *run(start, end))


def _leading(
    holds: Callable[[jax.Array], jax.Array], low: jax.Array, size: jax.Array, exponent: jax.Array
) -> jax.Array:
    """The first of ``size = 2**exponent`` entries from `low` on of which `holds` is not true, by halving."""

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) // 2
        inside = holds(middle)
        is_open = low < high
        return jnp.where(is_open & inside, middle + 1, low), jnp.where(is_open & ~inside, middle, high)

    low, _ = jax.lax.fori_loop(0, exponent + 1, halve, (low, low + size))
    return low


def _at(values: jax.Array, index: jax.Array) -> jax.Array:
    """The entries at `index`; beyond the ends, the nearest."""
    return values.at[jnp.clip(index, 0, values.size - 1)].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _log_add(one: jax.Array, other: jax.Array) -> jax.Array:
    """log(exp(one) + exp(other)) of finite numbers."""
    return jnp.maximum(one, other) + jnp.log1p(jnp.exp(-jnp.abs(one - other)))


chi2 = Smoothing(
    shifted=lambda content, size, drop: content + size * drop,
    joined=jnp.add,
    level=lambda content, mass, size: (content - mass) / size,
    weight=jax.nn.relu,
    terms=chi2_terms,
)
"""D = ½ mean (Bp - 1)²."""

kl = Smoothing(
    shifted=lambda content, size, drop: content + drop,
    joined=_log_add,
    level=lambda content, mass, size: content - jnp.log(mass),
    weight=jnp.exp,
    terms=kl_terms,
)
"""D = KL(p ‖ uniform)."""
