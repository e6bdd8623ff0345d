"""Training under many attacks, after section 6.3 of the ALSO paper (arXiv 2508.16734): an adversary that chooses them.

A small network is trained for an epoch plainly, then under attacks: each example of a batch gets one, drawn uniformly
or by the adversary's pi. The groups are the attacks. What counts is the accuracy under the worst of them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import linen as nn

import also_optax
from benchmarks import comparison, metrics, plots, records, search, tables
from benchmarks import data as datasets
from benchmarks.attacks import ATTACKS, TOGETHER, attacked
from benchmarks.data.images import as_images, runs_together
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import ADAM, ALSO, METHODS, adamw, by_group, with_adamw
from benchmarks.networks import CNN, MLP
from benchmarks.records import Line
from benchmarks.search import Budget, Contest, Ran
from benchmarks.splits import parts_of
from benchmarks.training import Batch, Method, Pool, Runs, Task, TrainingSet, stacked, train_scored, training_set
from benchmarks.tuning import Range, Setting

COUNT = len(ATTACKS)
WORST, MEAN = "worst attack", "mean of attacks"
SHARPEST = 1e3
"""The tilt at which only the attack with the largest mean loss of a batch has a weight."""
PLAIN_RATE = 1e-3
"""The learning rate of the plain epoch."""


def also(**fixed: Any) -> Callable[[dict[str, Any], TrainingSet], optax.GradientTransformation]:
    """ALSO with a weight per attack, from a uniform prior; `fixed` says how attacks are drawn."""
    return lambda setting, training_set: also_optax.also(**setting, num_groups=COUNT, **fixed)


ROWS: dict[str, Method] = {
    "no-attacks": Method("AdamW without attacks", ADAM, adamw, robust=False),
    "uniform": Method("AdamW, attacks drawn uniformly", ADAM, adamw, robust=False),
    "also": Method("ALSO, attacks drawn uniformly and weighted", {**ADAM, **ALSO}, also(), groups=by_group),
    "also-drawn": Method("ALSO, attacks drawn by pi", {**ADAM, **ALSO}, also(group_frequencies="pi"), groups=by_group),
    "group-dro": Method(
        "Group DRO over attacks, over AdamW",
        {**ADAM, "step_size": Range(1e-4, 1e-1)},
        with_adamw(functools.partial(also_optax.reweight_by_group_dro, COUNT)),
        groups=by_group,
    ),
    "rgd": METHODS["rgd"],
    "worst": Method(
        "AdamW on the worst attack of each batch alone",
        ADAM,
        with_adamw(also_optax.reweight_by_tilted, t=SHARPEST, num_groups=COUNT),
        groups=by_group,
    ),
}
"""What is compared."""
WITH_PI = ("also", "also-drawn", "group-dro")


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set of images.
      network: "cnn" or "mlp".
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs.
      plain_steps: without attacks, from which all methods start.
      steps: of the optimizer, after those.
      checks: how often the models are scored.
      batch: its size.
      per_class: at most so many images of a class for training and validation.
      validation: images that models are scored on, under every attack.
      methods: names in `ROWS`.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    network: str = "cnn"
    rounds: int = 3
    trials: int = 6
    tuning_seeds: int = 1
    seeds: int = 6
    plain_steps: int = 375
    steps: int = 450
    checks: int = 6
    batch: int = 128
    per_class: int = 100_000
    validation: int = 500
    methods: tuple[str, ...] = tuple(ROWS)
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", "mlp", 2, 3, 2, 6, 50, 300, 6, 64, validation=250),
    "smoke": Protocol("digits", "mlp", 1, 2, 1, 2, 4, 8, 2, 32, 30, 50, ("uniform", "also-drawn")),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    model = CNN(10) if protocol.network == "cnn" else MLP(10)
    start = functools.partial(after_plain_training, model, protocol.plain_steps, protocol.batch)
    task = Task(
        model,
        protocol.steps,
        protocol.batch,
        checks=protocol.checks,
        start=start,
        together=runs_together(protocol.data),
    )
    contest = Contest(
        "attacks",
        Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds),
        {name: ROWS[name].space for name in protocol.methods},
        protocol.steps,
        {"attacks": {name: attack._asdict() for name, attack in ATTACKS.items()}},
        functools.partial(_run, protocol, task),
    )
    return search.jobs([contest])


def after_plain_training(
    model: nn.Module, steps: int, batch_size: int, params: Any, seed: jax.Array, pool: Pool, training_set: TrainingSet
) -> Any:
    """The parameters after some steps of AdamW without attacks, a function of the seed."""
    tx = optax.adamw(PLAIN_RATE)
    root = jax.random.fold_in(jax.random.key(seed), 0)

    def step(state: Any, number: jax.Array) -> tuple[Any, None]:
        params, opt_state = state
        key = jax.random.fold_in(root, number)
        drawn = jax.random.randint(key, (batch_size,), 0, training_set.size)
        images, classes = pool.inputs(training_set.rows[drawn]), training_set.targets[drawn]

        def loss_of(params: Any) -> jax.Array:
            logits = jnp.asarray(model.apply(params, images))
            return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

        updates, opt_state = tx.update(jax.grad(loss_of)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]


def under_attack(task: Task, by_pi: bool, key: jax.Array, params: Any, opt_state: Any, batch: Batch) -> Batch:
    """The batch after attacks, drawn uniformly or by pi; its groups are the attacks."""
    draw_key, image_key = jax.random.split(key)
    count = len(batch.indices)
    if by_pi:
        ids = also_optax.samplers.by_weights(draw_key, also_optax.group_weights(opt_state), count)
    else:
        ids = jax.random.randint(draw_key, (count,), 0, COUNT)
    outputs_of = functools.partial(task.outputs, params)
    return batch._replace(inputs=attacked(outputs_of, image_key, batch.inputs, batch.targets, ids), groups=ids)


@functools.lru_cache(maxsize=1)
def _loaded(name: str) -> tuple[datasets.Dataset, Pool]:
    dataset = datasets.load(name)
    return dataset, Pool(jnp.asarray(as_images(dataset.features)), jnp.float32(dataset.scale))


@functools.cache
def _task_of(task: Task, name: str) -> Task:
    """The task of a method: which attacks its batches get."""
    if name == "no-attacks":
        return task
    return task._replace(change=functools.partial(under_attack, task, name == "also-drawn"))


def _run(
    protocol: Protocol,
    task: Task,
    name: str,
    seeds: Sequence[int],
    settings: Sequence[Setting],
    on_progress: Callable[[float], None],
) -> Ran:
    dataset, pool = _loaded(protocol.data)
    classes = jnp.asarray(dataset.classes)
    parts = [parts_of(dataset, seed, per_class=protocol.per_class) for seed in seeds]
    size = len(parts[0].training)
    sets = [training_set(p.training, dataset.classes[p.training], size=size, num_classes=10) for p in parts]
    validation = np.stack([_spread(p.validation, protocol.validation) for p in parts])
    test = np.stack([p.test for p in parts])
    weights = []

    def scores_of(check: int, params: Any, opt_state: Any) -> np.ndarray:
        if name in WITH_PI:
            weights.append(np.asarray(jax.vmap(also_optax.group_weights)(opt_state)))
        return score(*under_each(task, pool, classes, params, validation))

    runs = Runs(stacked(sets), np.array(seeds), settings, validation)
    trained = train_scored(_task_of(task, name), ROWS[name], pool, runs, scores_of, on_progress)

    def lines() -> list[Line]:
        accuracies, losses = under_each(task, pool, classes, trained.params, test)
        return [
            {
                "results": {
                    WORST: {"accuracy": records.rounded(found.min())},
                    MEAN: {"accuracy": records.rounded(found.mean())},
                    **{
                        attack: {"accuracy": records.rounded(value)}
                        for attack, value in zip(ATTACKS, found, strict=True)
                    },
                },
                "finite": bool(np.isfinite(losses[r]).all()),
                "pi": records.rounded([pi[r] for pi in weights], 4) if weights else None,
                "source": dataset.source,
                "training_size": size,
                "test_size": test.shape[1],
            }
            for r, found in enumerate(accuracies)
        ]

    return Ran(trained.scores, trained.seconds, trained.compile_seconds, lines)


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly spread: they are sorted by class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def score(accuracies: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Accuracy under the worst attack, ties broken by the mean cross-entropy, ``[R]``, from ``[R, attacks]``."""
    found = accuracies.min(1) - metrics.TIE * np.minimum(losses.mean(1), metrics.LARGEST_LOGIT)
    return np.where(np.isfinite(losses).all(1), found, -np.inf)


