"""A training run that may be killed at any moment, and goes on: ``python -m tests.faults._training JOB``.

Two small networks on the digits, side by side: by ALSO with one weight per example and optimism, whose batches are a
function of the step, and by ABSGD, whose batches come out of a Grain loader with a position in the checkpoint. Each
step writes a line of metrics. What the process is about to do goes to its output: "restore", "step" and "save", each
with the number of the step.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from grain import python as grain
from sklearn.datasets import load_digits

import also_optax
from also_optax import checkpoints, samplers

BATCH = 32
SAVE_EVERY = 5
HIDDEN = 32


class Digits:
    """The digits as a data source for Grain; a record has its own number."""

    def __init__(self):
        inputs, self.labels = load_digits(return_X_y=True)
        self.inputs = (inputs / 16).astype(np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.inputs[index], "labels": self.labels[index], "index": np.int32(index)}

    def __repr__(self) -> str:
        return "Digits()"


class ByStep:
    """Shuffled epochs that know nothing but the step: there is no position to be kept."""

    def __init__(self, source: Digits):
        self.source, self.step = source, 0
        self.draw = jax.jit(lambda step: samplers.epoch_batch(jax.random.key(1), step, len(source), BATCH))

    def __next__(self) -> dict[str, Any]:
        index = np.asarray(self.draw(self.step))
        self.step += 1
        return self.source[index] | {"index": index}


class ByGrain:
    """Draws balanced by label, from a loader that is restored from its own position."""

    def __init__(self, source: Digits):
        sampler = samplers.GrainSampler(groups=source.labels, seed=1)
        operations, whole = [grain.Batch(BATCH)], grain.NoSharding()
        loader = grain.DataLoader(data_source=source, sampler=sampler, operations=operations, shard_options=whole)
        self.iterator = iter(loader)

    def __next__(self) -> dict[str, Any]:
        return next(self.iterator)


def init_params() -> dict[str, jax.Array]:
    first, second = jax.random.split(jax.random.key(0))
    return {"in": jax.random.normal(first, (64, HIDDEN)) / 8, "out": jax.random.normal(second, (HIDDEN, 10)) / 6}


def step_of(tx: optax.GradientTransformationExtraArgs) -> Any:
    def per_example_loss(params, inputs, labels):
        logits = jax.nn.relu(inputs @ params["in"]) @ params["out"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def step(state, batch):
        params, opt_state = state
        grad = also_optax.value_and_grad(per_example_loss)
        (loss, rw), grads = grad(params, opt_state, batch["inputs"], batch["labels"], groups=batch["index"])
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        said = {name: value for name, value in also_optax.diagnostics(opt_state).items() if value.ndim == 0}
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss, **said}

    return jax.jit(step, donate_argnums=0)


def cut_after(metrics: Path, step: int) -> None:
    """Cuts off the lines of steps after a checkpoint's, which will be made again, in one move that cannot be halved."""
    kept = 0
    for line in metrics.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
            break
        kept += len(line)
    os.truncate(metrics, kept)


def main(folder: str, steps: int) -> None:
    where = Path(folder)
    metrics = where / "metrics.jsonl"
    source = Digits()
    by_step, by_grain = ByStep(source), ByGrain(source)
    data = {"also": by_step, "absgd": by_grain}
    optimizers = {
        "also": also_optax.also(1e-2, num_groups=len(source), dual_learning_rate=1e-3, optimism=1.0),
        "absgd": also_optax.absgd(0.1, temperature=2.0),
    }
    train_steps = {name: step_of(tx) for name, tx in optimizers.items()}
    state = {name: (init_params(), tx.init(init_params())) for name, tx in optimizers.items()}

    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=SAVE_EVERY)
    with ocp.CheckpointManager(where / "checkpoints", options=options) as manager:
        start = manager.latest_step() or 0
        say("restore", start)
        if start:
            state, position = restored(manager, start, state)
            by_step.step = start
            by_grain.iterator.set_state(position)
            cut_after(metrics, start)
        else:
            metrics.write_bytes(b"")  # of a process that was killed before its first checkpoint
        with metrics.open("a") as lines:
            for step in range(start + 1, steps + 1):
                say("step", step)
                line: dict[str, Any] = {"step": step}
                for name in data:
                    state[name], said = train_steps[name](state[name], next(data[name]))
                    line[name] = {key: float(value) for key, value in said.items()}
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                if manager.should_save(step):
                    say("save", step)
                    save(manager, step, state, by_grain.iterator.get_state())
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    np.savez(where / "end.npz", *leaves, position=np.array(by_grain.iterator.get_state()))


def save(manager: ocp.CheckpointManager, step: int, state: Any, position: bytes) -> None:
    description = checkpoints.describe(with_position(state, position))
    about = ocp.args.JsonSave({"position": position.decode(), "description": description})
    manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=about))


def restored(manager: ocp.CheckpointManager, step: int, state: Any) -> tuple[Any, bytes]:
    """State and position of a step, as they were saved."""
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(template), about=ocp.args.JsonRestore())
    found = manager.restore(step, args=wanted)
    position = found.about["position"].encode()
    checkpoints.check(with_position(found.state, position), found.about["description"])
    return found.state, position


def with_position(state: Any, position: bytes) -> dict[str, Any]:
    """All that a checkpoint has to bring back, as arrays."""
    return {"state": state, "position": np.frombuffer(position, np.uint8)}


def say(word: str, step: int) -> None:
    sys.stdout.write(f"{word} {step}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
