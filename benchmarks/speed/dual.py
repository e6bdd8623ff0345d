"""Part b: the update of the adversary alone, against a copy of one of its tables into a fresh buffer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import also_optax
from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.optimizers import also_settings
from benchmarks.speed.timing import Program, in_turns

BATCH = 256


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`."""
    assert case.num_groups is not None  # noqa: S101 (all cases of this part have it)
    if case.form == "bytes":
        return {"state_bytes": state_bytes(_rule(case, case.num_groups).init)}
    if case.against == "lazy":
        assert case.against_groups is not None  # noqa: S101 (cases against the lazy form have it)
        first = _updates(case, case.against_groups, protocol)
    else:
        first = _copies(case.num_groups)
    return in_turns(first, _updates(case, case.num_groups, protocol), protocol.effort, on_pair).line()


def state_bytes(init: Callable[[Any], Any]) -> int:
    """Bytes of the state that `init` would make; nothing is allocated."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(init, jnp.zeros(()))))


def _rule(case: Case, num_groups: int) -> Any:
    keywords = also_settings(**case.table_settings)
    return also_optax.reweight_by_also(num_groups, **keywords)


def _updates(case: Case, num_groups: int, protocol: Protocol) -> Program:
    """The rule's update, its state donated; the gradient beside it is a scalar that it leaves alone."""
    rule = _rule(case, num_groups)

    def update(state: Any, batch: dict[str, jax.Array]) -> Any:
        _, state = rule.update(jnp.zeros(()), state, **batch)
        return state

    rng = np.random.default_rng(0)
    batches = [
        {
            "losses": rng.exponential(size=BATCH).astype(np.float32),
            "groups": rng.integers(0, num_groups, BATCH, dtype=np.int32),
        }
        for _ in range(protocol.id_batches)
    ]
    return Program(jax.jit(update, donate_argnums=0), lambda: rule.init(None), jax.device_put(batches))


def _copies(size: int) -> Program:
    table = jnp.zeros((size,), jnp.float32)
    copy = jax.jit(jnp.copy)
    return Program(lambda _, source: copy(source), lambda: None, [table])
