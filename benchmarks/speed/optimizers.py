"""What is compared: each optimizer, and the one that it is measured against."""

from typing import Any, NamedTuple

import optax

import also_optax

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4


class Optimizer(NamedTuple):
    """An optimizer and what a step must do for it.

    Attributes:
      tx: the transformation.
      reads: whether the loss is read through the state, or averaged.
      num_groups: the range of the ids that it needs, or None.
    """

    tx: Any
    reads: bool = False
    num_groups: int | None = None


def also_settings(*, lazy: bool, average: bool, optimism: int) -> dict[str, Any]:
    """Keywords of `also` and `reweight_by_also` for one way of keeping the tables."""
    return {"optimism": optimism, "lazy": lazy} | ({} if average else {"average_decay": None})


def build(method: str, num_groups: int | None = None, **settings: Any) -> Optimizer:
    """The optimizer called `method`.

    Args:
      method: `also`, or a name in `PLAIN` or `READERS`.
      num_groups: G of `also`.
      settings: of :func:`also_settings`.
    """
    if method == "also":
        assert num_groups is not None  # noqa: S101 (cases of also have it)
        keywords = also_settings(**settings)
        tx = also_optax.also(LEARNING_RATE, num_groups, weight_decay=WEIGHT_DECAY, **keywords)
        return Optimizer(tx, reads=True, num_groups=num_groups)
    if method in PLAIN:
        return Optimizer(PLAIN[method]())
    return Optimizer(READERS[method](), reads=True)


PLAIN = {
    "adamw": lambda: optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
    "adam": lambda: optax.adam(LEARNING_RATE),
    "sgd": lambda: optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, momentum=0.9)),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(LEARNING_RATE),
}
READERS = {
    "absgd": lambda: also_optax.absgd(LEARNING_RATE, temperature=1.0, weight_decay=WEIGHT_DECAY),
    "abadam": lambda: also_optax.abadam(LEARNING_RATE, temperature=1.0, weight_decay=WEIGHT_DECAY),
    "rgd": lambda: also_optax.rgd(LEARNING_RATE),
}
BASELINES = {
    "adamw": "adamw",
    "optimistic_adam_v2": "adam",
    "absgd": "sgd",
    "abadam": "adamw",
    "rgd": "adam",
    "also": "adamw",
}
"""The optimizer that each differs from in its weights alone (and `optimistic_adam_v2` from `adam` in its optimism)."""
