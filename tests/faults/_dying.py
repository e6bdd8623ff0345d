"""One of two processes that train together, until the second dies: ``python -m tests.faults._dying JOB``.

Each step is said when it is done; after `steps` of them the second process kills itself, as a machine that goes away.
"""

import json
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import also_optax

NUM_GROUPS, BATCH = 10, 8


def main(coordinator: str, index: int, steps: int, heartbeat: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(coordinator, 2, index, heartbeat_timeout_seconds=heartbeat)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    tx = also_optax.also(0.1, NUM_GROUPS)
    params = jax.device_put(np.zeros(3, np.float32), whole)
    opt_state = jax.jit(tx.init, out_shardings=whole)(params)
    inputs = jax.make_array_from_process_local_data(split, np.ones((BATCH // 2, 3), np.float32))
    groups = jax.make_array_from_process_local_data(split, np.arange(BATCH // 2, dtype=np.int32) + index)

    @jax.jit
    def train_step(params, opt_state, inputs, groups):
        grad = also_optax.value_and_grad(lambda params: jnp.square(inputs @ params - 1))
        (_, rw), grads = grad(params, opt_state, groups=groups)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return params + updates, opt_state

    step = 0
    while True:
        params, opt_state = jax.block_until_ready(train_step(params, opt_state, inputs, groups))
        step += 1
        sys.stdout.write(f"step {step}\n")
        sys.stdout.flush()
        if index == 1 and step == steps:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
