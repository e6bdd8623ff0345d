"""Training by M workers on M devices, each with data of its own, in a process that has so many devices.

A server's step is done by all alike: its gradient is the sum of what they send. A whole run is one compiled function.
"""

import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, PartitionSpec

import also_optax
from benchmarks import compression
from benchmarks.methods import adamw, sgd
from benchmarks.networks import MLP

AXIS = "workers"


class Examples(NamedTuple):
    """Images of each worker, padded to the largest number.

    Attributes:
      features: uint8, ``[M, n, pixels]``; on a worker its own, ``[n, pixels]``.
      classes: ``[M, n]``; -1 is padding.
    """

    features: Any
    classes: Any


class Sizes(NamedTuple):
    """What is compiled for.

    Attributes:
      workers: M.
      steps: of the server.
      checks: how often the model is scored; divides `steps`.
      batch: of each worker.
      num_classes: C.
      scale: what to divide the features by.
    """

    workers: int
    steps: int
    checks: int
    batch: int
    num_classes: int
    scale: float


class Way(NamedTuple):
    """How the server learns; by name, so that it can be sent to another process.

    Attributes:
      optimizer: "adamw", "sgd" or "also".
      shares: of the coordinates that each worker sends: "all", "equal" or "pi".
    """

    optimizer: str
    shares: str


class Course(NamedTuple):
    """A run, at its checks.

    Attributes:
      right: the share of right answers on the validation set and the test set by class, ``[checks, 2, C]``.
      losses: cross-entropies, alike.
      weights: of the workers' gradients, ``[checks, M]``.
      sent: numbers sent by each worker so far, ``[checks, M]``.
      seconds: without compiling.
      compile_seconds: 0 where it was compiled before.
    """

    right: np.ndarray
    losses: np.ndarray
    weights: np.ndarray
    sent: np.ndarray
    seconds: float
    compile_seconds: float


def coordinates(num_classes: int, pixels: int) -> int:
    """How many parameters the network has."""
    start = functools.partial(MLP(num_classes).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(start, jnp.zeros((1, pixels)))))


def in_process(workers: int) -> Callable[..., Any]:
    """``call(function, *arguments)`` in a process with so many devices, one call at a time."""
    pool = _pool(workers)
    return lambda function, *arguments: pool.submit(function, *arguments).result()


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(workers,))


