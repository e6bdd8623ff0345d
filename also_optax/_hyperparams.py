"""Hyperparameters: numbers, arrays, tracers or schedules, kept in the state as arrays.

A rule keeps the current value of each of its hyperparameters in its state, because the read side has nothing but the
state. At the end of step t it stores the values for step t + 1, so a schedule gives the same value to both sides.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Table = ArrayLike | Sequence[float]
"""A number for each group, class or example; JAX's `ArrayLike` has no lists."""

LARGEST = 1e30
"""Statistics saturate at this magnitude, so that sums of finite numbers stay finite in float32."""

LARGEST_TO_SQUARE = 1e15
"""The square of it is no larger."""

LARGEST_LOG = 85.0
"""exp of it is still finite in float32."""

_Values = TypeVar("_Values", bound=tuple)


def statistics_dtype() -> jnp.dtype:
    """The dtype of all statistics and tables: float32, or float64 under ``jax_enable_x64``."""
    return jnp.dtype(jnp.result_type(float))


def saturated(values: jax.Array, largest: float = LARGEST) -> jax.Array:
    """`values`, no larger than `largest` in magnitude.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import base
      >>> bool(jnp.isfinite(jnp.exp(base.saturated(jnp.array(-jnp.inf)))))
      True
    """
    return jnp.clip(values, -largest, largest)


def is_static_zero(value: Any) -> bool:
    """Whether `value` is the Python number 0, which can never become anything else."""
    return isinstance(value, (int, float)) and value == 0


def check_scalar(name: str, value: Any, requirement: str, holds: Callable[[float], bool]) -> None:
    """Raises where a scalar hyperparameter is wrong; schedules and tracers pass.

    Args:
      name: the argument's name, for the message.
      value: a number, an array of shape ``[]``, a tracer or a schedule.
      requirement: completes "must be ...".
      holds: whether a concrete value is right; NaN should fail it.

    Raises:
      TypeError: if `value` is not a number at all.
      ValueError: if `value` is an array with more than one entry, or `holds` is false of it.

    Examples:
      >>> from also_optax import base
      >>> base.check_scalar("temperature", -1.0, "above 0", lambda value: value > 0)
      Traceback (most recent call last):
      ...
      ValueError: `temperature` must be above 0, got -1.0.
    """
    if callable(value) or isinstance(value, jax.core.Tracer):
        return
    array = np.asarray(value)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"`{name}` must be {requirement}, got {value!r}.")
    if array.ndim:
        raise ValueError(
            f"`{name}` must be a scalar, got shape {array.shape}. To train a grid of values, `jax.vmap` over it."
        )
    if not holds(float(array)):
        raise ValueError(f"`{name}` must be {requirement}, got {value}.")


def check_one_of(**settings: Any) -> None:
    """Raises unless exactly one of the settings is given, that is, not None."""
    given = [name for name, value in settings.items() if value is not None]
    if len(given) != 1:
        *others, last = (f"`{name}`" for name in settings)
        what = "none" if not given else "both" if len(settings) == 2 else " and ".join(f"`{n}`" for n in given)
        raise ValueError(f"give exactly one of {', '.join(others)} and {last}, got {what}.")


def check_count(name: str, value: Any) -> None:
    """Raises unless `value` is a Python (or NumPy) integer of at least 1, since shapes depend on it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        injected = isinstance(value, jax.Array)
        hint = " Under `optax.inject_hyperparams`, list it in `static_args`." if injected else ""
        raise TypeError(f"`{name}` must be a Python int, got {value!r}.{hint}")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")


def values_at(hyperparams: _Values, step: jax.Array) -> _Values:
    """The values of a tree of numbers, arrays and schedules at `step`, as arrays of their own memory.

    None, which stands for a scalar that a rule does without, stays None.
    """

    def value_of(leaf: Any) -> jax.Array:
        return jnp.array(leaf(step) if callable(leaf) else leaf, dtype=statistics_dtype())

    return jax.tree.map(value_of, hyperparams, is_leaf=callable)