EVALUATION_BATCH = 256


def under_each(
    task: Task, pool: Pool, classes: jax.Array, params: Any, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and cross-entropy under each attack, each ``[R, attacks]``.

    Args:
      task: the model.
      pool: of images.
      classes: of all of them, ``[N]``.
      params: leaves ``[R, ...]``; the gradients of the fast gradient sign method are their own.
      rows: of the pool, ``[R, m]``.
    """
    size = min(EVALUATION_BATCH, -(-rows.shape[1] // TOGETHER) * TOGETHER)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)), constant_values=-1)
    right, losses = _under_each(task, pool, classes, params, jnp.asarray(padded.reshape(len(rows), -1, size)))
    return np.asarray(right) / rows.shape[1], np.asarray(losses) / rows.shape[1]


@functools.partial(jax.jit, static_argnums=0)
def _under_each(
    task: Task, pool: Pool, classes: jax.Array, params: Any, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums over the rows, ``[R, batches, size]``, where they are not -1."""

    def of_batch(params: Any, attack: jax.Array, numbered: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, rows = numbered
        wanted, outputs_of = classes[rows], functools.partial(task.outputs, params)
        ids = jnp.full(rows.shape, attack)
        images = attacked(outputs_of, jax.random.fold_in(jax.random.key(0), number), pool.inputs(rows), wanted, ids)
        logits = outputs_of(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        is_row = rows >= 0
        return (is_row & (logits.argmax(1) == wanted)).sum(), jnp.where(is_row, losses, 0.0).sum()

    def of_run(run: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
        params, rows = run
        numbered = (jnp.arange(len(rows)), rows)

        def of_attack(attack: jax.Array) -> tuple[jax.Array, jax.Array]:
            right, losses = jax.lax.map(functools.partial(of_batch, params, attack), numbered)
            return right.sum(), losses.sum()

        return jax.lax.map(of_attack, jnp.arange(COUNT))

    found: tuple[jax.Array, jax.Array] = jax.lax.map(of_run, (params, rows))
    return found


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    results, finals = comparison.results(lines, list(ROWS)), comparison.finals(lines, list(ROWS))
    summary = _of(results, (WORST, MEAN))
    first, protocol = finals.iloc[0], lines.iloc[-1]["protocol"]
    shown = {
        "Accuracy over attacks, %": tables.scores(summary, "accuracy"),
        "Accuracy under each attack, %": tables.scores(_of(results, tuple(ATTACKS)), "accuracy"),
        "Accuracy minus that of uniform draws, points": tables.gains(summary, "accuracy", "uniform"),
        "Attacks": _attacks(),
        "Methods": tables.rows_of(ROWS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    return Page(
        intro=(
            f"{first['source']}: {int(first['training_size'])} for training, {int(first['test_size'])} for the test. "
            f"A small {protocol['network'].upper()} after {protocol['plain_steps']} plain steps, then "
            f"{protocol['steps']} steps in which each example gets one of {COUNT} attacks ('none' among them). These "
            "data stand in for the paper's, of which no package has the images; attacks and strengths are ours.",
            comparison.budget_of(lines, "(accuracy under the worst attack)")
            + " The fast gradient sign method is worked out for every batch, whatever its attacks, and follows the "
            "gradient of the attacked model itself, in training and in the test.",
            "'worst attack' is the smallest of a run's accuracies on the test set, one for each attack. "
            + comparison.how_to_read(finals),
        ),
        findings=findings(results, summary),
        tables=shown,
        draw=functools.partial(draw, finals, summary),
        did_not_help=tables.did_not_help(summary, "accuracy", "uniform"),
    )


def _of(results: pd.DataFrame, problems: Sequence[str]) -> pd.DataFrame:
    found = results[results["problem"].isin(problems)]
    return found.assign(problem=found["problem"].cat.remove_unused_categories())


def _attacks() -> pd.DataFrame:
    strengths = [
        ", ".join(f"{key} {value:g}" for key, value in attack._asdict().items() if value) for attack in ATTACKS.values()
    ]
    return tables.named(pd.DataFrame({"strength": strengths}, index=list(ATTACKS)), "attack")


def findings(results: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Where ALSO wins and where it does not."""
    present = set(summary["method"])
    found = []
    for name in ("also", "also-drawn"):
        if name in present:
            others = [other for other in ("uniform", "group-dro", "worst") if other in present]
            against = [tables.verdicts(summary, "accuracy", name, other) for other in others]
            found.append(f"{name} {', '.join(against)}.")
    if {"also", "also-drawn"} <= present:
        found.append(f"also-drawn {tables.verdicts(summary, 'accuracy', 'also-drawn', 'also')}.")
    by_attack = results[results["problem"].isin(list(ATTACKS)) & (results["method"] == "uniform")]
    if len(by_attack):
        hardest = by_attack.groupby("problem", observed=True)["accuracy"].mean().idxmin()
        found.append(f"The worst attack of a model trained on uniform draws is, on average, {hardest}.")
    return found


def draw(finals: pd.DataFrame, summary: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods; pi of both forms of ALSO."""
    protocol = finals.iloc[0]["protocol"]
    title = f"{COUNT} attacks on {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=3, figsize=(18, 6), width_ratios=(1.1, 1, 1)) as (_, (left, *others)):
        plots.dots(left, summary, "accuracy", label="accuracy on the test set, %", title="Accuracy over attacks")
        plots.legend_below(left, 2)
        for ax, name in zip(others, ("also", "also-drawn"), strict=True):
            pi = finals.loc[finals["method"] == name, "pi"]
            ax.set_title(f"pi of {name}", loc="left")
            if len(pi):
                mean = np.mean(np.array(pi.tolist(), dtype=float), axis=0)
                mean = np.concatenate([np.full((1, COUNT), 1 / COUNT), mean])
                at = np.arange(len(mean)) * protocol["steps"] / (len(mean) - 1)
                found = {attack: (at, mean[:, k]) for k, attack in enumerate(ATTACKS)}
                plots.curves(ax, found, x="step under attack", y="pi", title=f"pi of {name}")


EXPERIMENT = Experiment(
    "Training under attacks", "an adversary that chooses the attacks (ALSO, section 6.3)", PROTOCOLS, jobs, page
)
