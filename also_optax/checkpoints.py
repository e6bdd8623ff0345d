r"""What is in a checkpoint, said beside it: so that a wrong or a damaged one is an error that names what differs.

A description of a tree has its rules by name and every leaf's shape, dtype and checksum. It is plain JSON, and goes
wherever the library that writes the checkpoints keeps metadata. That library sees field names, but no rules; and
Orbax, which finds files that are missing or cut, restores an array with a flipped byte as if nothing were wrong.

The checksum of words :math:`x_i` of 32 bits is :math:`\sum_i m(x_i \oplus m(i))` modulo :math:`2^{32}`, with a hash m
that is one to one. So every change of a single word is found, and of others all but one in :math:`2^{32}`. It is worked
out where the leaf lives, and the same on any mesh; where several processes share a leaf, all of them have to ask.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from also_optax._base import is_rule_state
from also_optax._bits import mixed

SHOWN = 8
"""Differences that a message names; the rest is counted."""


def describe(tree: Any) -> dict[str, Any]:
    """What is in `tree`: parameters, an optimizer's state, all that a checkpoint is to hold.

    Args:
      tree: any pytree of arrays. Of a ``jax.ShapeDtypeStruct`` there is a shape and a dtype, but no checksum.

    Returns:
      A dict for :func:`check`, of JSON's types, in which leaves are known by their path.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> tx = also_optax.reweight_by_also(num_groups=3)
      >>> description = also_optax.checkpoints.describe({"w": jnp.ones(5), "state": tx.init(None)})
      >>> print(description["rules"], description["leaves"]["w"])
      {'state': 'AlsoState of 3 groups'} ['float32[5]', 1460411942]
    """
    return {
        "rules": {path: _rule(node) for path, node in _paths(tree, is_rule_state) if is_rule_state(node)},
        "leaves": {path: [_kind(leaf), _checksum(leaf)] for path, leaf in _paths(tree)},
    }


def check(tree: Any, description: dict[str, Any]) -> None:
    """Compares a tree with the description of what was saved; silent where they agree.

    Call it before a checkpoint is restored, with the shapes that are to be restored, and after, with what came::

        manager.save(step, args=Composite(state=StandardSave(state), about=JsonSave(checkpoints.describe(state))))
        ...
        about = manager.restore(step, args=Composite(about=JsonRestore())).about
        checkpoints.check(jax.eval_shape(make_state), about)  # another rule, another num_groups
        state = manager.restore(step, args=Composite(state=StandardRestore(template))).state
        checkpoints.check(state, about)  # a flipped byte

    Args:
      tree: of the structure that was described, of arrays or of ``jax.ShapeDtypeStruct``.
      description: what :func:`describe` said when the checkpoint was saved.

    Raises:
      ValueError: if a rule, a leaf, a shape, a dtype or a checksum is another one; it says which.

    Examples:
      >>> import jax, jax.numpy as jnp, also_optax
      >>> saved = {"w": jnp.ones(5), "state": also_optax.reweight_by_also(num_groups=3).init(None)}
      >>> description = also_optax.checkpoints.describe(saved)
      >>> also_optax.checkpoints.check(jax.eval_shape(lambda: saved), description)
      >>> also_optax.checkpoints.check(saved | {"w": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0000001])}, description)
      Traceback (most recent call last):
      ...
      ValueError: the checkpoint is damaged, in `w`: restore an earlier one.
    """
    found = describe(tree)
    try:
        rules, leaves = dict(description["rules"]), {path: tuple(leaf) for path, leaf in description["leaves"].items()}
        kinds, checksums = ({path: leaf[part] for path, leaf in leaves.items()} for part in (0, 1))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError("`description` is none that `also_optax.checkpoints.describe` made, or is damaged.") from error
    differences = [
        *_differences(rules, found["rules"]),
        *_differences(kinds, {path: kind for path, (kind, _) in found["leaves"].items()}),
    ]
    if differences:
        raise ValueError(
            f"the checkpoint is of another optimizer or model: {_listed(differences)}. Make them as they were when it "
            "was saved, or start without it."
        )
    damaged = [
        f"`{path}`"
        for path, (_, checksum) in found["leaves"].items()
        if checksum != checksums[path] and None not in (checksum, checksums[path])
    ]
    if damaged:
        raise ValueError(f"the checkpoint is damaged, in {_listed(damaged)}: restore an earlier one.")


def _paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Each leaf with its path, spelled the same for fields, keys and places."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _rule(state: Any) -> str:
    name = type(state).__name__
    return name if state.num_groups is None else f"{name} of {state.num_groups} groups"


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _checksum(leaf: Any) -> int | None:
    """As in the module docstring; None where there are no values."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return None
    words = _words(leaf) if isinstance(leaf, jax.Array) else _words_of_numpy(leaf)
    return int(_sum(words))


@jax.jit
def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as uint32, in one more dimension where its numbers are longer."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool:
        leaf = leaf.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * min(leaf.dtype.itemsize, 4)}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _words_of_numpy(leaf: np.ndarray) -> np.ndarray:
    """The same of NumPy's arrays, which may be of dtypes that JAX has not."""
    size = min(leaf.dtype.itemsize, 4)
    return np.ascontiguousarray(leaf)[..., None].view(f"uint{8 * size}").astype(np.uint32)


@jax.jit
def _sum(words: jax.Array) -> jax.Array:
    position = jnp.zeros_like(words)
    for axis, size in enumerate(words.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return mixed(words ^ mixed(position)).sum(dtype=jnp.uint32)


def _differences(saved: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for path in [*saved, *(path for path in found if path not in saved)]:
        if saved.get(path) != found.get(path):
            yield f"`{path}` is {saved.get(path, 'missing')} in the checkpoint, {found.get(path, 'missing')} here"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
