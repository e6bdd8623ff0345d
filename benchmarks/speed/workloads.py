"""What is trained: a network on random data, one step as a user writes it, alone or many in a `lax.scan`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import also_optax
from benchmarks.speed import models
from benchmarks.speed.optimizers import Optimizer
from benchmarks.speed.timing import Program

INPUTS = 4
"""How many batches of inputs there are; ids of groups there are more of, as they decide where tables are touched."""

Batch = dict[str, Any]
Step = Callable[[Any, Any, Batch], tuple[Any, Any, jax.Array]]


class Workload(NamedTuple):
    """A network and the shape of its batches.

    Attributes:
      model: inputs to logits.
      about: for the report.
      batch: B.
      shape: of one input.
      tokens: whether inputs are integers below `classes`, one label each (losses ``[B, T]``); else one label an input.
      classes: of the labels.
    """

    model: nn.Module
    about: str
    batch: int
    shape: tuple[int, ...]
    tokens: bool
    classes: int

    def inputs(self, rng: np.random.Generator) -> Batch:
        """A batch of inputs and labels, random, on the host."""
        labels = rng.integers(0, self.classes, (self.batch, *(self.shape if self.tokens else ())), dtype=np.int32)
        if self.tokens:
            return {"x": labels, "y": np.roll(labels, -1, axis=1)}
        return {"x": rng.standard_normal((self.batch, *self.shape), dtype=np.float32), "y": labels}

    def init(self) -> Any:
        """The parameters to start from, in fresh buffers."""
        return jax.tree.map(jnp.array, _initial_params(self))

    def losses(self, params: Any, batch: Batch) -> jax.Array:
        """Cross-entropies, ``[B]`` or ``[B, T]``."""
        logits = jnp.asarray(self.model.apply(params, batch["x"]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


@functools.cache
def _initial_params(workload: Workload) -> Any:
    """On the host."""
    inputs = workload.inputs(np.random.default_rng(0))["x"]
    return jax.device_get(jax.jit(workload.model.init)(jax.random.key(0), inputs[:1]))


WORKLOADS = {
    "mlp": Workload(models.MLP(), "MLP 784-256-256-10, batches of 256", 256, (784,), False, 10),
    "resnet": Workload(
        models.ResNet(), "ResNet-18 of width 16 on 32x32x3, GroupNorm, batches of 64", 64, (32, 32, 3), False, 10
    ),
    "transformer": Workload(
        models.Transformer(),
        "Transformer of 2 layers, d 128, vocabulary 256, token losses of [16, 64]",
        16,
        (64,),
        True,
        256,
    ),
}
TINY = {
    "mlp": Workload(models.MLP((16,)), "tiny MLP", 32, (16,), False, 10),
    "resnet": Workload(models.ResNet((1,), 4), "tiny ResNet", 8, (8, 8, 3), False, 10),
    "transformer": Workload(models.Transformer(1, 16, 2, 16), "tiny Transformer", 4, (8,), True, 16),
}


def train_step(workload: Workload, optimizer: Optimizer) -> Step:
    """One step of training: forward, backward, update, apply."""

    def step(params: Any, opt_state: Any, batch: Batch) -> tuple[Any, Any, jax.Array]:
        def loss_fn(params: Any) -> tuple[jax.Array, Batch]:
            losses = workload.losses(params, batch)
            if optimizer.reads:
                loss, rw = also_optax.reweight(opt_state, losses, batch.get("groups"), where=batch.get("where"))
                return loss, rw.extra_args
            return jnp.mean(losses, where=batch.get("where")), {}

        (loss, extra_args), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.tx.update(grads, opt_state, params, **extra_args)
        return optax.apply_updates(params, updates), opt_state, loss

    return step


def scanned(step: Step) -> Step:
    """As many steps as the batches have leading entries, in one call."""

    def steps(params: Any, opt_state: Any, batches: Batch) -> tuple[Any, Any, jax.Array]:
        def body(carry: tuple[Any, Any], batch: Batch) -> tuple[tuple[Any, Any], jax.Array]:
            *carry_after, loss = step(*carry, batch)
            return (carry_after[0], carry_after[1]), loss

        carry, losses = jax.lax.scan(body, (params, opt_state), batches)
        return *carry, losses

    return steps


def batches(workload: Workload, num_groups: int | None, count: int, *, steps: int | None, seed: int = 0) -> list[Batch]:
    """Batches on the device, for one step a call or, with a leading axis, for `steps` of them.

    Args:
      workload: what for.
      num_groups: the range of the ids, fresh for each of the `count` steps; None leaves them out.
      count: how many steps before the ids repeat; a multiple of `steps`.
      steps: in a call; None is one, without the leading axis.
      seed: of all that is random.
    """
    rng = np.random.default_rng(seed)
    inputs = [workload.inputs(rng) for _ in range(INPUTS)]
    ids = None if num_groups is None else rng.integers(0, num_groups, (count, workload.batch), dtype=np.int32)
    if steps is None:
        shared = [jax.device_put(batch) for batch in inputs]
        return [shared[i % INPUTS] | ({} if ids is None else {"groups": jax.device_put(ids[i])}) for i in range(count)]
    stacked = jax.device_put({name: np.stack([inputs[i % INPUTS][name] for i in range(steps)]) for name in inputs[0]})
    if ids is None:
        return [stacked]
    return [stacked | {"groups": jax.device_put(part)} for part in ids.reshape(-1, steps, workload.batch)]


def program(workload: Workload, optimizer: Optimizer, id_batches: int, steps: int | None) -> Program:
    """Training as a :class:`Program`, parameters and optimizer state donated.

    Args:
      workload: what is trained.
      optimizer: how.
      id_batches: how many steps before the ids repeat.
      steps: in a `lax.scan` in each call; None is one step a call.
    """
    step = train_step(workload, optimizer)
    function = jax.jit(step if steps is None else scanned(step), donate_argnums=(0, 1))

    def start() -> tuple[Any, Any]:
        params = workload.init()
        return params, optimizer.tx.init(params)

    def call(carry: tuple[Any, Any], batch: Batch) -> tuple[Any, Any]:
        params, opt_state, _ = function(*carry, batch)
        return params, opt_state

    return Program(call, start, batches(workload, optimizer.num_groups, id_batches, steps=steps))
