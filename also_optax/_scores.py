r"""Weights of very many entries that a step touches only where its batch is: unnormalised scores, and their normaliser.

A prox step divides *every* tilt :math:`u_i` of ``_simplex`` by one number, :math:`1 + p`. With

.. math::
   u_i = a v_i + c_i, \qquad \log \pi_i = \log \hat\pi_i + u_i - \log \sum_j \hat\pi_j e^{u_j}

that is one scalar, the scale :math:`a`, and a table :math:`v` of which only the batch's entries change. The bonus
:math:`c` is what optimism lends an entry for one step; it counts where ``visited`` says that the last step was here.

The normaliser is a sum over all entries. The batch's own are added up one by one. The rest is either summed over the
table, in two passes that only read it, or taken from a ``_histogram`` of the scores, which makes a step :math:`O(B)`.

The tables are never copied: each write depends on all that was read before it (:func:`_after`; ``reweight`` makes the
losses that it hands on depend on the weights that it read), and what is rare runs in loops of at most one round, since
a branch would copy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from also_optax import _groups, _histogram
from also_optax._examples import Examples
from also_optax._histogram import Histogram, Touched
from also_optax._hyperparams import LARGEST_LOG, saturated, statistics_dtype
from also_optax._precise import Scale

LARGEST_SCORE = 2.0**100
LARGEST_PULL = 2.0**60


class Scores(NamedTuple):
    """Tilts of n entries in the form of the module docstring.

    Attributes:
      values: v, ``[n]``.
      bonus: c, ``[n]``; None without optimism.
      visited: the number of the step after each entry's last move, int ``[n]``; None without optimism.
      scale: a, as a :class:`Scale`, ``[2]``.
      normalizer: a reference score r, and log of the sum of prior·n·exp(u - a·r), ``[2]``.
      histogram: of all scores; None where the normaliser is summed over the table.
    """

    values: jax.Array
    bonus: jax.Array | None
    visited: jax.Array | None
    scale: jax.Array
    normalizer: jax.Array
    histogram: Histogram | None

    @property
    def size(self) -> int:
        """n."""
        return self.values.shape[0]

    def log_ratio(self, ids: jax.Array, step: jax.Array) -> jax.Array:
        """log(pi/prior) at `ids` before step number `step`; anything at ids outside ``[0, n)``."""
        values = _groups.take(self.values, ids)
        if self.bonus is None or self.visited is None:
            return self._log_ratio(values)
        lent = _groups.take(self.visited, ids) == step  # seldom: nearly all is spared the way to a third table
        return self._log_ratio(values, _groups.take(self.bonus, jnp.where(lent, ids, -1)))

    def weights(
        self, examples: Examples, log_prior: jax.Array, log_frequencies: jax.Array, step: jax.Array
    ) -> jax.Array:
        """pi/q of each example's entry before step number `step`, of the shape of the losses.

        Args:
          examples: with entries as their groups.
          log_prior: log of the prior, ``[n]``, or a scalar.
          log_frequencies: log of q, ``[n]``, or a scalar.
          step: as of :meth:`log_ratio`.
        """
        assert examples.groups is not None  # noqa: S101 (as_examples has required them)
        ids = examples.groups.ravel()
        log_weights = _groups.take(log_prior, ids) - _groups.take(log_frequencies, ids) + self.log_ratio(ids, step)
        return examples.each(jnp.exp(jnp.minimum(log_weights, LARGEST_LOG)).reshape(examples.groups.shape))

    def log_ratios(self, step: jax.Array) -> jax.Array:
        """log(pi/prior) of all entries, ``[n]``."""
        if self.bonus is None or self.visited is None:
            return self._log_ratio(self.values)
        return self._log_ratio(self.values, jnp.where(self.visited == step, self.bonus, 0))

    def move(
        self,
        ids: jax.Array,
        count: jax.Array,
        ascent: jax.Array,
        bonus: jax.Array,
        pull: jax.Array,
        step: jax.Array,
        log_prior: jax.Array,
    ) -> "Scores":
        """The scores after u' = (u - c + ascent) / (1 + pull), of which c' = bonus is for the next step only.

        Args:
          ids: entries in ``[0, n)``, or -1 for none, ``[B]``; what comes twice is added up.
          count: nothing changes where it is 0, scalar.
          ascent: what is added, ``[B]``.
          bonus: c', ``[B]``; has no part where this keeps no bonus.
          pull: scalar, at least 0.
          step: the number of this move.
          log_prior: log of the prior, ``[n]``, or a scalar.
        """
        any_move = count > 0
        before = Scale(*self.scale)
        scale = before.divided(jnp.log1p(jnp.where(any_move, jnp.minimum(pull, LARGEST_PULL), 0)))
        rise = saturated(ascent / before.value, LARGEST_SCORE)
        if self.bonus is not None:
            rise = rise - saturated(bonus / scale.value, LARGEST_SCORE)
        touched, values = _touch(
            self.values, ids, rise, None if self.bonus is None else bonus, _groups.mass_at(log_prior, ids, self.size)
        )
        if self.histogram is None:
            values = _groups.put(values, touched.ids, jnp.full_like(touched.new, -jnp.inf))
            values, new, scale = _rescaled(values, touched.new, scale, scale.worn)
            normalizer = _summed(values, scale.value, log_prior, touched._replace(new=new))
            values = _groups.put(values, touched.ids, _after(normalizer[1], new))
            histogram = None
        else:
            values = _groups.put(values, touched.ids, touched.new)
            histogram, normalizer = _histogram.moved(self.histogram, scale.value, touched)
            values, scale, histogram, normalizer = _renewed(values, scale, histogram, normalizer, touched, log_prior)
        moved = self._replace(
            values=values,
            scale=jnp.stack(scale),
            normalizer=jnp.where(any_move, normalizer, self.normalizer),
            histogram=histogram,
        )
        if self.bonus is None or self.visited is None:
            return moved
        return moved._replace(
            bonus=_groups.put(self.bonus, touched.ids, touched.bonus),
            visited=_groups.put(self.visited, touched.ids, jnp.broadcast_to(step + 1, ids.shape)),
        )

    def _log_ratio(self, values: jax.Array, bonus: jax.Array | int = 0) -> jax.Array:
        reference, log_mass = self.normalizer
        return Scale(*self.scale).value * (values - reference) + bonus - (log_mass - np.log(self.size))


def start(size: int, log_prior: jax.Array, *, bonus: bool, histogram: bool) -> Scores:
    """Tilts of zero: the prior.

    Args:
      size: n.
      log_prior: log of the prior, ``[n]``, or a scalar.
      bonus: whether moves lend a bonus.
      histogram: whether the normaliser comes from a histogram.
    """
    dtype = statistics_dtype()
    normalizer, bins = jnp.array([0, np.log(size)], dtype), None
    if histogram:
        eligible = size if log_prior.ndim == 0 else jnp.sum(_groups.mass_of(log_prior, size) > 0)
        bins = _histogram.start(size, eligible)
    return Scores(
        values=jnp.zeros((size,), dtype),
        bonus=jnp.zeros((size,), dtype) if bonus else None,
        visited=jnp.zeros((size,), jnp.int32) if bonus else None,
        scale=jnp.zeros((2,), dtype),
        normalizer=normalizer,
        histogram=bins,
    )


def _touch(
    values: jax.Array, ids: jax.Array, rise: jax.Array, bonus: jax.Array | None, mass: jax.Array
) -> tuple[Touched, jax.Array]:
    """Each entry of the batch once, and the table, in which it is marked.

    The table itself tells which positions of the batch share an entry: each writes its own there, and reads whose
    stayed.
    """
    size, positions = ids.size, jnp.arange(ids.size, dtype=values.dtype)
    old = _groups.take(values, ids)
    moves = (ids >= 0) & (mass > 0)
    values = _groups.put(values, jnp.where(moves, ids, values.size), _after(old, _after(rise, positions)))
    owner = jnp.where(moves, _groups.take(values, ids), size).astype(jnp.int32)
    chosen = owner == jnp.arange(size)
    rise = _groups.segment_sum(rise, owner, size)
    bonus = jnp.zeros_like(rise) if bonus is None else _groups.segment_sum(bonus, owner, size)
    touched = Touched(
        ids=jnp.where(chosen, ids, values.size),
        old=old,
        new=saturated(old + rise, LARGEST_SCORE),
        bonus=saturated(bonus),
        mass=jnp.where(chosen, mass, 0),
    )
    return touched, values


def _rescaled(values: jax.Array, new: jax.Array, scale: Scale, needed: jax.Array) -> tuple[jax.Array, jax.Array, Scale]:
    """The same tilts, with all but a half of the scale multiplied into the scores, where `needed`."""

    def multiply(carry: tuple) -> tuple:
        values, new, scale, _ = carry
        factor, scale = scale.parted()
        return values * factor, new * factor, scale, jnp.array(False)

    return jax.lax.while_loop(lambda carry: carry[-1], multiply, (values, new, scale, needed))[:3]


def _renewed(
    values: jax.Array,
    scale: Scale,
    histogram: Histogram,
    normalizer: jax.Array,
    touched: Touched,
    log_prior: jax.Array,
) -> tuple[jax.Array, Scale, Histogram, jax.Array]:
    """Table and histogram of the batch's new scores, made again if the scale or the histogram is worn out."""

    def renew(carry: tuple) -> tuple:
        _, values, scale, *_ = carry
        factor, scale = scale.parted()
        values, here = values * factor, touched._replace(new=touched.new * factor)
        return jnp.array(False), values, scale, *_histogram.renewed(values, scale.value, log_prior, here)

    worn = scale.worn | _histogram.leaves_out(histogram, scale.value, normalizer, values.size)
    carry = worn, values, scale, histogram, normalizer
    return jax.lax.while_loop(lambda carry: carry[0], renew, carry)[1:]


def _summed(values: jax.Array, scale: jax.Array, log_prior: jax.Array, touched: Touched) -> jax.Array:
    """The normaliser, ``[2]``, of the table, where the batch is at minus infinity, and of the batch."""
    mass = _groups.mass_of(log_prior, values.size)
    reference = jnp.max(values) if log_prior.ndim == 0 else jnp.max(values, where=mass > 0, initial=-jnp.inf)
    reference = jnp.where(jnp.isneginf(reference), 0, reference)
    log_rest = jnp.log(jnp.sum(mass * jnp.exp(scale * jnp.minimum(values - reference, 0))))
    tilts = scale * (touched.new - reference) + touched.bonus
    chosen = touched.mass > 0
    logs = jnp.where(chosen, tilts + jnp.log(jnp.where(chosen, touched.mass, 1)), -jnp.inf)
    return jnp.stack([reference, jax.nn.logsumexp(jnp.append(logs, log_rest))])


def _after(read: jax.Array, values: jax.Array) -> jax.Array:
    """`values`, which cannot be known before `read`: a table that is read and then written stays where it is."""
    return jnp.where(jnp.isnan(read), read, values)
