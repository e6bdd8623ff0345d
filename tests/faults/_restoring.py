"""Restores checkpoints that may be damaged: ``python -m tests.faults._restoring FOLDER ...`` prints a line for each.

In a process of its own, because a read that fails leaves others under way, which Python reports at any later time.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import also_optax
from also_optax import checkpoints

NUM_GROUPS = 40


def optimizer(num_groups: int = NUM_GROUPS, **settings: Any) -> Any:
    return also_optax.also(0.01, num_groups, dual_learning_rate=0.1, **settings)


def state_of(tx: Any) -> dict[str, Any]:
    params = {"w": jax.random.normal(jax.random.key(0), (64, 32)), "b": jnp.zeros(32)}
    return {"params": params, "opt_state": tx.init(params)}


def save(folder: Path, state: Any) -> None:
    """A checkpoint with its description, as the docstring of `checkpoints.check` has it."""
    with ocp.CheckpointManager(folder) as manager:
        about = ocp.args.JsonSave(checkpoints.describe(state))
        manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=about))


def restored(folder: Path, template: Any) -> Any:
    """A state out of a checkpoint, with both checks."""
    with ocp.CheckpointManager(folder) as manager:
        about = manager.restore(1, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        checkpoints.check(template, about)
        state = manager.restore(1, args=ocp.args.Composite(state=ocp.args.StandardRestore(template))).state
    checkpoints.check(state, about)
    return state


def main() -> None:
    expected = state_of(optimizer())
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, expected)
    for folder in sys.argv[1:]:
        try:
            state = restored(Path(folder), template)
        except Exception as error:  # of Orbax, of JSON, or ours
            outcome = {"error": f"{type(error).__name__}: {error}"}
        else:
            pairs = zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True)
            outcome = {"same": all(np.asarray(one).tobytes() == np.asarray(other).tobytes() for one, other in pairs)}
        sys.stdout.write(json.dumps({"folder": folder} | outcome) + "\n")


if __name__ == "__main__":
    main()