def _prepare(workers: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", workers)


def run(
    sizes: Sizes,
    way: Way,
    training: Examples,
    validation: Examples,
    test: Examples,
    seed: int,
    setting: Mapping[str, float],
) -> Course:
    """Trains one run, here, on the first M devices."""
    numbers = {name: jnp.float32(value) for name, value in setting.items()}
    arguments = (training, validation, test, jnp.int32(seed), numbers)
    compiled, compile_seconds = _compiled(sizes, way, *arguments)
    started = time.perf_counter()
    # Waits: several programs in flight can lock each other up.
    right, losses, weights, sent = jax.tree.map(np.asarray, compiled(*arguments))
    return Course(right, losses, weights, sent, time.perf_counter() - started, compile_seconds)


_COMPILED: dict[Any, Any] = {}


def _compiled(sizes: Sizes, way: Way, *arguments: Any) -> tuple[Any, float]:
    """The compiled run and the seconds that it took; the last one is kept, for runs of the same shapes."""
    key = (sizes, way, tuple(leaf.shape for leaf in jax.tree.leaves(arguments)))
    seconds = 0.0
    if key not in _COMPILED:
        started = time.perf_counter()
        mesh = jax.make_mesh((sizes.workers,), (AXIS,), axis_types=(AxisType.Auto,))
        own, everywhere = PartitionSpec(AXIS), PartitionSpec()
        function = jax.shard_map(
            functools.partial(_of_worker, sizes, way),
            mesh=mesh,
            in_specs=(own, own, own, everywhere, everywhere),
            out_specs=everywhere,
            check_vma=False,
        )
        _COMPILED.clear()
        _COMPILED[key] = jax.jit(function).lower(*arguments).compile()
        seconds = time.perf_counter() - started
    return _COMPILED[key], seconds


def _of_worker(
    sizes: Sizes, way: Way, training: Examples, validation: Examples, test: Examples, seed: jax.Array, setting: Any
) -> Any:
    training, validation, test = jax.tree.map(lambda leaf: leaf[0], (training, validation, test))
    model, tx = MLP(sizes.num_classes), _optimizer(sizes, way, setting)
    root = jax.random.key(seed)
    params = model.init(root, _inputs(sizes, training.features[:1]))
    flat, _ = ravel_pytree(params)
    order = jax.random.permutation(jax.random.fold_in(root, 0), flat.size)
    step = functools.partial(_step, sizes, way, model, tx, training, root, order)

    def between_checks(state: Any, check: jax.Array) -> tuple[Any, Any]:
        length = sizes.steps // sizes.checks
        state, _ = jax.lax.scan(step, state, check * length + jnp.arange(length))
        params, opt_state, sent = state
        right, losses = zip(*(_measured(sizes, model, params, part) for part in (validation, test)), strict=True)
        return state, (jnp.stack(right), jnp.stack(losses), _weights(sizes, way, opt_state), sent)

    start = params, tx.init(params), jnp.zeros(sizes.workers, jnp.int32)
    return jax.lax.scan(between_checks, start, jnp.arange(sizes.checks))[1]


def _optimizer(sizes: Sizes, way: Way, setting: Any) -> Any:
    if way.optimizer == "also":
        return also_optax.also(**setting, num_groups=sizes.workers)
    built = {"adamw": adamw, "sgd": sgd}[way.optimizer](setting, None)  # type: ignore[arg-type]
    return optax.with_extra_args_support(built)


def _inputs(sizes: Sizes, features: jax.Array) -> jax.Array:
    return features.astype(jnp.float32) / sizes.scale


def _weights(sizes: Sizes, way: Way, opt_state: Any) -> jax.Array:
    """Of the workers' gradients in the server's, ``[M]``."""
    return (
        also_optax.group_weights(opt_state) if way.optimizer == "also" else jnp.full(sizes.workers, 1 / sizes.workers)
    )


def _step(
    sizes: Sizes,
    way: Way,
    model: MLP,
    tx: Any,
    training: Examples,
    root: jax.Array,
    order: jax.Array,
    state: Any,
    number: jax.Array,
) -> tuple[Any, None]:
    params, opt_state, sent = state
    worker, key = jax.lax.axis_index(AXIS), jax.random.fold_in(root, 1 + number)
    count = (training.classes >= 0).sum()
    drawn = jax.random.randint(jax.random.fold_in(key, worker), (sizes.batch,), 0, count)
    inputs, classes = _inputs(sizes, training.features[drawn]), training.classes[drawn]

    def loss_of(params: Any) -> jax.Array:
        logits = jnp.asarray(model.apply(params, inputs))
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    loss, gradient = jax.value_and_grad(loss_of)(params)
    flat, as_params = ravel_pytree(gradient)
    weights = _weights(sizes, way, opt_state)
    if way.shares == "all":
        own, lengths = weights[worker] * flat, jnp.full(sizes.workers, flat.size)
    else:
        shares = weights if way.shares == "pi" else jnp.full(sizes.workers, 1 / sizes.workers)
        shift_key, offset_key = jax.random.split(key)
        positions = (order + jax.random.randint(shift_key, (), 0, flat.size)) % flat.size
        ends = compression.edges(shares, flat.size, jax.random.uniform(offset_key))
        factor = 1.0 if way.shares == "pi" else weights[worker] / shares[worker]
        own, lengths = compression.piece(flat, positions, worker, ends, jnp.float32(factor)), jnp.diff(ends)
    total = as_params(jax.lax.psum(own, AXIS))
    losses = jax.lax.all_gather(loss, AXIS)
    updates, opt_state = tx.update(total, opt_state, params, losses=losses, groups=jnp.arange(sizes.workers))
    sent = sent + lengths + int(way.optimizer == "also")  # its loss
    return (optax.apply_updates(params, updates), opt_state, sent), None


def _measured(sizes: Sizes, model: MLP, params: Any, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """Share of right answers and mean cross-entropy by class, each ``[C]``, over the examples of all workers."""
    logits = jnp.asarray(model.apply(params, _inputs(sizes, examples.features)))
    is_class = jax.nn.one_hot(examples.classes, sizes.num_classes)  # of padding all zeros
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(examples.classes, 0))
    counted = jnp.stack([is_class.sum(0), (logits.argmax(1) == examples.classes) @ is_class, losses @ is_class])
    count, right, loss = jax.lax.psum(counted, AXIS)
    return right / jnp.maximum(count, 1), loss / jnp.maximum(count, 1)
