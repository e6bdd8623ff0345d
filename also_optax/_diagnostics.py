"""Numbers about the game between model and adversary, for a log."""

import functools
from typing import Any

import jax

from also_optax._read import find_rule_state


def diagnostics(opt_state: Any) -> dict[str, jax.Array]:
    """What the rule inside `opt_state` knows of the run, as a flat dict of arrays.

    ====================  ====================================================================================
    name                  meaning
    ====================  ====================================================================================
    ``rejected``          examples that could not be used so far: loss not finite or too large, id out of range
    ``kl``                KL(pi ‖ prior), 0 at the prior
    ``effective_groups``  1 / sum(pi²): between 1 and G
    ``group_losses``      moving average of the adversary's gradient h, ``[G]``; of a group's mean loss where rules
                          compare means (group DRO: without its adjustment); DoReMi: the last excess
    ``average_weights``   mean of the weights after each step, ``[G]``, which is the result of DoReMi
    ``robust_value``      what the adversary maximises, at its weights: <pi, L> - tau·KL (ABSGD: lambda·log mean exp)
    ``erm_value``         <q, L>, the plain loss; not where groups are drawn from pi
    ``gap``               how far the adversary is from the worst case of those losses; 0 is a perfect answer
    ====================  ====================================================================================

    ABSGD has the first and ``robust_value``, RGD the first; ALSO has all but ``average_weights``, the losses and values
    where it keeps the average (``average_decay`` not None). Group DRO has what ALSO has, of the groups seen so far, and
    ``erm_value`` where it knows ``group_counts``; DoReMi has the first five, exponentiated gradient the first three (of
    examples), and tilted groups the losses, with the values where ``group_frequencies`` are known.
    The rules of a whole batch (CVaR, KL-CVaR, chi-square, spectral risks) have the first, ``robust_value`` and
    ``erm_value``, both of the last batch.

    Raises:
      ValueError: if `opt_state` has no rule, or two.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.reweight_by_also(2, dual_learning_rate=0.5, kl_penalty=1.0)
      >>> opt_state = tx.init(None)
      >>> for _ in range(30):
      ...     _, opt_state = tx.update(None, opt_state, losses=jnp.array([1.0, 2.0]), groups=jnp.array([0, 1]))
      >>> found = also_optax.diagnostics(opt_state)
      >>> print(f"robust {found['robust_value']:.3f}, plain {found['erm_value']:.3f}, gap {found['gap']:.3f}")
      robust 1.620, plain 1.500, gap 0.000
    """
    return _diagnostics(find_rule_state(opt_state))


@functools.partial(jax.jit, inline=True)  # outside of a user's jit each call would compile its powers and loops again
def _diagnostics(state: Any) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = state.diagnostics()
    return found
