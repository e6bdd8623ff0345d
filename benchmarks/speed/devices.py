"""Part d: on several devices: the collectives of a training step, and its time against the baseline's on as many.

Each case runs in a process of its own, because the number of fake devices is fixed when JAX starts. The batch is split,
parameters and optimizer state are whole on every device, the loss has a mask (so that a mean must be pooled). Many
fake devices on few cores say how much more there is to do, and nothing about how time scales.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks import records
from benchmarks.speed import hlo
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.optimizers import Optimizer, build
from benchmarks.speed.steps import workload_of
from benchmarks.speed.timing import Program, in_turns
from benchmarks.speed.workloads import Workload, batches, scanned, train_step

TIMEOUT = 900
ROOT = Path(__file__).resolve().parents[2]


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`, from a process with its number of devices.

    Raises:
      RuntimeError: if that process fails or does not end.
    """
    del on_pair  # there is no telling from here
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={case.devices}"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.speed.devices", json.dumps([asdict(case), asdict(protocol)])]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"did not end in {TIMEOUT} seconds") from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    line: records.Line = json.loads(done.stdout.splitlines()[-1])
    return line


def here(case: Case, protocol: Protocol) -> records.Line:
    """The same, in this process, on the first devices that it has."""
    mesh = jax.make_mesh((case.devices or 1,), ("data",), axis_types=(AxisType.Auto,))
    workload = workload_of(case, protocol)
    first, second = build(case.against), build(case.method, **case.settings)
    with jax.set_mesh(mesh):  # which a lazy rule needs to know where its pairs and bins belong
        steps = [_compiled_step(workload, optimizer, protocol, mesh) for optimizer in (first, second)]
        programs = [_program(workload, optimizer, protocol, mesh) for optimizer in (first, second)]
        turns = in_turns(programs[0], programs[1], protocol.effort)
    counted = [hlo.collectives(step) for step in steps]
    sizes = {"global_batch": workload.batch, "baseline_collectives": counted[0], "collectives": counted[1]}
    return turns.line() | sizes


def _compiled_step(workload: Workload, optimizer: Optimizer, protocol: Protocol, mesh: Any) -> str:
    function = jax.jit(train_step(workload, optimizer), donate_argnums=(0, 1), out_shardings=_everywhere(mesh))
    batch = _masked(batches(workload, optimizer.num_groups, protocol.id_batches, steps=None)[0])
    return function.lower(*_start(workload, optimizer, mesh), _split(batch, mesh, 0)).compile().as_text() or ""


def _program(workload: Workload, optimizer: Optimizer, protocol: Protocol, mesh: Any) -> Program:
    """Steps in a scan, waited for at every call: several programs in flight on fake devices can lock each other up."""
    step = scanned(train_step(workload, optimizer))
    function = jax.jit(step, donate_argnums=(0, 1), out_shardings=_everywhere(mesh))

    def call(carry: tuple[Any, Any], batch: Any) -> tuple[Any, Any]:
        params, opt_state, _ = function(*carry, batch)
        return params, opt_state

    made = batches(workload, optimizer.num_groups, protocol.id_batches, steps=protocol.scan_steps)
    split = [_split(_masked(batch), mesh, 1) for batch in made]
    return Program(call, lambda: _start(workload, optimizer, mesh), split, wait=True)


def _start(workload: Workload, optimizer: Optimizer, mesh: Any) -> tuple[Any, Any]:
    params = workload.init()
    return jax.device_put((params, optimizer.tx.init(params)), _everywhere(mesh))


def _masked(batch: dict[str, Any]) -> dict[str, Any]:
    """With a mask that leaves one example in eight out."""
    shape = batch["y"].shape
    return batch | {"where": np.broadcast_to(np.arange(shape[-1]) % 8 > 0, shape)}


def _everywhere(mesh: Any) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _split(batch: Any, mesh: Any, axis: int) -> Any:
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data")))


def main(argument: str) -> None:
    """Prints the line of the case and protocol in `argument`."""
    case, protocol = json.loads(argument)
    for name, value in protocol.items():
        protocol[name] = tuple(value) if isinstance(value, list) else value
    names = {f.name for f in fields(Case) if f.init}
    line = here(Case(**{name: case[name] for name in names}), Protocol(**protocol))
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
