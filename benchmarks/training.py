"""Trains many runs as one compiled function: one `jit`, a `scan` over steps, a `map` or `vmap` over runs.

A *run* is a training set, a seed and a setting of the method. Runs of the same seed see the same initial weights and
the same batches, whatever the method. Every so many steps the models are scored on their validation sets; each run's
answer is its best model by that score, for every method alike.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import also_optax
from benchmarks.tuning import Setting, Space

EVALUATION_BATCH = 500


class Pool(NamedTuple):
    """All examples, on the device once for all runs.

    Attributes:
      features: ``[N, ...]``, uint8 or float32.
      scale: what to divide them by.
      members: where an example is made of several features, such as a task of images: which, ``[M, k]``; its inputs
        are then ``[k, ...]``, and rows are those of `members`.
    """

    features: jax.Array
    scale: jax.Array
    members: jax.Array | None = None

    def inputs(self, rows: jax.Array) -> jax.Array:
        """The features of `rows`, float32."""
        found = self.features[rows if self.members is None else self.members[rows]]
        return found.astype(jnp.float32) / self.scale


class TrainingSet(NamedTuple):
    """One training set, padded to the size of the largest; real examples come first, sorted by class.

    Leaves are NumPy arrays until they are stacked.

    Attributes:
      rows: which rows of the pool they are, int, ``[n]``.
      targets: what is learned, ``[n]``: int classes (they may be wrong) or floats.
      classes: what examples are balanced by, int, ``[n]``; -1 where it is padding.
      groups: known groups, int, ``[n]``; -1 where it is padding.
      class_counts: int, ``[C]``.
      group_counts: int, ``[G]``.
    """

    rows: Any
    targets: Any
    classes: Any
    groups: Any
    class_counts: Any
    group_counts: Any

    @property
    def size(self) -> Any:
        """How many examples are real."""
        return self.class_counts.sum()


def training_set(
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    size: int,
    num_classes: int,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    num_groups: int = 1,
) -> TrainingSet:
    """A training set as NumPy arrays, sorted by class and padded to `size`.

    Args:
      rows: of the pool, ``[m]``.
      targets: ``[m]``.
      size: n, at least m.
      num_classes: C.
      classes: ``[m]``; None is the targets.
      groups: ``[m]``; None is one group of all.
      num_groups: G.
    """
    classes = (targets if classes is None else classes).astype(np.int32)
    groups = np.zeros_like(classes) if groups is None else groups.astype(np.int32)
    order = np.argsort(classes, kind="stable")

    def padded(values: np.ndarray, filler: int) -> np.ndarray:
        return np.concatenate([values[order], np.full(size - len(values), filler, values.dtype)])

    return TrainingSet(
        padded(rows.astype(np.int32), 0),
        padded(targets.astype(np.int32) if targets.dtype.kind in "iub" else targets.astype(np.float32), 0),
        padded(classes, -1),
        padded(groups, -1),
        np.bincount(classes, minlength=num_classes).astype(np.int32),
        np.bincount(groups, minlength=num_groups).astype(np.int32),
    )


def stacked(sets: Sequence[TrainingSet]) -> TrainingSet:
    """Training sets of one size with a leading axis of runs."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *sets)


class Batch(NamedTuple):
    """What a step draws; leaves ``[B, ...]``.

    Attributes:
      indices: positions in the training set.
      inputs: float32.
      targets: as in the training set.
      classes: as in the training set.
      groups: as in the training set.
    """

    indices: jax.Array
    inputs: jax.Array
    targets: jax.Array
    classes: jax.Array
    groups: jax.Array


Loss = Callable[[jax.Array, jax.Array, TrainingSet, Setting], jax.Array]
"""``loss(logits, targets, training_set, setting)``, ``[B]``."""


