"""RGD where its paper (arXiv 2306.09222) has it too: over the tasks of MAML, and in a vision transformer.

A task is what the rule weighs: sinusoids, and few-shot classification of images whose classes were not seen before.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import comparison, metrics, plots, statistics, tables
from benchmarks import data as datasets
from benchmarks.comparison import Data, Problem
from benchmarks.data.domains import halved
from benchmarks.data.tasks import few_shot, sinusoids
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.maml import Maml, Points, Ways
from benchmarks.methods import METHODS
from benchmarks.networks import MLP, ViT
from benchmarks.search import Budget
from benchmarks.training import Pool, Task, training_set

NAMES = ("adamw", "rgd", "cvar")
SINUSOIDS, IMAGES, VIT = "sinusoids", "images", "ViT"
WAYS = 5
QUERY = {SINUSOIDS: 10, IMAGES: 5}
"""Points of a task's query, or images of each class."""
INNER: dict[str, tuple[float, int]] = {SINUSOIDS: (0.01, 1), IMAGES: (0.3, 3)}
"""Rate and number of the inner steps."""
HELD_OUT = 5
"""One image in so many is for validation's tasks, of the classes of training."""
WORST = 0.9
"""The quantile of the tasks' errors that is called the worst."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: names of the data sets whose classes make tasks; the last is also the transformer's.
      per_class: images of each class for tasks.
      point_shots: of the sinusoids.
      image_shots: of the images.
      tasks: for training, validation and test, of the images; the sinusoids have five times as many.
      task_batch: tasks a step, of the images and of the sinusoids.
      task_steps: of the optimizer, of the images and of the sinusoids.
      images: of each class, for the transformer.
      patch: of the transformer.
      blocks: of the transformer.
      batch: of the transformer.
      steps: of the transformer; 0 is no transformer.
      rounds: of tuning; the transformer has two at most.
      trials: a round.
      tuning_seeds: that a trial's score is the mean over; the transformer has one.
      seeds: of the final runs.
      vit_trials: a round of the transformer.
      vit_seeds: of the transformer.
      methods: names in `METHODS`; the transformer has no CVaR.
      version: raised when results are no longer comparable.
    """

    data: tuple[str, ...] = ("mnist-5k", "fashion-mnist")
    per_class: int = 400
    point_shots: tuple[int, ...] = (5, 10)
    image_shots: tuple[int, ...] = (1, 5)
    tasks: tuple[int, int, int] = (2000, 200, 500)
    task_batch: tuple[int, int] = (4, 25)
    task_steps: tuple[int, int] = (600, 3000)
    images: int = 600
    patch: int = 7
    blocks: int = 2
    batch: int = 64
    steps: int = 600
    rounds: int = 3
    trials: int = 4
    tuning_seeds: int = 2
    seeds: int = 8
    vit_trials: int = 5
    vit_seeds: int = 5
    methods: tuple[str, ...] = NAMES
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol(
        ("mnist-5k", "digits"),
        per_class=100,
        point_shots=(10,),
        image_shots=(1,),
        tasks=(400, 50, 200),
        task_steps=(200, 1000),
        images=100,
        patch=4,
        batch=32,
        steps=200,
        rounds=2,
        trials=5,
        tuning_seeds=1,
        seeds=5,
    ),
    "smoke": Protocol(
        ("digits",),
        per_class=60,
        point_shots=(),
        image_shots=(1,),
        tasks=(20, 10, 20),
        task_batch=(2, 4),
        task_steps=(10, 10),
        images=20,
        patch=4,
        blocks=1,
        batch=16,
        steps=10,
        rounds=1,
        trials=2,
        tuning_seeds=1,
        seeds=2,
        vit_trials=2,
        vit_seeds=2,
        methods=("adamw", "rgd"),
    ),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    methods = {name: METHODS[name] for name in protocol.methods}
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    problems = []
    for name, kind in kinds(protocol).items():
        of_points = isinstance(kind, Points)
        rate, inner = INNER[SINUSOIDS if of_points else IMAGES]
        network = MLP(1, (40, 40)) if of_points else MLP(WAYS, (64,))
        batch, steps = protocol.task_batch[of_points], protocol.task_steps[of_points]
        task = Task(Maml(network, kind, rate, inner), steps, batch, checks=10, loss=kind.outer)
        data = functools.partial(_tasks, protocol, kind)
        problems.append(Problem(name, task, data, name, budget, methods, {"network": "mlp", "inner": [rate, inner]}))
    if protocol.steps:
        few = Budget(min(2, protocol.rounds), protocol.vit_trials, 1, protocol.vit_seeds)
        task = Task(ViT(10, protocol.patch, blocks=protocol.blocks), protocol.steps, protocol.batch, checks=10)
        two = {name: method for name, method in methods.items() if name != "cvar"}
        data = functools.partial(_vit, protocol)
        problems.append(Problem(VIT, task, data, VIT, few, two, {"network": "vit", "patch": protocol.patch}))
    for problem in problems:  # one after another: tuning and final runs of a method share what is compiled
        yield from comparison.jobs([problem])


