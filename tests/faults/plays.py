"""Rules under fire: batches of any values, in programs that are compiled once a rule."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.rows import RULES

STEPS, SIZE = 4, 8
"""Of one call; what needs fewer examples has padding, and what needs more steps calls again."""


class Play(NamedTuple):
    """Batches, ``[STEPS, ...]``, as NumPy arrays."""

    losses: np.ndarray
    groups: np.ndarray
    where: np.ndarray

    def valid(self, num_groups: int | None) -> np.ndarray:
        """Which entries count."""
        ids = self.groups.reshape(self.groups.shape + (1,) * (self.losses.ndim - self.groups.ndim))
        where = self.where.reshape(ids.shape)
        known = ids < (np.inf if num_groups is None else num_groups)
        return where & (ids >= 0) & known & np.isfinite(self.losses.astype(np.float64))

    def tokens(self) -> "Play":
        """The same entries as ``[STEPS, SIZE / 2, 2]``, of which pairs share an id."""
        shape = (*self.losses.shape[:-1], SIZE // 2, 2)
        return Play(self.losses.reshape(shape), self.groups[..., ::2], self.where[..., ::2])


class Seen(NamedTuple):
    """What came of them, stacked over the steps."""

    loss: np.ndarray
    weights: np.ndarray
    rule: Any
    diagnostics: dict[str, np.ndarray]
    group_weights: np.ndarray | None


@functools.cache
def runner(name: str) -> Any:
    """``(hyperparams, state, play) -> (state, Seen)``; jitted, so that one shape and dtype is one program."""
    row = RULES[name]

    @jax.jit
    def run(hyperparams: dict[str, Any], state: Any, play: Play) -> Any:
        tx = row.make(**hyperparams)

        def step(state: Any, batch: Play) -> Any:
            losses, groups, where = batch
            loss, rw = row.rule.reweight(state, losses, groups, where)
            after = row.rule.told(tx, state, losses, groups, where=where)
            pi = after.group_weights() if hasattr(after, "group_weights") else None
            given = after._replace(hyperparams=_where_finite(after.hyperparams))
            return after, Seen(loss, rw.weights, given, after.diagnostics(), pi)

        return jax.lax.scan(step, state, play)

    return run


def _where_finite(hyperparams: Any) -> Any:
    """Settings, without the infinities that are given: no bound of the losses, the temperature of plain training."""
    names = [name for name in ("max_loss", "temperature") if getattr(hyperparams, name, None) is not None]
    values = {name: getattr(hyperparams, name) for name in names}
    return hyperparams._replace(**{name: jnp.where(jnp.isinf(value), 0, value) for name, value in values.items()})


@functools.cache
def start(name: str) -> Any:
    """The state before the first batch, by hyperparameters."""
    return jax.jit(lambda hyperparams: RULES[name].make(**hyperparams).init(None))


def after(name: str, play: Play, hyperparams: dict[str, Any] | None = None, state: Any = None) -> tuple[Any, Seen]:
    """The state and what was seen of `play`, as NumPy arrays."""
    hyperparams = {key: jnp.float32(value) for key, value in (hyperparams or RULES[name].hyperparams).items()}
    state = start(name)(hyperparams) if state is None else state
    state, seen = runner(name)(hyperparams, state, jax.tree.map(jnp.asarray, play))
    return state, jax.tree.map(np.asarray, seen)


def assert_finite(seen: Seen) -> None:
    """No number is lost: in states, weights, losses, or what is said of them."""
    for path, leaf in jax.tree.leaves_with_path(seen):
        assert np.isfinite(leaf.astype(np.float64)).all(), (jax.tree_util.keystr(path), leaf)
