r"""A histogram of scores, from which their normaliser follows at any scale without a pass over them.

K bins of one width, a power of two, keep of the entries in them the prior's mass, its first and its second moment. At
the scale a, with :math:`s` a bin's width in nats, a bin of mass :math:`M_0`, mean :math:`\mu` and variance
:math:`\sigma^2`, in widths about its centre, has

.. math:: \sum_i \hat\pi_i e^{s x_i} \approx M_0 \exp\left(s \mu + \tfrac12 s^2 \sigma^2\right)

by the cumulant expansion, exactly for bins of one value and to :math:`s^3/60` for the worst. Moments are sums in two
floats, because a hundred million ones are more than one float can count.

The window of bins follows the scores by merging bins, which makes them wider, and by leaving out what is low. A window
that leaves entries out covers 96 nats, in bins of 1/8 nat or less. It is made again from the table where what it leaves
out might matter, which the normaliser itself tells.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from also_optax import _groups
from also_optax._hyperparams import statistics_dtype
from also_optax._precise import power_of_two, two_sum

BINS = 2048
FILLED = 0.75
"""How much of the window the scores may take when it is placed."""
REACH = 96.0
"""How many nats a window covers at least, counted from the top."""
NEGLIGIBLE = 20.0
"""Log of how much less than the whole weigh the entries left out."""
FINEST = -24
"""Exponent of the width of the first bins."""
MOST_WIDTHS = 2.0**22
"""How many widths a score may be from zero; floats could tell no finer bins apart."""
FARTHEST = 2.0**126
CHUNK = 1 << 16
"""Entries counted at a time when a histogram is made; more would need as much memory again as the table."""
MOST_ROWS = 4096
"""A table is counted as so many rows at most, column by column: where it is split, each device counts its own rows."""


class Window(NamedTuple):
    """Where the bins of a :class:`Histogram` are; whole numbers in floats.

    Attributes:
      exponent: a bin is 2**exponent wide.
      lowest: the lowest bin's number, counted from the one above 0.
      whole: 1 where no entry lies below the lowest bin, else 0.
    """

    exponent: jax.Array
    lowest: jax.Array
    whole: jax.Array

    @property
    def width(self) -> jax.Array:
        """Of a bin, in scores."""
        return power_of_two(self.exponent)

    def positions(self, scores: jax.Array) -> jax.Array:
        """Scores in widths."""
        return jnp.clip(scores * power_of_two(-self.exponent), -FARTHEST, FARTHEST)


class Histogram(NamedTuple):
    """The bins.

    Attributes:
      moments: of each bin, its entries, the prior's mass times n, and the first and second moment of that about the
        bin's centre, in widths; all as sums of two parts, ``[2, 4, K]``.
      window: a :class:`Window`, ``[3]``.
    """

    moments: jax.Array
    window: jax.Array


class Touched(NamedTuple):
    """The entries of a batch, each once.

    Attributes:
      ids: ``[B]``, n where nothing is touched.
      old: scores before, ``[B]``.
      new: scores after, ``[B]``.
      bonus: what is added to the tilt for one step, ``[B]``.
      mass: prior times n, ``[B]``; 0 where nothing is touched.
    """

    ids: jax.Array
    old: jax.Array
    new: jax.Array
    bonus: jax.Array
    mass: jax.Array


def start(num_entries: int, eligible: jax.Array | int) -> Histogram:
    """The histogram of zeros.

    Args:
      num_entries: n.
      eligible: how many have a positive prior, int.
    """
    dtype = statistics_dtype()
    mass, entries = (_in_two_parts(jnp.asarray(number, jnp.int32), dtype) for number in (num_entries, eligible))
    first_bin = jnp.stack([entries, mass, -0.5 * mass, 0.25 * mass], axis=1)
    moments = jnp.zeros((2, 4, BINS), dtype).at[:, :, 0].set(first_bin)
    return Histogram(moments, jnp.array([FINEST, 0, 1], dtype))


def moved(histogram: Histogram, scale: jax.Array, touched: Touched) -> tuple[Histogram, jax.Array]:
    """The histogram after a move at the scale a, and the normaliser."""
    histogram, lost = _widened(histogram, scale, touched)
    window = Window(*histogram.window)
    scores, mass = jnp.stack([touched.old, touched.new]), jnp.stack([touched.mass, touched.mass])
    before, after = _by_bin(_moments_of(window, scores, mass), rows=2)
    normalizer = _normalizer(histogram, before, scale, touched)
    window = window._replace(whole=jnp.where(lost, 0, window.whole))
    return Histogram(_added(histogram.moments, after - before), jnp.stack(window)), normalizer


def renewed(values: jax.Array, scale: jax.Array, log_prior: jax.Array, touched: Touched) -> tuple[Histogram, jax.Array]:
    """As :func:`moved`, from the table in which the batch has its new scores."""
    histogram = made(values, scale, log_prior)
    window = Window(*histogram.window)
    (batch,) = _by_bin(_moments_of(window, touched.new[None], touched.mass[None]), rows=1)
    return histogram, _normalizer(histogram, batch, scale, touched)


def _normalizer(histogram: Histogram, batch: jax.Array, scale: jax.Array, touched: Touched) -> jax.Array:
    """A score r, and log of the sum of prior·n·exp(u - a·r), ``[2]``.

    The sum is over the histogram less the moments ``[4, K]`` of the batch, and over the batch's entries one by one.
    """
    window = Window(*histogram.window)
    entries, mass, first, second = (histogram.moments[0] - batch) + histogram.moments[1]
    occupied = (entries > 0.5) & (mass > 0)
    nats = scale * window.width
    divisor = jnp.where(occupied, mass, 1)
    mean = jnp.clip(first / divisor, -0.5, 0.5)
    variance = jnp.clip(second / divisor - mean**2, 0, 0.25)
    # from the window's upper edge; no entry is beyond its own bin's
    edge = (window.lowest + BINS) * window.width
    inside = jnp.minimum(nats * (mean + 0.5 * nats * variance), 0.5 * nats) - 0.5 * nats
    tilts = jnp.concatenate(
        [
            jnp.where(occupied, nats * (jnp.arange(BINS, dtype=mass.dtype) - (BINS - 1)) + inside, -jnp.inf),
            jnp.where(touched.mass > 0, scale * (touched.new - edge) + touched.bonus, -jnp.inf),
        ]
    )
    peak = jnp.max(tilts)
    total = jnp.sum(jnp.concatenate([mass, touched.mass]) * jnp.exp(tilts - peak), where=tilts > -jnp.inf)
    reference = edge + jnp.clip(peak / scale, -FARTHEST, FARTHEST)
    return jnp.stack([reference, jnp.log(total) + (peak - scale * (reference - edge))])


def leaves_out(histogram: Histogram, scale: jax.Array, normalizer: jax.Array, size: int) -> jax.Array:
    """Whether entries below the window, all n of them at the most, may matter to the normaliser of all."""
    window = Window(*histogram.window)
    reference, log_mass = normalizer
    above = log_mass + scale * (reference - window.lowest * window.width)
    return (window.whole == 0) & (above < NEGLIGIBLE + np.log(size))


def made(values: jax.Array, scale: jax.Array, log_prior: jax.Array) -> Histogram:
    """The histogram of a table of scores, ``[n]``, in a few passes over it."""
    size = values.size
    eligible = _groups.mass_of(log_prior, size) > 0
    high = jnp.max(values, where=eligible, initial=-jnp.inf)
    lowest = jnp.min(values, where=eligible, initial=jnp.inf)
    low = jnp.maximum(lowest, high - _reach(scale))
    tiny = jnp.finfo(values.dtype).tiny
    for_span = jnp.log2(jnp.maximum(high - low, tiny) / (FILLED * BINS))
    for_size = jnp.log2(jnp.maximum(jnp.maximum(jnp.abs(high), jnp.abs(low)), tiny) / MOST_WIDTHS)
    exponent = jnp.maximum(jnp.ceil(jnp.maximum(for_span, for_size)), FINEST)
    window = Window(exponent, exponent, exponent)
    low, high = jnp.floor(window.positions(low)), jnp.floor(window.positions(high))
    window = window._replace(lowest=low - _room_below(low, high))
    window = window._replace(whole=(jnp.floor(window.positions(lowest)) >= window.lowest).astype(exponent.dtype))
    rows = math.gcd(size, MOST_ROWS)
    columns, width = size // rows, min(max(CHUNK // rows, 1), size // rows)

    def add(i: jax.Array, moments: jax.Array) -> jax.Array:
        first = jnp.minimum(i * width, columns - width)

        def block(table: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(_groups.folded(table, rows), first, width, axis=1)

        prior = log_prior if log_prior.ndim == 0 else block(log_prior)
        fresh = (first + jnp.arange(width) >= i * width)[None]
        mass = jnp.where(fresh, _groups.mass_of(prior, size), jnp.zeros((rows, width), values.dtype))
        (block_moments,) = _by_bin(_moments_of(window, block(values)[None], mass[None]), rows=1)
        return _added(moments, block_moments)

    moments = jax.lax.fori_loop(0, -(-columns // width), add, jnp.zeros((2, 4, BINS), values.dtype))
    return Histogram(moments, jnp.stack(window))


def _widened(histogram: Histogram, scale: jax.Array, touched: Touched) -> tuple[Histogram, jax.Array]:
    """The histogram with room for the new scores, and whether it has none for the lowest of them."""
    chosen = touched.mass > 0
    both = jnp.stack([touched.new, -touched.new])
    highest, lowest = jnp.max(both, axis=1, where=jnp.stack([chosen, chosen]), initial=-jnp.inf) * jnp.array([1, -1])

    def lacks(histogram: Histogram) -> tuple[jax.Array, jax.Array]:
        window = Window(*histogram.window)
        above = jnp.floor(window.positions(highest)) >= window.lowest + BINS
        return above, jnp.floor(window.positions(lowest)) < window.lowest

    def misses(carry: tuple[jax.Array, Histogram]) -> jax.Array:
        rounds, histogram = carry
        above, below = lacks(histogram)
        return (rounds < 4) & (above | (below & (Window(*histogram.window).whole > 0)))

    def place(carry: tuple[jax.Array, Histogram]) -> tuple[jax.Array, Histogram]:
        rounds, histogram = carry
        window = Window(*histogram.window)
        bins = window.lowest + jnp.arange(BINS, dtype=lowest.dtype)
        occupied = histogram.moments[0, 0] > 0.5
        high = jnp.max(bins, where=occupied, initial=jnp.floor(window.positions(highest)))
        low = jnp.min(bins, where=occupied, initial=jnp.floor(window.positions(lowest)))
        return rounds + 1, _merged(histogram, jnp.maximum(low, high - _reach(scale) / window.width), high)

    _, histogram = jax.lax.while_loop(misses, place, (jnp.zeros([], jnp.int32), histogram))
    return histogram, lacks(histogram)[1]


def _merged(histogram: Histogram, low: jax.Array, high: jax.Array) -> Histogram:
    """The histogram in a window from the bins `low` to `high`, by merging neighbours and leaving out what is below."""
    window = Window(*histogram.window)
    for_span = jnp.log2((high + 1 - low) / (FILLED * BINS))
    for_size = jnp.log2(jnp.maximum(jnp.abs(high) + 1, jnp.abs(low)) / MOST_WIDTHS)
    merges = jnp.clip(jnp.ceil(jnp.maximum(for_span, for_size)), 0, 126)
    factor = power_of_two(-merges)
    low, high = jnp.floor(low * factor), jnp.floor(high * factor)
    lowest = low - _room_below(low, high)
    # A window that is not whole cannot have any bin that reaches below it.
    lowest = jnp.where(window.whole > 0, lowest, jnp.maximum(lowest, jnp.ceil(window.lowest * factor)))
    numbers = window.lowest + jnp.arange(BINS, dtype=lowest.dtype)
    parents = jnp.floor(numbers * factor)
    shift = ((numbers + 0.5) * factor - (parents + 0.5))[None]
    entries, mass, first, second = (histogram.moments[:, i] for i in range(4))
    second = second * factor**2 + 2 * shift * (first * factor) + shift**2 * mass
    first = first * factor + shift * mass
    bins = jnp.clip(parents - lowest, -1, BINS).astype(jnp.int32)
    parts = jnp.stack([entries, mass, first, second], axis=1)
    head, tail = _by_bin((jnp.stack([bins, bins]), jnp.moveaxis(parts, 1, 0)), rows=2)
    lost = jnp.any((histogram.moments[0, 0] > 0.5) & (bins < 0))
    exponent, whole = window.exponent + merges, jnp.where(lost, 0, window.whole)
    return Histogram(jnp.stack(two_sum(head, tail)), jnp.stack(Window(exponent, lowest, whole)))


def _in_two_parts(number: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """An int32 as the sum of two floats, ``[2]``: one of 24 bits cannot hold them all."""
    low = number % 2**16
    return jnp.stack(two_sum((number - low).astype(dtype), low.astype(dtype)))


def _room_below(low: jax.Array, high: jax.Array) -> jax.Array:
    """How many bins to leave free below; scores mostly rise."""
    return jnp.floor((BINS - (high + 1 - low)) / 8)


def _reach(scale: jax.Array) -> jax.Array:
    """What a window covers at least, in scores."""
    return REACH / jnp.maximum(scale, REACH / FARTHEST)


def _moments_of(window: Window, scores: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bins of scores, -1 or K outside the window, and what they add to them, ``[4, ...]``; nothing of mass 0."""
    positions = window.positions(scores)
    numbers = jnp.floor(positions)
    about_centre = positions - numbers - 0.5
    bins = jnp.where(mass > 0, jnp.clip(numbers - window.lowest, -1, BINS), BINS).astype(jnp.int32)
    return bins, jnp.stack([jnp.ones_like(mass), mass, mass * about_centre, mass * about_centre**2])


def _by_bin(binned: tuple[jax.Array, jax.Array], rows: int) -> jax.Array:
    """Sums by bin, ``[rows, 4, K]``, of what is at bins ``[rows, ...]``, ``[4, rows, ...]``."""
    bins, moments = binned
    size = rows * 4 * BINS
    axes = (1,) * (bins.ndim - 1)
    places = BINS * (jnp.arange(4).reshape(4, 1, *axes) + 4 * jnp.arange(rows).reshape(1, rows, *axes)) + bins[None]
    places = jnp.where(((bins >= 0) & (bins < BINS))[None], places, size)
    return _groups.segment_sum(moments, places, size).reshape(rows, 4, BINS)


def _added(moments: jax.Array, terms: jax.Array) -> jax.Array:
    """The sums of two parts with `terms`, ``[4, K]``, added; a bin that is left empty forgets its rounding."""
    head, error = two_sum(moments[0], terms)
    head, tail = two_sum(head, moments[1] + error)
    return jnp.where((head[0] > 0.5)[None, None], jnp.stack([head, tail]), 0)
