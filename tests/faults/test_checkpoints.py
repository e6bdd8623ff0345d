"""Checkpoints that are damaged, or of another optimizer: an error that says so, and never other weights."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import also_optax
from also_optax import checkpoints
from tests import rows
from tests.faults._lives import ROOT
from tests.faults._restoring import optimizer, save, state_of


def described(tx: Any) -> dict[str, Any]:
    """As it comes back out of a file."""
    return json.loads(json.dumps(checkpoints.describe(state_of(tx))))


# --- Files ------------------------------------------------------------------------------------------------------------


DAMAGES = ("missing", "cut", "flipped early", "flipped late")


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    match how:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped early" | "flipped late":
            content[len(content) // 3 if how == "flipped early" else 4 * len(content) // 5] ^= 0x10
            file.write_bytes(content)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of a checkpoint, intact and with each of its files damaged in each way; by the way and the file."""
    folder = tmp_path_factory.mktemp("checkpoints")
    intact = folder / "intact"
    save(intact, state_of(optimizer()))
    files = [file.relative_to(intact) for file in sorted(intact.rglob("*")) if file.is_file()]
    cases = {intact: ("intact", "")}
    for number, (how, file) in enumerate(itertools.product(DAMAGES, files)):
        damaged = folder / str(number)
        shutil.copytree(intact, damaged)
        damage(damaged / file, how)
        cases[damaged] = (how, str(file))
    command = [sys.executable, "-m", "tests.faults._restoring", *map(str, cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(cases), done.stderr
    return {cases[Path(line.pop("folder"))]: line for line in lines}


def test_an_intact_checkpoint_passes(outcomes):
    assert outcomes["intact", ""] == {"same": True}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_an_error_or_of_no_consequence(how, outcomes):
    """Some of its files nobody reads; of those that matter, none is restored as another state."""
    found = {file: outcome for (way, file), outcome in outcomes.items() if way == how}
    assert len(found) > 5
    for file, outcome in found.items():
        assert outcome.get("same", True), file
    assert sum("error" in outcome for outcome in found.values()) >= 3


def test_a_flipped_byte_of_an_array_is_found_after_orbax_has_let_it_pass(outcomes):
    errors = [outcome.get("error", "") for (how, _), outcome in outcomes.items() if how.startswith("flipped")]
    assert any("the checkpoint is damaged, in `" in error for error in errors), errors


# --- Another optimizer or model ---------------------------------------------------------------------------------------


def message_of(tx: Any, description: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match="the checkpoint is of another optimizer or model") as raised:
        checkpoints.check(jax.eval_shape(lambda: state_of(tx)), description)
    return str(raised.value)


def test_another_number_of_groups_is_said_with_both_shapes():
    message = message_of(optimizer(30), described(optimizer()))
    assert "`opt_state/0` is AlsoState of 40 groups in the checkpoint, AlsoState of 30 groups here" in message
    dtype = jnp.zeros(()).dtype
    assert f"`opt_state/0/tilt` is {dtype}[40] in the checkpoint, {dtype}[30] here" in message


def test_another_rule_is_said_by_name():
    message = message_of(also_optax.absgd(0.1, temperature=2.0), described(optimizer()))
    assert "`opt_state/0` is AlsoState of 40 groups in the checkpoint, AbsgdState here" in message
    assert message.endswith("more. Make them as they were when it was saved, or start without it.")


def test_another_form_of_the_same_rule_is_said_by_its_fields():
    message = message_of(optimizer(optimism=0), described(optimizer()))
    assert "`opt_state/0/previous_dual_gradient` is " in message and "missing here" in message
    assert "[40] in the checkpoint" in message
    message = message_of(optimizer(min_weight=0.1), described(optimizer()))
    assert "`opt_state/0/hyperparams/min_weight` is missing in the checkpoint" in message


def test_another_model_is_said_by_its_leaves():
    saved = checkpoints.describe({"w": jnp.zeros(3), "gone": jnp.zeros(2)})
    with pytest.raises(ValueError) as raised:
        checkpoints.check({"w": jnp.zeros(3, jnp.bfloat16), "new": jnp.zeros(2, int)}, saved)
    dtype = jnp.zeros(3).dtype
    assert f"`w` is {dtype}[3] in the checkpoint, bfloat16[3] here" in str(raised.value)
    assert f"`gone` is {dtype}[2] in the checkpoint, missing here" in str(raised.value)
    assert "`new` is missing in the checkpoint" in str(raised.value)


def test_any_two_rules_are_told_apart():
    """Rows of the contract, whose states Orbax knows by their fields alone."""
    shapes = {name: jax.eval_shape(row.make(**row.hyperparams).init, None) for name, row in rows.RULES.items()}
    for one, other in itertools.permutations(shapes, 2):
        first, second = type(shapes[one]).__name__, type(shapes[other]).__name__
        if first == second:
            continue
        with pytest.raises(ValueError) as raised:
            checkpoints.check({"rule": shapes[one]}, checkpoints.describe({"rule": shapes[other]}))
        assert second in str(raised.value).partition(" in the checkpoint, ")[0]
        assert first in str(raised.value).partition(" in the checkpoint, ")[2]


@pytest.mark.parametrize("description", [{}, [], {"rules": {}}, {"rules": {}, "leaves": {"w": 3}}, {"leaves": 0}])
def test_a_damaged_description_is_said(description):
    with pytest.raises(ValueError, match="`description` is none that"):
        checkpoints.check({"w": jnp.zeros(3)}, description)


def test_a_tree_of_plain_containers_has_the_same_paths():
    state = state_of(optimizer())
    plain = {"params": state["params"], "opt_state": [state["opt_state"][0]._asdict(), *state["opt_state"][1:]]}
    described = checkpoints.describe(plain)
    assert described["leaves"] == checkpoints.describe(state)["leaves"]
    assert described["rules"] == {}


# --- Checksums --------------------------------------------------------------------------------------------------------


def checksum(leaf: Any) -> int:
    return checkpoints.describe({"leaf": leaf})["leaves"]["leaf"][1]


DTYPES = ["bool", "int8", "uint16", "int32", "float16", "float32", "complex64", ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_changes_the_checksum(dtype):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, (2, 3)).astype(dtype)
    expected = checksum(array)
    assert checksum(jnp.asarray(array)) == expected
    step = 8 if array.dtype == bool else 1  # one bit of a bool
    for bit in range(0, 8 * array.nbytes, step):
        content = bytearray(array.tobytes())
        content[bit // 8] ^= 1 << bit % 8
        flipped = np.frombuffer(bytes(content), array.dtype).reshape(array.shape)
        assert checksum(flipped) != expected
        assert checksum(jnp.asarray(flipped)) == checksum(flipped)


def test_the_order_of_entries_is_in_the_checksum():
    array = np.arange(12.0, dtype=np.float32)
    assert checksum(array[::-1]) != checksum(array)
    assert checksum(np.zeros(7, np.float32)) != checksum(np.zeros(8, np.float32))


def test_float64_counts_to_its_last_bit(x64):
    array = np.array([1.0, 1.0 + 2.0**-52, -3e300])
    assert checksum(jnp.asarray(array)) == checksum(array) != checksum(np.array([1.0, 1.0, -3e300]))


def test_keys_and_numbers_have_checksums():
    assert checksum(jax.random.key(0)) != checksum(jax.random.key(1))
    assert checksum(jnp.array(3.0)) == checksum(np.asarray(jnp.array(3.0)))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_checksum_is_the_same_on_any_mesh(axis_type):
    array = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type, axis_type))
    for spec in (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data", "model"), PartitionSpec(None, "model")):
        assert checksum(jax.device_put(array, NamedSharding(mesh, spec))) == checksum(array)
