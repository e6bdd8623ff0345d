"""Trains a whole sweep as one compiled function: vmap over runs and settings, scan over steps.

A *run* is a training set with a seed; every run is trained at every setting of the method's grid. All settings of a run
see the same initial weights and the same batches, and so do all methods that draw alike.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import also_optax
from benchmarks.methods import Method, Setting, TrainingSet

EVALUATION_BATCH = 100


class Pool(NamedTuple):
    """All images, on the device once for all runs.

    Attributes:
      features: ``[N, ...]``, uint8.
      scale: what to divide them by.
      targets: 0 or 1, ``[N]``.
    """

    features: jax.Array
    scale: jax.Array
    targets: jax.Array

    def images(self, rows: jax.Array) -> jax.Array:
        """The images of `rows`, scaled to [0, 1]."""
        return self.features[rows].astype(jnp.float32) / self.scale


class Task(NamedTuple):
    """What is trained; all static.

    Attributes:
      model: images in, one logit out.
      batch_size: B.
      steps: how many.
      chunk: steps per call of the compiled function; divides `steps`.
    """

    model: nn.Module
    batch_size: int
    steps: int
    chunk: int

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """The model's answers, ``[B]``."""
        return jnp.asarray(self.model.apply(params, images))

    def losses(self, params: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
        """Cross-entropies of a batch, ``[B]``."""
        return optax.sigmoid_binary_cross_entropy(self.logits(params, images), targets)


class Trained(NamedTuple):
    """What came of a sweep of R runs and H settings.

    Attributes:
      params: leaves ``[R, H, ...]``.
      class_weights: mean weight of an example of each class over each chunk, relative to the mean over the training
        set and counting how often it is drawn, ``[chunks, R, H, C]``; NaN where none was drawn or all weights are 0.
      seconds: of training, without compiling.
      compile_seconds: of compiling.
    """

    params: Any
    class_weights: np.ndarray
    seconds: float
    compile_seconds: float


def train(
    task: Task,
    method: Method,
    pool: Pool,
    training_sets: TrainingSet,
    seeds: np.ndarray,
    on_chunk: Callable[[], None] = lambda: None,
) -> Trained:
    """Trains all runs at all settings of `method`.

    Args:
      task: what is trained.
      method: how.
      pool: on what.
      training_sets: with a leading axis of runs, ``[R, ...]``.
      seeds: of each run, ``[R]``; decides the initial weights and the batches.
      on_chunk: called after each chunk, for a progress bar.
    """
    settings = {name: jnp.array([setting[name] for setting in method.grid]) for name in method.grid[0]}
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    init_keys, batch_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

    started = time.perf_counter()
    start = jax.jit(jax.vmap(jax.vmap(functools.partial(_start, method), (None, None, 0)), (0, 0, None)))
    state = start(_initial_params(task, pool, init_keys, training_sets.rows[:, :1]), training_sets, settings)
    advance = jax.jit(
        jax.vmap(functools.partial(_advance, task, method), in_axes=(0, None, 0, 0, None, None)), donate_argnums=0
    )
    compiled = advance.lower(state, pool, batch_keys, training_sets, jnp.int32(0), settings).compile()
    compile_seconds = time.perf_counter() - started

    started = time.perf_counter()
    sums, counts = [], []
    for first_step in range(0, task.steps, task.chunk):
        state, (chunk_sums, chunk_counts) = compiled(
            state, pool, batch_keys, training_sets, jnp.int32(first_step), settings
        )
        sums.append(np.asarray(chunk_sums))
        counts.append(np.asarray(chunk_counts))
        on_chunk()
    params, _ = state
    seconds = time.perf_counter() - started
    class_weights = _relative_weights(method, np.stack(sums), np.stack(counts), np.asarray(training_sets.class_counts))
    return Trained(params, class_weights, seconds, compile_seconds)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(task: Task, pool: Pool, params: Any, rows: jax.Array) -> jax.Array:
    """Logits ``[R, H, m]`` of `rows`, ``[R, m]``, by models with leaves ``[R, H, ...]``."""

    def of_run(params: Any, rows: jax.Array) -> jax.Array:
        def of_row(row: jax.Array) -> jax.Array:
            return jax.vmap(task.logits, in_axes=(0, None))(params, pool.images(row[None]))[:, 0]

        return jax.lax.map(of_row, rows, batch_size=EVALUATION_BATCH).T

    return jax.vmap(of_run)(params, rows)


@functools.partial(jax.jit, static_argnums=0)
def _initial_params(task: Task, pool: Pool, keys: jax.Array, rows: jax.Array) -> Any:
    """Parameters for each of the `keys`; `rows` are any images, for their shape."""
    return jax.vmap(lambda key, row: task.model.init(key, pool.images(row)))(keys, rows)


def _start(method: Method, params: Any, training_set: TrainingSet, setting: Setting) -> Any:
    return params, method.build(setting, training_set).init(params)


def _advance(
    task: Task,
    method: Method,
    states: Any,
    pool: Pool,
    key: jax.Array,
    training_set: TrainingSet,
    first_step: jax.Array,
    settings: Setting,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """A chunk of steps of one run at all settings; and of what it drew, by class, weights ``[H, C]`` and count."""

    def step(states: Any, number: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        indices = _draw(task, method, jax.random.fold_in(key, number), training_set)
        rows = training_set.rows[indices]
        images, targets = pool.images(rows), pool.targets[rows]
        classes = training_set.classes[indices]

        def at_setting(state: Any, setting: Setting) -> tuple[Any, jax.Array]:
            tx = optax.with_extra_args_support(method.build(setting, training_set))
            params, opt_state = state
            if method.fixed_weights is None:
                groups = None if method.groups is None else method.groups(indices, classes)
                loss_and_grad = also_optax.value_and_grad(task.losses)
                (_, rw), gradient = loss_and_grad(params, opt_state, images, targets, groups=groups)
                weights, extra_args = rw.weights, rw.extra_args
            else:
                weights, extra_args = method.fixed_weights(training_set)[classes], {}
                gradient = jax.grad(lambda p: jnp.mean(weights * task.losses(p, images, targets)))(params)
            updates, opt_state = tx.update(gradient, opt_state, params, **extra_args)
            return (optax.apply_updates(params, updates), opt_state), weights

        states, weights = jax.vmap(at_setting)(states, settings)
        is_class = jax.nn.one_hot(classes, len(training_set.class_counts))
        return states, (weights @ is_class, is_class.sum(0))

    states, (sums, counts) = jax.lax.scan(step, states, first_step + jnp.arange(task.chunk))
    return states, (sums.sum(0), counts.sum(0))


def _draw(task: Task, method: Method, key: jax.Array, training_set: TrainingSet) -> jax.Array:
    """Indices of a batch, with replacement; never padding."""
    counts = training_set.class_counts
    if not method.balanced_draws:
        return jax.random.randint(key, (task.batch_size,), 0, counts.sum())
    class_key, key = jax.random.split(key)
    drawn = jax.random.randint(class_key, (task.batch_size,), 0, len(counts))
    first = jnp.cumsum(counts) - counts
    return first[drawn] + jax.random.randint(key, (task.batch_size,), 0, counts[drawn])


def _relative_weights(method: Method, sums: np.ndarray, counts: np.ndarray, class_counts: np.ndarray) -> np.ndarray:
    """`Trained.class_weights` from sums ``[chunks, R, H, C]`` and counts ``[chunks, R, C]`` of what was drawn."""
    drawn = counts[:, :, None, :]
    means = np.divide(sums, drawn, out=np.full_like(sums, np.nan), where=drawn > 0)
    frequencies = (class_counts / class_counts.sum(-1, keepdims=True))[:, None, :]
    if method.balanced_draws:
        means = means / (class_counts.shape[-1] * frequencies)
    with np.errstate(invalid="ignore"):
        return means / np.sum(frequencies * means, axis=-1, keepdims=True)
