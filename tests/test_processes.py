"""Several processes give the answer of one, and take over from each other's checkpoints."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint
import pytest
from jax.sharding import AxisType

import also_optax
from tests import problems, test_meshes

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 240
CASES = {  # kind, name and groups_axis
    "groups": ("optimizers", "also", None),
    "batch": ("rules", "absgd", None),
    "stateless": ("rules", "rgd", None),
    "tables": ("tables", "optimizer_lookahead", "data"),
    "lazy": ("tables", "rule_lazy", "data"),
}


def train(
    kind: str,
    name: str,
    out: str,
    *,
    groups_axis: str | None = None,
    start: int = 0,
    stop: int = test_meshes.STEPS,
    restore: str | None = None,
    save: str | None = None,
) -> None:
    """Trains from step `start` to `stop` on all devices, from and to a checkpoint; the end is written to `out`."""
    mesh = test_meshes.mesh_of(AxisType.Auto, data=jax.device_count())
    tx = test_meshes.optimizer(kind, name)
    stacked = jax.tree.map(lambda leaf: leaf[start:stop], test_meshes.batches_for(kind))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        begin = None
        if restore is not None:
            begin = checkpointer.restore(restore, template(tx, mesh, groups_axis))
        result = test_meshes.trained(tx, stacked, mesh, groups_axis=groups_axis, start=begin)
        if save is not None:
            checkpointer.save(save, result)
            checkpointer.wait_until_finished()
    replicated = jax.sharding.NamedSharding(mesh, test_meshes.WHOLE)
    seen = jax.jit(problems.outside, out_shardings=replicated)(result)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(seen)]
    if jax.process_index() == 0:
        np.savez(out, *leaves)


def template(tx: Any, mesh: Any, groups_axis: str | None) -> Any:
    """Shapes and places of parameters and state on `mesh`, as Orbax restores them."""
    params = problems.init_params()
    replicated = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, test_meshes.WHOLE), params)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (params, jax.eval_shape(tx.init, params)),
        (replicated, also_optax.state_shardings(tx, params, mesh, groups_axis=groups_axis)),
    )


def run_processes(devices: int, runs: list[dict[str, Any]], logs: Path, processes: int = 2) -> None:
    """Runs `runs` in processes of `devices` each; none outlives the call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    started, files = [], []
    try:
        for index in range(processes):
            place = {"coordinator_address": coordinator, "num_processes": processes, "process_id": index}
            job = {"devices": devices, "x64": test_meshes.is_x64(), "place": place, "runs": runs}
            files.append(logs / f"process-{index}.log")
            with files[-1].open("w") as log:
                command = [sys.executable, "-m", "tests._worker", json.dumps(job)]
                started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        deadline = time.monotonic() + SECONDS
        codes = [None] * processes
        while None in codes and not any(codes) and time.monotonic() < deadline:
            time.sleep(0.1)
            codes = [process.poll() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    output = "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files)
    assert codes == [0] * processes, f"exit codes {codes} (None: killed, after {SECONDS} s at most)\n{output}"


def assert_the_answer_of_one(out: Path, kind: str, name: str) -> None:
    with np.load(out) as stored:
        leaves = list(stored.values())
    expected = jax.tree.leaves(problems.outside(test_meshes.on_one_device(kind, name)))
    assert len(leaves) == len(expected)
    assert test_meshes.worst_difference(leaves, expected) <= test_meshes.tolerance(kind)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_two_processes_give_the_answer_of_one(devices, tmp_path):
    runs = [
        {"kind": kind, "name": name, "groups_axis": groups_axis, "out": str(tmp_path / f"{case}.npz")}
        for case, (kind, name, groups_axis) in CASES.items()
    ]
    run_processes(devices, runs, tmp_path)
    for case, (kind, name, _) in CASES.items():
        assert_the_answer_of_one(tmp_path / f"{case}.npz", kind, name)


@pytest.mark.slow
def test_a_checkpoint_moves_from_two_processes_to_one_and_back(x64, tmp_path):
    """From 2 x 2 devices to 1 x 8 and to 2 x 2 again, tables split all the way."""
    kind, name, groups_axis = CASES["tables"]

    def part(start: int, stop: int, restore: str | None = None, save: str | None = None) -> dict[str, Any]:
        paths = {"restore": restore and str(tmp_path / restore), "save": save and str(tmp_path / save)}
        out = str(tmp_path / f"{stop}.npz")
        return dict(kind=kind, name=name, out=out, groups_axis=groups_axis, start=start, stop=stop, **paths)

    run_processes(2, [part(0, 70, save="first")], tmp_path)
    train(**part(70, 130, restore="first", save="second"))
    run_processes(2, [part(130, 200, restore="second")], tmp_path)
    assert_the_answer_of_one(tmp_path / "200.npz", kind, name)
    train(**part(70, 200, restore="first"))
    assert_the_answer_of_one(tmp_path / "200.npz", kind, name)
