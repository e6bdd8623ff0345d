"""Plain gradient descent whose steps may weigh the examples."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

import also_optax

Rule: TypeAlias = optax.GradientTransformation | None
"""What weighs examples; None weighs all alike."""


def sgd(rule: Rule, learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    """The rule, if there is one, then SGD."""
    return optax.with_extra_args_support(optax.chain(rule or optax.identity(), optax.sgd(learning_rate)))


def step(
    rule: Rule, learning_rate: Any, losses_of: Callable[[Any], jax.Array], state: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Parameters and the state of :func:`sgd` after a step along the weighted mean of ``losses_of(params)``."""
    params, opt_state = state
    told: dict[str, Any] = {}
    if rule is None:
        gradient = jax.grad(lambda params: losses_of(params).mean())(params)
    else:
        (_, read), gradient = also_optax.value_and_grad(losses_of)(params, opt_state)
        told = read.extra_args
    updates, opt_state = sgd(rule, learning_rate).update(gradient, opt_state, params, **told)
    return optax.apply_updates(params, updates), opt_state
