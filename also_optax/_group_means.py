"""What rules share that compare the mean losses of the groups in a batch, and train on a weighted sum of them."""

import jax
import jax.numpy as jnp

from also_optax import _groups
from also_optax._base import Sums, counts
from also_optax._examples import Examples


def sums_of(examples: Examples, num_groups: int, *, like: jax.Array | None = None) -> Sums:
    """Sums of the losses and numbers of examples by group.

    Args:
      examples: with groups.
      num_groups: G, a Python int.
      like: a table that is split over a mesh as the sums are to be; None is whole everywhere.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> all_count = jnp.ones(3, bool)
      >>> examples = base.Examples(jnp.array([1.0, 2.0, 4.0]), jnp.array([0, 1, 1]), all_count, ~all_count)
      >>> sums = base.sums_of(examples, num_groups=3)
      >>> print(sums.losses, sums.sizes)
      [1. 6. 0.] [1. 2. 0.]
    """
    ones = examples._replace(losses=examples.valid.astype(examples.losses.dtype))
    losses, sizes = (_groups.loss_sums(of, num_groups, like=like) for of in (examples, ones))
    return Sums(*counts(examples), losses, sizes)


def means_of(sums: Sums) -> tuple[jax.Array, jax.Array]:
    """The mean loss of each group, 0 where it has no example, and whether it has one; both ``[G]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> sums = base.Sums(jnp.array(3.0), jnp.array(0.0), jnp.array([1.0, 6.0, 0.0]), jnp.array([1.0, 2.0, 0.0]))
      >>> means, present = base.means_of(sums)
      >>> print(means, present)
      [1. 3. 0.] [ True  True False]
    """
    assert sums.losses is not None and sums.sizes is not None  # noqa: S101 (sums_of has made both)
    return sums.losses / jnp.maximum(sums.sizes, 1), sums.sizes > 0


def weights_of(group_weights: jax.Array, sums: Sums, examples: Examples) -> jax.Array:
    """The weights of examples that make the loss the sum of `group_weights` times mean losses: pi[g]·B/size of g."""
    assert sums.sizes is not None  # noqa: S101 (sums_of has made them)
    return at_examples(group_weights * (sums.count / jnp.maximum(sums.sizes, 1)), examples)


def at_examples(table: jax.Array, examples: Examples) -> jax.Array:
    """Entries of `table`, ``[G]``, at the groups of the examples, of the shape of the losses.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> all_count = jnp.ones((2, 2), bool)  # two sequences of two tokens
      >>> examples = base.Examples(jnp.zeros((2, 2)), jnp.array([2, 0]), all_count, ~all_count)
      >>> print(base.at_examples(jnp.array([0.5, 0.3, 0.2]), examples))
      [[0.2 0.2]
       [0.5 0.5]]
    """
    assert examples.groups is not None  # noqa: S101 (as_examples has required them)
    return examples.each(_groups.take(table, examples.groups))