@dataclass(frozen=True, eq=False)
class Method:
    """A row of a table; equal to itself alone, so that it can be static under `jax.jit`.

    Attributes:
      about: half a sentence, for the report.
      space: what is tuned.
      build: ``build(setting, training_set)``: the optimizer, or a :class:`also_optax.contrib.Recover`. The setting's
        ``learning_rate`` is a schedule.
      robust: whether the optimizer has a rule that weighs the examples.
      groups: ``groups(batch)``, the ids that the rule is told; None for rules without ids.
      loss: instead of the task's own.
      class_weights: ``class_weights(training_set)``, ``[C]``: factors of the losses.
      deferred: the fraction of the steps before which these factors are 1.
      balanced_draws: whether batches are drawn class first, then example, instead of uniformly.
      corrects_prior: whether the logits are shifted by the log class prior of the training set after training.
    """

    about: str
    space: Space
    build: Callable[[dict[str, Any], TrainingSet], Any]
    robust: bool = True
    groups: Callable[[Batch], jax.Array] | None = None
    loss: Loss | None = None
    class_weights: Callable[[TrainingSet], jax.Array] | None = None
    deferred: float = 0.0
    balanced_draws: bool = False
    corrects_prior: bool = False


def cross_entropy(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """Softmax cross-entropy of integer targets."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def squared_error(outputs: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """The squared error of a single output."""
    return jnp.square(outputs[..., 0] - targets)


def constant(fraction: jax.Array) -> jax.Array:
    """The learning rate stays."""
    return jnp.ones_like(fraction)


def cosine(fraction: jax.Array) -> jax.Array:
    """The learning rate falls to 0 along a cosine."""
    return 0.5 * (1 + jnp.cos(jnp.pi * fraction))


def staircase(fraction: jax.Array) -> jax.Array:
    """The learning rate is divided by 10 after 80 % and again after 90 % of the steps (ABSGD: epochs 160 and 180)."""
    return jnp.where(fraction < 0.8, 1.0, jnp.where(fraction < 0.9, 0.1, 0.01))


class Model(Protocol):
    """What is asked of a model: two functions of a Flax module."""

    def init(self, key: Any, inputs: jax.Array, /) -> Any:
        """Parameters."""

    def apply(self, params: Any, inputs: jax.Array, /) -> Any:
        """Outputs ``[B, C]``."""


class Task(NamedTuple):
    """What is trained; all static.

    Attributes:
      model: inputs in, outputs ``[B, C]``.
      steps: how many.
      batch_size: B.
      checks: how often the models are scored on validation; divides `steps`.
      loss: of a method that has none of its own.
      shape: of the learning rate: a factor, from the fraction of the steps done.
      clip_norm: the global norm that gradients are clipped to; None is no clipping.
      together: how many runs are vmapped; the others wait. Many for tiny models, 1 for large ones.
      start: ``start(params, seed, pool, training_set)``: what training starts from, alike for all methods; None is the
        initial weights.
      available: ``available(step, training_set)``: how many of the training set's examples, the first of them, there
        are to be drawn from; None is all.
      change: ``change(key, params, opt_state, batch)``: what becomes of a drawn batch; None is nothing.
    """

    model: Model
    steps: int
    batch_size: int = 128
    checks: int = 20
    loss: Loss = cross_entropy
    shape: Callable[[jax.Array], jax.Array] = constant
    clip_norm: float | None = None
    together: int = 1
    start: Callable[[Any, jax.Array, Pool, TrainingSet], Any] | None = None
    available: Callable[[jax.Array, TrainingSet], jax.Array] | None = None
    change: Callable[[jax.Array, Any, Any, Batch], Batch] | None = None

    def outputs(self, params: Any, inputs: jax.Array) -> jax.Array:
        """The model's answers, ``[B, C]``."""
        return jnp.asarray(self.model.apply(params, inputs))


class Runs(NamedTuple):
    """R runs.

    Attributes:
      sets: leaves ``[R, ...]``.
      seeds: int, ``[R]``.
      settings: of each run, the same names.
      validation: rows of the pool that each run is scored on, ``[R, v]``.
    """

    sets: TrainingSet
    seeds: np.ndarray
    settings: Sequence[Setting]
    validation: np.ndarray


class Trained(NamedTuple):
    """What came of R runs.

    Attributes:
      params: each run's best by validation, leaves ``[R, ...]``.
      scores: of each run's best, ``[R]``; -inf where no score was finite.
      curves: of validation scores, ``[checks, R]``.
      class_weights: mean weight of an example of each class between checks, relative to the mean over the training set
        and counting how often it is drawn, ``[checks, R, C]``; NaN where none was drawn or all weights are 0.
      losses: mean loss of the batches and its weighted mean between checks, ``[checks, R, 2]``.
      seconds: of training, without compiling.
      compile_seconds: of compiling.
    """

    params: Any
    scores: np.ndarray
    curves: np.ndarray
    class_weights: np.ndarray
    losses: np.ndarray
    seconds: float
    compile_seconds: float


def train(
    task: Task,
    method: Method,
    pool: Pool,
    runs: Runs,
    score: Callable[[int, np.ndarray], float],
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Trained:
    """Trains all runs.

    Args:
      task: what is trained.
      method: how.
      pool: on what.
      runs: which.
      score: ``score(r, outputs)`` of run r from its outputs ``[v, C]`` on its validation rows; higher is better.
      on_progress: called with the fraction done.
    """

    def scores_of(check: int, params: Any, opt_state: Any) -> np.ndarray:
        outputs = outputs_of(task, pool, params, runs.validation)
        found = [score(r, outputs[r]) if np.isfinite(outputs[r]).all() else -np.inf for r in range(len(runs.seeds))]
        return np.array(found)

    return train_scored(task, method, pool, runs, scores_of, on_progress)


def train_scored(
    task: Task,
    method: Method,
    pool: Pool,
    runs: Runs,
    scores_of: Callable[[int, Any, Any], np.ndarray],
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Trained:
    """Trains all runs, scored by a function of the models.

    Args:
      task: what is trained.
      method: how.
      pool: on what.
      runs: which.
      scores_of: ``scores_of(check, params, opt_state)``, ``[R]``, from leaves ``[R, ...]``; higher is better. The state
        is valid until it returns.
      on_progress: called with the fraction done.
    """
    settings = {name: jnp.array([setting[name] for setting in runs.settings]) for name in runs.settings[0]}
    seeds = jnp.asarray(runs.seeds)
    state = _start(task, method, pool, runs.sets, seeds, settings)
    compiled, compile_seconds = _compile(task, method, state, pool, seeds, runs.sets, jnp.int32(0), settings)

    started = time.perf_counter()
    count = len(runs.seeds)
    best, scores = None, np.full(count, -np.inf)
    curves, sums, losses = [], [], []
    for check in range(task.checks):
        first_step = jnp.int32(check * (task.steps // task.checks))
        state, params, (by_class, by_loss) = compiled(state, pool, seeds, runs.sets, first_step, settings)
        found = scores_of(check, params, state[1])
        better = found > scores
        best = params if best is None else _where(jnp.asarray(better), params, best)
        scores = np.where(better, found, scores)
        curves.append(found)
        sums.append(np.asarray(by_class))
        losses.append(np.asarray(by_loss))
        on_progress((check + 1) / task.checks)
    seconds = time.perf_counter() - started
    weights = _relative_weights(method, np.stack(sums), np.asarray(runs.sets.class_counts))
    return Trained(best, scores, np.stack(curves), weights, np.stack(losses), seconds, compile_seconds)


_COMPILED: dict[Any, Any] = {}


def _compile(task: Task, method: Method, *arguments: Any) -> tuple[Any, float]:
    """The compiled `_advance` and the seconds that it took; the last one is kept, for runs of the same shapes.

    What was compiled for another task is dropped: a process may have some 65,000 memory maps, a program takes hundreds.
    """
    leaves, structure = jax.tree.flatten(arguments)
    key = (task, method, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    seconds = 0.0
    if key not in _COMPILED:
        if any(other != task for other, *_ in _COMPILED):
            jax.clear_caches()
        started = time.perf_counter()
        compiled = _advance.lower(task, method, *arguments).compile()
        seconds = time.perf_counter() - started
        _COMPILED.clear()
        _COMPILED[key] = compiled
    return _COMPILED[key], seconds


def outputs_of(task: Task, pool: Pool, params: Any, rows: np.ndarray) -> np.ndarray:
    """Outputs ``[R, m, C]`` on `rows`, ``[R, m]``, of models with leaves ``[R, ...]``."""
    size = min(EVALUATION_BATCH, rows.shape[1])
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
    found = _outputs(task, pool, params, jnp.asarray(padded.reshape(len(rows), -1, size)))
    return np.asarray(found)[:, : rows.shape[1]]


@functools.partial(jax.jit, static_argnums=0)
def _outputs(task: Task, pool: Pool, params: Any, rows: jax.Array) -> jax.Array:
    def of_run(run: tuple[Any, jax.Array]) -> jax.Array:
        params, rows = run
        return jax.lax.map(lambda batch: task.outputs(params, pool.inputs(batch)), rows)

    found = jax.lax.map(of_run, (params, rows))
    return found.reshape(found.shape[0], -1, found.shape[-1])


@jax.jit
def _where(chosen: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(
    task: Task, method: Method, pool: Pool, sets: TrainingSet, seeds: jax.Array, settings: dict[str, jax.Array]
) -> Any:
    def of_run(run: tuple[TrainingSet, jax.Array, dict[str, jax.Array]]) -> Any:
        training_set, seed, setting = run
        params = task.model.init(jax.random.key(seed), pool.inputs(training_set.rows[:1]))
        if task.start is not None:
            params = task.start(params, seed, pool, training_set)
        return params, _optimizer(task, method, setting, training_set).init(params)

    return jax.lax.map(of_run, (sets, seeds, settings))


def _optimizer(task: Task, method: Method, setting: dict[str, jax.Array], training_set: TrainingSet) -> Any:
    peak = setting["learning_rate"]
    tx = method.build(setting | {"learning_rate": lambda count: peak * task.shape(count / task.steps)}, training_set)
    if isinstance(tx, also_optax.contrib.Recover):
        return tx
    clip = optax.identity() if task.clip_norm is None else optax.clip_by_global_norm(task.clip_norm)
    return optax.with_extra_args_support(optax.chain(clip, tx))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _advance(
    task: Task,
    method: Method,
    states: Any,
    pool: Pool,
    seeds: jax.Array,
    sets: TrainingSet,
    first_step: jax.Array,
    settings: dict[str, jax.Array],
) -> tuple[Any, Any, tuple[jax.Array, jax.Array]]:
    """The steps between two checks; also the parameters to score, and sums over what was drawn.

    The sums are of weights and counts by class ``[R, 2, C]``, and the means of losses, plain and weighted, ``[R, 2]``.
    """

    def of_run(run: Any) -> Any:
        state, seed, training_set, setting = run
        step = functools.partial(_step, task, method, pool, seed, training_set, setting)
        state, (by_class, by_loss) = jax.lax.scan(step, state, first_step + jnp.arange(task.steps // task.checks))
        params, opt_state = state
        if not isinstance(opt_state, also_optax.contrib.RecoverState):
            params = also_optax.eval_params(opt_state, params)
        return state, jax.tree.map(jnp.copy, params), (by_class.sum(0), by_loss.mean(0))

    # A vmap of one run alone would turn its matrix products into batched ones, which use a single core.
    batch_size = task.together if task.together > 1 else None
    return jax.lax.map(of_run, (states, seeds, sets, settings), batch_size=batch_size)


def _step(
    task: Task,
    method: Method,
    pool: Pool,
    seed: jax.Array,
    training_set: TrainingSet,
    setting: dict[str, jax.Array],
    state: Any,
    number: jax.Array,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    params, opt_state = state
    key = jax.random.fold_in(jax.random.key(seed), 1 + number)
    indices = _draw(task, method, key, number, training_set)
    rows = training_set.rows[indices]
    classes = training_set.classes[indices]
    batch = Batch(indices, pool.inputs(rows), training_set.targets[indices], classes, training_set.groups[indices])
    if task.change is not None:
        batch = task.change(jax.random.fold_in(key, 1), params, opt_state, batch)
    factors = jnp.ones(task.batch_size)
    if method.class_weights is not None:
        factors = method.class_weights(training_set)[classes]
    if method.deferred:
        factors = jnp.where(number < method.deferred * task.steps, 1.0, factors)
    loss = method.loss or task.loss

    def losses_of(params: Any) -> jax.Array:
        return factors * loss(task.outputs(params, batch.inputs), batch.targets, training_set, setting)

    tx = _optimizer(task, method, setting, training_set)
    if isinstance(tx, also_optax.contrib.Recover):
        losses, weights = losses_of(params), jnp.ones(task.batch_size)
        updates, opt_state = tx.update(losses_of, opt_state, params)
    elif method.robust:
        groups = None if method.groups is None else method.groups(batch)
        (_, read), gradient = also_optax.value_and_grad(losses_of)(params, opt_state, groups=groups)
        losses, weights = read.losses, read.weights
        updates, opt_state = tx.update(gradient, opt_state, params, **read.extra_args)
    else:
        weights = jnp.ones(task.batch_size)
        gradient, losses = jax.grad(_mean_and_all(losses_of), has_aux=True)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
    is_class = jax.nn.one_hot(classes, len(training_set.class_counts))
    by_class = jnp.stack([(weights * factors) @ is_class, is_class.sum(0)])
    by_loss = jnp.stack([losses.mean(), (weights * losses).mean()])
    return (optax.apply_updates(params, updates), opt_state), (by_class, by_loss)


def _mean_and_all(losses_of: Callable[[Any], jax.Array]) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    def both(params: Any) -> tuple[jax.Array, jax.Array]:
        losses = losses_of(params)
        return losses.mean(), losses

    return both


def _draw(task: Task, method: Method, key: jax.Array, number: jax.Array, training_set: TrainingSet) -> jax.Array:
    """Indices of a batch, with replacement; never padding."""
    counts = training_set.class_counts
    if not method.balanced_draws:
        available = counts.sum() if task.available is None else task.available(number, training_set)
        return jax.random.randint(key, (task.batch_size,), 0, available)
    class_key, key = jax.random.split(key)
    drawn = jax.random.categorical(class_key, jnp.where(counts > 0, 0.0, -jnp.inf), shape=(task.batch_size,))
    first = jnp.cumsum(counts) - counts
    return first[drawn] + jax.random.randint(key, (task.batch_size,), 0, counts[drawn])


def _relative_weights(method: Method, sums: np.ndarray, class_counts: np.ndarray) -> np.ndarray:
    """`Trained.class_weights` from sums and counts of what was drawn, ``[checks, R, 2, C]``."""
    weights, drawn = sums[:, :, 0], sums[:, :, 1]
    means = np.divide(weights, drawn, out=np.full_like(weights, np.nan), where=drawn > 0)
    frequencies = class_counts / class_counts.sum(-1, keepdims=True)
    if method.balanced_draws:
        with np.errstate(divide="ignore"):
            means = means / ((class_counts > 0).sum(-1, keepdims=True) * frequencies)
    with np.errstate(invalid="ignore", divide="ignore"):
        return means / np.nansum(frequencies * means, axis=-1, keepdims=True)