def kinds(protocol: Protocol) -> dict[str, Points | Ways]:
    """The problems that are made of tasks."""
    shots = {f"{SINUSOIDS}, {k} shots": Points(k) for k in protocol.point_shots}
    return shots | {f"{IMAGES}, {k} shot{'s' * (k > 1)}": Ways(k, WAYS) for k in protocol.image_shots}


def _tasks(protocol: Protocol, kind: Points | Ways, seeds: tuple[int, ...]) -> Data:
    return _points(protocol, kind, seeds) if isinstance(kind, Points) else _images(protocol, kind, seeds)


def _points(protocol: Protocol, kind: Points, seeds: tuple[int, ...]) -> Data:
    counts = 5 * np.array(protocol.tasks)
    points = kind.shots + QUERY[SINUSOIDS]
    tasks = np.concatenate([sinusoids(counts.sum(), points, np.random.default_rng(seed)) for seed in seeds])
    pool = Pool(jnp.asarray(_padded(tasks, protocol.seeds * counts.sum())), jnp.float32(1))
    return _of_tasks(pool, kind, counts, len(seeds), "Sinusoids", {})


def _images(protocol: Protocol, kind: Ways, seeds: tuple[int, ...]) -> Data:
    features, classes, source = images_of(protocol)
    each = kind.shots + QUERY[IMAGES]
    found = [_few_shot_tasks(protocol, classes, each, np.random.default_rng(seed)) for seed in seeds]
    members = _padded(np.concatenate(found), protocol.seeds * sum(protocol.tasks))
    pool = Pool(jnp.asarray(features), jnp.float32(255), jnp.asarray(members))
    return _of_tasks(pool, kind, np.array(protocol.tasks), len(seeds), source, {"classes": int(classes.max()) + 1})


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Zeros after `rows` up to `size`: tuning and final runs then share what is compiled."""
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def images_of(protocol: Protocol) -> tuple[np.ndarray, np.ndarray, str]:
    """Small images ``[N, h, w]`` of 0 to 255 with their classes, a data set's after another's, and their source."""
    features, classes = [], []
    loaded = [datasets.load(name) for name in protocol.data]
    for number, dataset in enumerate(loaded):
        side = int(np.sqrt(dataset.features[0].size))
        rows = np.concatenate([np.flatnonzero(dataset.classes == c)[: protocol.per_class] for c in range(10)])
        images = dataset.features[rows].reshape(-1, side, side) * (255 / dataset.scale)
        small = halved(images) if side > 14 else np.pad(images, ((0, 0), (3, 3), (3, 3)))
        features.append(small.astype(np.uint8))
        classes.append(dataset.classes[rows] + 10 * number)
    return np.concatenate(features), np.concatenate(classes), " and ".join(dataset.source for dataset in loaded)


def _few_shot_tasks(protocol: Protocol, classes: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Tasks for training, validation and test: of half of the classes, of other images of these, of the other half."""
    shuffled = rng.permutation(np.unique(classes))
    known, new = np.split(shuffled, [len(shuffled) // 2])
    held_out = rng.permutation(len(classes)) % HELD_OUT == 0
    parts = zip(
        protocol.tasks,
        (np.where(held_out, -1, classes), np.where(held_out, classes, -1), classes),
        (known, known, new),
        strict=True,
    )
    return np.concatenate([few_shot(allowed, of, count, ways=WAYS, each=each, rng=rng) for count, allowed, of in parts])


def _of_tasks(
    pool: Pool, kind: Points | Ways, counts: np.ndarray, seeds: int, source: str, facts: dict[str, Any]
) -> Data:
    """Each seed's tasks lie together in the pool: for training, validation and test."""
    first = np.arange(seeds) * counts.sum()
    training, validation, test = (
        first[:, None] + np.arange(start, start + count)
        for start, count in zip(np.cumsum(counts) - counts, counts, strict=True)
    )
    nothing = np.zeros(counts[0], int)

    def measure(s: int, outputs: np.ndarray) -> dict[str, Any]:
        errors = kind.errors(outputs)
        worst = np.quantile(errors, WORST)
        return {
            "mean_error": float(errors.mean()),
            "worst_error": float(worst),
            "finite": bool(np.isfinite(outputs).all()),
        }

    return Data(
        pool,
        [training_set(rows, nothing, size=len(rows), num_classes=1) for rows in training],
        validation,
        test,
        lambda s, outputs: -float(kind.errors(outputs).mean()),
        measure,
        {"source": source, "tasks": counts.tolist(), **facts},
    )


def _vit(protocol: Protocol, seeds: tuple[int, ...]) -> Data:
    dataset = datasets.load(protocol.data[-1])
    side = int(np.sqrt(dataset.features[0].size))
    features = dataset.features.reshape(-1, side, side, 1)
    splits = [split(dataset, protocol.images, seed) for seed in seeds]
    training, validation, test = (np.stack(part) for part in zip(*splits, strict=True))

    def measure(s: int, outputs: np.ndarray) -> dict[str, Any]:
        found = metrics.of_classes(dataset.classes[test[s]], outputs)
        return {"mean_error": 1 - found["accuracy"], "worst_error": 1 - found["worst_class"], "finite": found["finite"]}

    return Data(
        Pool(jnp.asarray(features), jnp.float32(dataset.scale)),
        [training_set(rows, dataset.classes[rows], size=len(rows), num_classes=10) for rows in training],
        validation,
        test,
        lambda s, outputs: metrics.accuracy_score(dataset.classes[validation[s]], outputs),
        measure,
        {"source": dataset.source, "train_size": training.shape[1], "test_size": test.shape[1]},
    )


def split(dataset: datasets.Dataset, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, a fifth as many for validation, and test: the official one, or some 30 of each class."""
    rng = np.random.default_rng(seed)
    training, validation, test = [], [], []
    for c in np.unique(dataset.classes):
        rows = rng.permutation(np.flatnonzero(dataset.classes == c))
        if dataset.test_only is None:
            held, rest = np.split(rows, [30])
        else:
            held, rest = rows[dataset.test_only[rows]], rows[~dataset.test_only[rows]]
        test.append(held)
        validation.append(rest[: per_class // 5])
        training.append(rest[per_class // 5 : per_class // 5 + per_class])
    return np.concatenate(training), np.concatenate(validation), np.concatenate(test)


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    protocol = lines.iloc[-1]["protocol"]
    finals = comparison.finals(lines, NAMES)
    regression, others = families(finals)
    shown = {}
    for about, of_family, cell, scale in (
        ("squared error", regression, tables.plain, 1.0),
        ("error, %", others, tables.percent, 100.0),
    ):
        worst = "of the task at the 90 % quantile" + (", or of the worst class" if of_family is others else "")
        for metric, which in (("mean_error", "mean"), ("worst_error", worst)):
            shown[f"{about.capitalize()}, {which}"] = tables.scores(of_family, metric, cell)
            unit = "points" if of_family is others else ""
            shown[f"{about.capitalize()}, {which}, minus adamw's {unit}".strip()] = tables.gains(
                of_family, metric, "adamw", scale
            )
    shown |= {
        "Methods": tables.rows_of(METHODS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    (point_rate, point_steps), (image_rate, image_steps) = INNER[SINUSOIDS], INNER[IMAGES]
    sources = tables.listed(finals[finals["problem"].str.startswith(IMAGES)]["source"].unique())
    vit = finals[finals["problem"] == VIT]
    return Page(
        intro=(
            "**MAML**, second order; the rule weighs the tasks of a step by their outer losses. The inner steps are "
            f"plain gradient steps: {point_steps} of rate {point_rate:g} on sinusoids, {image_steps} of rate "
            f"{image_rate:g} on images. Sinusoids of random amplitude and phase, as in MAML's paper, MLP of 40-40. "
            f"Images: {sources}, at half the resolution (8x8 digits are padded to 14x14), MLP of 64. Omniglot and "
            f"miniImageNet are in no package: {WAYS}-way tasks are made of half of these classes, drawn by the seed; "
            "validation has other images of the same classes, and the test the other half of the classes, never seen. "
            f"{_counts(finals)}",
            *(
                f"**Transformer**: patches of {protocol['patch']}, width 64, {protocol['blocks']} blocks, on "
                f"{row['train_size']:.0f} images ({row['source']}), not pretrained; RGD's paper has ViT-S on ImageNet."
                for _, row in vit[:1].iterrows()
            ),
            comparison.budget_of(lines),
            "Errors: lower is better. * is a paired t-test over seeds, Holm-corrected within a column, below .05.",
        ),
        findings=findings(finals),
        tables=shown,
        draw=functools.partial(draw, finals),
    )


def families(finals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The problems whose error is squared, and those whose error is a share."""
    squared = finals["problem"].str.startswith(SINUSOIDS)
    regression, others = finals[squared].copy(), finals[~squared].copy()
    for part in (regression, others):
        part["problem"] = part["problem"].cat.remove_unused_categories()
    return regression, others


def _counts(finals: pd.DataFrame) -> str:
    of_tasks = finals[finals["problem"] != VIT].drop_duplicates("problem")
    parts = [
        f"{problem}: {' + '.join(f'{count:.0f}' for count in tasks)}"
        for problem, tasks in zip(of_tasks["problem"], of_tasks["tasks"], strict=True)
    ]
    return f"Tasks for training, validation and test: {'; '.join(parts)}."


def findings(finals: pd.DataFrame) -> list[str]:
    """Whether weighing tasks or images helps, in the mean and for the worst."""
    found = []
    for name in [name for name in NAMES if name != "adamw" and name in set(finals["method"])]:
        for metric, which in (("mean_error", "mean error"), ("worst_error", "error of the worst")):
            rows = statistics.differences(finals, metric, "adamw").loc[name]
            sure = rows["p"] < statistics.LEVEL
            kinds = {
                "lower at": rows.index[sure & (rows["mean"] < 0)],
                "higher at": rows.index[sure & (rows["mean"] > 0)],
                "no difference shown at": rows.index[~sure],
            }
            parts = "; ".join(f"{kind} {', '.join(at)}" for kind, at in kinds.items() if len(at))
            found.append(f"{name} against adamw, {which}: {parts}.")
    claim = statistics.differences(finals, "mean_error", "adamw")
    if "rgd" in claim.index.unique("method"):
        rows = claim.loc["rgd"]
        holds = rows.index[(rows["p"] < statistics.LEVEL) & (rows["mean"] < 0)]
        found.append(
            f"RGD's claim, a lower mean error than the same optimizer's without it, reproduces at {len(holds)} of "
            f"{len(rows)} problems" + (f": {', '.join(holds)}." if len(holds) else ".")
        )
    return found


def draw(finals: pd.DataFrame, file: Path) -> None:
    """Mean and worst errors."""
    protocol = finals.iloc[0]["protocol"]
    title = f"RGD over tasks and in a transformer, {protocol['seeds']} seeds"
    regression, others = families(finals)
    panels = [
        (regression, "mean_error", 1.0, "squared error, mean of the tasks"),
        (regression, "worst_error", 1.0, "squared error, 90 % quantile of the tasks"),
        (others, "mean_error", 100.0, "error, mean, %"),
        (others, "worst_error", 100.0, "error, 90 % quantile of the tasks, or worst class, %"),
    ]
    shown = [panel for panel in panels if len(panel[0])]
    with plots.picture(file, title, ncols=len(shown), figsize=(5 * len(shown), 4.5), squeeze=False) as (_, axes):
        for ax, (of_family, metric, scale, label) in zip(axes[0], shown, strict=True):
            plots.dots(ax, of_family, metric, scale=scale, label=label)
            ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))


EXPERIMENT = Experiment(
    "Tasks and a transformer", "RGD over MAML's tasks and in a vision transformer", PROTOCOLS, jobs, page
)
