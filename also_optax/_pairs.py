"""Statistics that are the examples themselves, pairs of an id and a loss.

For rules with tables too large to send, and for those that weigh a whole batch by its losses, whose ids are all 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from also_optax import _groups
from also_optax._base import counts
from also_optax._examples import Examples


class Pairs(NamedTuple):
    """The ids and losses of a batch; merging appends.

    Attributes:
      count: how many examples counted, scalar.
      rejected: how many could not be used, scalar.
      ids: int ``[P]``, in ``[0, G)``, or -1 where the pair has no part.
      losses: sums over the entries of each id, ``[P]``.
    """

    count: jax.Array  # type: ignore[assignment]  # tuple.count, which nobody needs here
    rejected: jax.Array
    ids: jax.Array
    losses: jax.Array

    def merge(self, other: "Pairs") -> "Pairs":
        """Pairs of both."""
        joined = (jnp.concatenate([mine, others]) for mine, others in zip(self[2:], other[2:], strict=True))
        return Pairs(self.count + other.count, self.rejected + other.rejected, *joined)

    def padded(self, size: int) -> "Pairs":
        """These and pairs without a part, `size` in all."""
        room = (0, size - self.ids.size)
        return self._replace(ids=jnp.pad(self.ids, room, constant_values=-1), losses=jnp.pad(self.losses, room))

    def placed(self, other: "Pairs", position: jax.Array) -> "Pairs":
        """Pairs of both, where those of `other` take the place of pairs without a part."""
        pairs = zip(self[2:], other[2:], strict=True)
        joined = (jax.lax.dynamic_update_slice(mine, others, (position,)) for mine, others in pairs)
        return Pairs(self.count + other.count, self.rejected + other.rejected, *joined)

    def pool(self, axis_name: str | tuple[str, ...]) -> "Pairs":
        """Pairs of all shards."""
        count, rejected = jax.lax.psum((self.count, self.rejected), axis_name)
        return Pairs(count, rejected, *(_groups.all_gather(part, axis_name) for part in self[2:]))


def pairs_of(examples: Examples) -> Pairs:
    """The pairs of a batch: one for each of its ids."""
    assert examples.groups is not None  # noqa: S101 (as_examples has required them)
    trailing = examples.trailing_axes
    ids = jnp.where(examples.valid.any(trailing), examples.groups.astype(jnp.int32), -1)
    ids, losses = (_groups.everywhere(part).ravel() for part in (ids, examples.losses.sum(trailing)))
    return Pairs(*counts(examples), ids, losses)


def entries_of(examples: Examples) -> Pairs:
    """Every entry of a batch as a pair of its own, of id 0 where it counts."""
    ids = jnp.where(examples.valid, 0, -1)
    ids, losses = (_groups.everywhere(part).ravel() for part in (ids, examples.losses))
    return Pairs(*counts(examples), ids, losses)
