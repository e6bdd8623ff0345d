r"""A histogram of scores, from which their normaliser follows at any scale without a pass over them.

K bins of one width, a power of two, keep of the entries in them the prior's mass, its first and its second moment. At
the scale a, with :math:`s` a bin's width in nats, a bin of mass :math:`M_0`, mean :math:`\mu` and variance
:math:`\sigma^2`, in widths about its centre, has

.. math:: \sum_i \hat\pi_i e^{s x_i} \approx M_0 \exp\left(s \mu + \tfrac12 s^2 \sigma^2\right)

by the cumulant expansion, exactly for bins of one value and to :math:`s^3/60` for the worst. Moments are sums in two
floats, because a hundred million ones are more than one float can count.

The window of bins follows the scores by merging bins, which makes them wider, and by leaving out what is low. A window
that leaves entries out covers 96 nats, in bins of 1/8 nat or less. It is made again from the table where what it leaves
out might matter, which the normaliser itself tells: they are n at most, and below the window.
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
CHUNK = 1 << 18
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
      counts: entries in them, int ``[K]``.
      moments: of the prior's mass, times n, about the centre of the bin: the zeroth, first and second, in widths, as
        sums of two parts, ``[2, 3, K]``.
      window: a :class:`Window`, ``[3]``.
    """

    counts: jax.Array
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
      eligible: how many have a positive prior.
    """
    dtype = statistics_dtype()
    head = np.asarray(num_entries, dtype)
    moments = np.zeros((2, 3, BINS), dtype)
    moments[:, :, 0] = np.array([head, num_entries - int(head)])[:, None] * np.array([1, -0.5, 0.25])
    return Histogram(
        counts=jnp.zeros((BINS,), jnp.int32).at[0].set(eligible),
        moments=jnp.array(moments),
        window=jnp.array([FINEST, 0, 1], dtype),
    )


def changed(histogram: Histogram, scores: jax.Array, mass: jax.Array, sign: int) -> Histogram:
    """The histogram with entries of positive `mass` added (`sign` 1) or taken out (-1)."""
    window = Window(*histogram.window)
    bins, moments = _moments_of(window, scores, mass)
    bins = jnp.where(mass > 0, bins, BINS)
    counts = histogram.counts + sign * _groups.segment_sum(jnp.ones_like(bins), bins, BINS)
    head, error = two_sum(histogram.moments[0], sign * _by_bin(moments, bins))
    head, tail = two_sum(head, histogram.moments[1] + error)
    lost = jnp.any(bins < 0) & (sign > 0)
    window = window._replace(whole=jnp.where(lost, 0, window.whole))
    # An empty bin forgets what rounding left in it.
    moments = jnp.where((counts > 0)[None, None], jnp.stack([head, tail]), 0)
    return Histogram(counts, moments, jnp.stack(window))


def normalizer(histogram: Histogram, scale: jax.Array, num_entries: int) -> tuple[jax.Array, jax.Array]:
    """A reference score r, and log of the sum of prior·exp(a·(v - r)); minus infinity both of nothing."""
    window = Window(*histogram.window)
    mass, first, second = histogram.moments[0] + histogram.moments[1]
    occupied = (histogram.counts > 0) & (mass > 0)
    bins = jnp.arange(BINS, dtype=mass.dtype)
    top = jnp.max(jnp.where(occupied, bins, -1))
    nats = scale * window.width
    divisor = jnp.where(occupied, mass, 1)
    mean = jnp.clip(first / divisor, -0.5, 0.5)
    variance = jnp.clip(second / divisor - mean**2, 0, 0.25)
    # relative to the upper edge of the top bin, and no entry is beyond its bin's own
    inside = jnp.minimum(nats * mean + 0.5 * nats**2 * variance, 0.5 * nats) - 0.5 * nats
    exponents = jnp.where(occupied, nats * (bins - top) + inside, -jnp.inf)
    peak = jnp.max(exponents)
    total = jnp.sum(jnp.where(occupied, mass * jnp.exp(exponents - jnp.where(top < 0, 0, peak)), 0))
    reference = jnp.where(top < 0, -jnp.inf, (window.lowest + top + 1) * window.width)
    return reference, peak + jnp.log(jnp.where(top < 0, 1, total) / num_entries)


def leaves_out(histogram: Histogram, scale: jax.Array, normalizer: jax.Array) -> jax.Array:
    """Whether entries below the window may matter to the `normalizer`, reference and log mass, of all."""
    window = Window(*histogram.window)
    reference, log_mass = normalizer
    above = log_mass + scale * (reference - window.lowest * window.width)
    return (window.whole == 0) & (above < NEGLIGIBLE)


def widened(histogram: Histogram, scale: jax.Array, scores: jax.Array, mass: jax.Array) -> Histogram:
    """The histogram with room for entries of positive `mass`; low ones find it only in a window that is whole."""

    def ends(histogram: Histogram) -> tuple[jax.Array, jax.Array]:
        """The highest bin, and the lowest that has to be covered, of these entries and those inside."""
        window = Window(*histogram.window)
        positions = jnp.floor(window.positions(scores))
        bins = window.lowest + jnp.arange(BINS, dtype=scores.dtype)
        entries, occupied = mass > 0, histogram.counts > 0
        highs = jnp.where(entries, positions, -jnp.inf).max(), jnp.where(occupied, bins, -jnp.inf).max()
        lows = jnp.where(entries, positions, jnp.inf).min(), jnp.where(occupied, bins, jnp.inf).min()
        high = jnp.maximum(*highs)
        return high, jnp.maximum(jnp.minimum(*lows), high - _reach(scale) / window.width)

    def misses(carry: tuple[jax.Array, Histogram]) -> jax.Array:
        rounds, histogram = carry
        window = Window(*histogram.window)
        high, low = ends(histogram)
        return (rounds < 4) & ((high >= window.lowest + BINS) | ((low < window.lowest) & (window.whole > 0)))

    def place(carry: tuple[jax.Array, Histogram]) -> tuple[jax.Array, Histogram]:
        rounds, histogram = carry
        high, low = ends(histogram)
        return rounds + 1, _merged(histogram, low, high)

    return jax.lax.while_loop(misses, place, (jnp.zeros([], jnp.int32), histogram))[1]


def made(values: jax.Array, scale: jax.Array, log_prior: jax.Array) -> Histogram:
    """The histogram of a table of scores, ``[n]``, in a few passes over it."""
    size = values.size
    eligible = _groups.mass_of(log_prior, size) > 0
    high = jnp.max(values, where=eligible, initial=-jnp.inf)
    low = jnp.maximum(jnp.min(values, where=eligible, initial=jnp.inf), high - _reach(scale))
    tiny = jnp.finfo(values.dtype).tiny
    for_span = jnp.log2(jnp.maximum(high - low, tiny) / (FILLED * BINS))
    for_size = jnp.log2(jnp.maximum(jnp.maximum(jnp.abs(high), jnp.abs(low)), tiny) / MOST_WIDTHS)
    exponent = jnp.maximum(jnp.ceil(jnp.maximum(for_span, for_size)), FINEST)
    window = Window(exponent, exponent, jnp.ones_like(exponent))
    low, high = jnp.floor(window.positions(low)), jnp.floor(window.positions(high))
    window = window._replace(lowest=low - _room_below(low, high))
    empty = Histogram(jnp.zeros((BINS,), jnp.int32), jnp.zeros((2, 3, BINS), values.dtype), jnp.stack(window))
    rows = math.gcd(size, MOST_ROWS)
    columns, width = size // rows, min(max(CHUNK // rows, 1), size // rows)

    def add(i: jax.Array, histogram: Histogram) -> Histogram:
        first = jnp.minimum(i * width, columns - width)

        def block(table: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(_groups.folded(table, rows), first, width, axis=1)

        prior = log_prior if log_prior.ndim == 0 else block(log_prior)
        fresh = (first + jnp.arange(width) >= i * width)[None]
        mass = jnp.where(fresh, _groups.mass_of(prior, size), jnp.zeros((rows, width), values.dtype))
        return changed(histogram, block(values), mass, 1)

    return jax.lax.fori_loop(0, -(-columns // width), add, empty)


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
    mass, first, second = histogram.moments[:, 0], histogram.moments[:, 1], histogram.moments[:, 2]
    second = second * factor**2 + 2 * shift * (first * factor) + shift**2 * mass
    first = first * factor + shift * mass
    bins = _as_index(parents - lowest)
    counts = _groups.segment_sum(histogram.counts, bins, BINS)
    head, tail = (_by_bin(jnp.stack(part), bins) for part in zip(mass, first, second, strict=True))
    lost = jnp.any((histogram.counts > 0) & (bins < 0))
    exponent, whole = window.exponent + merges, jnp.where(lost, 0, window.whole)
    return Histogram(counts, jnp.stack(two_sum(head, tail)), jnp.stack(Window(exponent, lowest, whole)))


def _room_below(low: jax.Array, high: jax.Array) -> jax.Array:
    """How many bins to leave free below; scores mostly rise."""
    return jnp.floor((BINS - (high + 1 - low)) / 8)


def _reach(scale: jax.Array) -> jax.Array:
    """What a window covers at least, in scores."""
    return REACH / jnp.maximum(scale, REACH / FARTHEST)


def _moments_of(window: Window, scores: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bin of each score, with -1 and K for those outside, and its mass and moments, ``[3, B]``."""
    positions = window.positions(scores)
    numbers = jnp.floor(positions)
    about_centre = positions - numbers - 0.5
    moments = jnp.stack([mass, mass * about_centre, mass * about_centre**2])
    return _as_index(numbers - window.lowest), moments


def _as_index(bins: jax.Array) -> jax.Array:
    return jnp.clip(bins, -1, BINS).astype(jnp.int32)


def _by_bin(moments: jax.Array, bins: jax.Array) -> jax.Array:
    """Sums by bin, ``[3, K]``, of moments ``[3, ...]`` at bins ``[...]``."""
    inside = jnp.where((bins >= 0) & (bins < BINS), bins, 3 * BINS)[None]
    rows = BINS * jnp.arange(3).reshape(-1, *(1,) * bins.ndim) + inside
    return _groups.segment_sum(moments, rows, 3 * BINS).reshape(3, BINS)
