"""Ten classes of unequal size: four losses, each by SGD and by ABSGD (arXiv 2012.06951, the experiments on imbalance).

Classes are thinned exponentially ("lt", a long tail) or half of them alike ("step"); which classes are rare is drawn
anew with every seed. ABSGD has the paper's two stages: plain training for four fifths of the steps, then its weights,
as the learning rate falls. Validation is thinned like the training set, which is what a user would have; the test set
is balanced.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import also_optax
from also_optax import losses
from benchmarks import comparison, metrics, plots, splits, tables
from benchmarks import data as datasets
from benchmarks.comparison import Data, Problem
from benchmarks.data.images import runs_together
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import ABSGD, METHODS, SGD, sgd
from benchmarks.networks import MLP
from benchmarks.search import Budget
from benchmarks.training import Method, Pool, Task, TrainingSet, cross_entropy, staircase, training_set
from benchmarks.tuning import Range, Setting

SWITCH = 0.8
"""The fraction of the steps after which the second stage begins, with the first fall of the learning rate."""
SHARE = f"{100 * SWITCH:.0f} %"
LOSSES = ("ce", "focal", "cb", "ldam")
ADAPTIVE = ("adamw", "adamw-prior", "logit-adjustment", "also-classes", "also-examples", "rgd")
"""Rows of other experiments, over AdamW."""
NAMES = (*(f"{loss}-{by}" for loss in LOSSES for by in ("sgd", "absgd")), "ce-absgd-frozen", *ADAPTIVE)
PAIRS = tuple((f"{loss}-absgd", f"{loss}-sgd") for loss in LOSSES)
"""The paper's claim: with each loss the first is better than the second."""
FROZEN = (("ce-absgd-frozen", "ce-absgd"),)
METRIC = "balanced_accuracy"


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set.
      ratios: of the largest class to the smallest, for both kinds; methods are tuned at the last one of each kind.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs; each decides which classes are rare, split, initial weights and batches.
      steps: of the optimizer.
      batch: its size.
      per_class: images of the largest class, for training and validation.
      methods: of `NAMES`; all where empty.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    ratios: tuple[int, ...] = (10, 100)
    rounds: int = 4
    trials: int = 5
    tuning_seeds: int = 2
    seeds: int = 10
    steps: int = 1500
    batch: int = 128
    per_class: int = 5000
    methods: tuple[str, ...] = ()
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", (5, 20), 2, 4, 2, 8, 300, 64, 120),
    "smoke": Protocol("digits", (5,), 1, 2, 1, 2, 20, 32, 60, ("ce-sgd", "ce-absgd", "ldam-absgd")),
}


def focal(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """The focal loss."""
    return losses.softmax_focal_loss(logits, targets, setting["focus"])


def ldam(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """LDAM with a scale of 1, because the last layer is linear and its inputs are not normalised."""
    return losses.ldam_loss(logits, targets, training_set.class_counts, setting["max_margin"], scale=1.0)


def effective_numbers(training_set: TrainingSet) -> jax.Array:
    """Weights of classes by their effective number of examples."""
    return losses.class_balanced_weights(training_set.class_counts)


LOSS_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "ce": {"loss": cross_entropy},
    "focal": {"loss": focal},
    "cb": {"loss": cross_entropy, "class_weights": effective_numbers},
    "ldam": {"loss": ldam, "class_weights": effective_numbers, "deferred": SWITCH},
}
LOSS_SPACES = {
    "ce": {},
    "focal": {"focus": Range(0.5, 3.0, log=False)},
    "cb": {},
    "ldam": {"max_margin": Range(0.1, 10.0)},
}
LOSS_ABOUT = {
    "ce": "cross-entropy",
    "focal": "focal loss",
    "cb": "cross-entropy, class-balanced by effective numbers (beta .9999)",
    "ldam": f"LDAM, class-balanced weights after {SHARE} of the steps",
}


def rows(steps: int) -> dict[str, Method]:
    """All methods, for runs of so many steps, on which the stages depend."""
    absgd = functools.partial(absgd_in_two_stages, round(SWITCH * steps))
    found = {}
    for loss in LOSSES:
        about, space, arguments = LOSS_ABOUT[loss], LOSS_SPACES[loss], LOSS_ARGUMENTS[loss]
        found[f"{loss}-sgd"] = Method(f"SGD: {about}", {**SGD, **space}, sgd, robust=False, **arguments)
        found[f"{loss}-absgd"] = Method(f"ABSGD: {about}", {**SGD, **ABSGD, **space}, absgd, **arguments)
    frozen = functools.partial(absgd, freeze=True)
    about = "ABSGD: cross-entropy; in the second stage only the last layer moves"
    return found | {"ce-absgd-frozen": Method(about, {**SGD, **ABSGD}, frozen)} | {k: METHODS[k] for k in ADAPTIVE}


def absgd_in_two_stages(
    switch: int, setting: dict[str, Any], training_set: TrainingSet, *, freeze: bool = False
) -> optax.GradientTransformation:
    """SGD with momentum .9 up to step `switch`, from there ABSGD.

    Args:
      switch: between the stages.
      setting: temperature, averaging rate, learning rate (a schedule) and weight decay; what else it has is the loss's.
      training_set: not looked at.
      freeze: whether all layers but the last stay where they are from `switch` on.
    """
    stages = [optax.constant_schedule(jnp.inf), optax.constant_schedule(setting["temperature"])]
    rule = also_optax.reweight_by_absgd(optax.join_schedules(stages, [switch]), setting["averaging_rate"])
    if not freeze:
        return optax.chain(rule, sgd(setting, training_set))
    until_switch = optax.join_schedules([setting["learning_rate"], optax.constant_schedule(0.0)], [switch])
    layers = {
        "last": sgd(setting, training_set),
        "lower": sgd({**setting, "learning_rate": until_switch}, training_set),
    }
    return optax.chain(rule, optax.partition(layers, last_and_lower))


def last_and_lower(params: Any) -> Any:
    """A label for each layer of a Flax network whose dense layers are numbered."""
    layers = params["params"]
    return {"params": {name: "last" if name == max(layers) else "lower" for name in layers}}


def class_counts(kind: str, ratio: int, largest: int, num_classes: int) -> np.ndarray:
    """Images of each class, from the most frequent to the rarest, at least two.

    Args:
      kind: "lt", falling exponentially, or "step", the second half of the classes thinned alike.
      ratio: of the largest to the smallest.
      largest: class.
      num_classes: how many.
    """
    places = np.arange(num_classes)
    exponents = places / (num_classes - 1) if kind == "lt" else (places >= num_classes // 2).astype(float)
    return np.maximum(2, np.round(largest * float(ratio) ** -exponents)).astype(int)


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    together = runs_together(protocol.data)
    task = Task(MLP(10), protocol.steps, protocol.batch, checks=10, shape=staircase, together=together)
    every = rows(protocol.steps)
    methods = {name: every[name] for name in protocol.methods or NAMES}
    problems = [
        Problem(
            f"{kind} {ratio}",
            task,
            functools.partial(_data, protocol, kind, ratio),
            f"{kind} {protocol.ratios[-1]}",
            budget,
            methods,
            {"network": "mlp"},
        )
        for kind in ("lt", "step")
        for ratio in protocol.ratios
    ]
    return comparison.jobs(problems)


def _data(protocol: Protocol, kind: str, ratio: int, seeds: tuple[int, ...]) -> Data:
    dataset = datasets.load(protocol.data)
    classes, num_classes = dataset.classes, int(dataset.classes.max()) + 1
    counts = class_counts(kind, ratio, protocol.per_class, num_classes)
    parts = [split(dataset, counts, seed) for seed in seeds]
    training, validation, test = (list(part) for part in zip(*parts, strict=True))
    size = _largest_training_set(protocol, num_classes)
    sets = [training_set(rows, classes[rows], size=size, num_classes=num_classes) for rows in training]
    pool = Pool(jnp.asarray(dataset.features), jnp.float32(dataset.scale))
    return Data(
        pool,
        sets,
        np.stack(validation),
        np.stack(test),
        lambda s, outputs: metrics.balanced_score(classes[validation[s]], outputs),
        lambda s, outputs: measured(classes[test[s]], outputs, sets[s].class_counts),
        {
            "source": dataset.source,
            "sizes": counts.tolist(),
            "training_size": int(sets[0].size),
            "validation_size": len(validation[0]),
            "test_size": len(test[0]),
        },
    )


def split(dataset: datasets.Dataset, counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, validation and test; `seed` draws which class has which of the `counts`.

    At the same seed the classes are in the same order for all counts, and fewer of a class are among more of it.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    kept, test = splits.by_class(dataset, int(counts.max()), rng)
    training, validation = splits.thinned(kept, counts[order])
    return training, validation, test


def _largest_training_set(protocol: Protocol, num_classes: int) -> int:
    """A size for all problems of `protocol`, so that each method is compiled once."""
    fullest = class_counts("step", min(protocol.ratios), protocol.per_class, num_classes)
    return int(np.sum(fullest - np.maximum(1, fullest // splits.VALIDATION)))


def measured(classes: np.ndarray, outputs: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """What is reported: the metrics of classes, and the mean accuracy over the rarer half of them."""
    right = outputs.argmax(1) == classes
    rare = [right[classes == c].mean() for c in rarer_half(counts)]
    found = metrics.of_classes(classes, outputs)
    return found | {"rare_half": round(float(np.mean(rare)), 6), "class_counts": np.asarray(counts).tolist()}


def rarer_half(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The classes with the fewest examples, half of all."""
    return np.argsort(counts, kind="stable")[: len(counts) // 2]


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    protocol = lines.iloc[-1]["protocol"]
    finals = comparison.finals(lines, NAMES)
    finals = finals.assign(rare_weight=[_rare_weight(line) for _, line in finals.iterrows()])
    shown = {
        "Balanced accuracy, %": tables.scores(finals, METRIC),
        "ABSGD minus SGD with the same loss, points of balanced accuracy": tables.paired_gains(finals, METRIC, PAIRS),
        "Lower layers frozen in the second stage, points of balanced accuracy": tables.paired_gains(
            finals, METRIC, FROZEN
        ),
        "Accuracy on the worst class, %": tables.scores(finals, "worst_class"),
        "Accuracy on the rarer half of the classes, %": tables.scores(finals, "rare_half"),
        "Mean weight of an example of the rarer half in the last tenth of the steps (mean of all = 1)": tables.scores(
            finals, "rare_weight", tables.plain
        ),
        "Ranks of balanced accuracy, over problems and seeds": tables.ranks(finals, METRIC, blocks=("problem", "seed")),
    }
    names = list(dict.fromkeys(finals["method"]))
    for baseline in ("ce-sgd", "adamw"):
        if baseline in names:
            title = f"Balanced accuracy minus that of {baseline}, points"
            shown[title] = tables.gains(finals, METRIC, baseline)
    shown["Methods"] = tables.rows_of(rows(protocol["steps"]), names)
    shown["Settings chosen"] = tables.chosen(finals)
    shown["Seconds a run"] = tables.seconds(finals)
    return Page(
        _intro(lines, finals, protocol),
        findings(finals),
        shown,
        functools.partial(draw, finals),
        did_not_help=did_not_help(finals),
    )


def _intro(lines: pd.DataFrame, finals: pd.DataFrame, protocol: Mapping[str, Any]) -> list[str]:
    tuned = " and ".join(f"{kind} {protocol['ratios'][-1]}" for kind in ("lt", "step"))
    sizes = finals.drop_duplicates("problem").set_index("problem")["sizes"]
    first = finals.iloc[0]
    return [
        f"{first['source']}; ten classes. Images of a class, most frequent to rarest, a fifth of them for validation: "
        + "; ".join(f"{problem}: {tables.listed(found)}" for problem, found in sizes.items())
        + f". Each seed draws anew which classes are rare. The test set ({int(first['test_size'])} images) is "
        "balanced, the validation set thinned like the training set and scored by balanced accuracy. Not here: the "
        "paper's CIFAR-10, CIFAR-100, ImageNet and GLUE, which cannot be had out of a package, and its ResNets; the "
        "network is a perceptron with one hidden layer of 128.",
        comparison.budget_of(lines, f"of {tuned}"),
        f"The learning rate of all methods is divided by 10 after {SHARE} of the steps and again after 90 %. "
        f"ABSGD is SGD with momentum .9 up to {SHARE}; then its weights begin. With each loss, SGD and ABSGD are "
        "tuned apart, so what is between them has the luck of two searches in it, and ABSGD's has two numbers more.",
        comparison.how_to_read(finals),
    ]


def _rare_weight(line: pd.Series) -> float:
    """Of the examples of the rarer half of the classes, in the last check; NaN where none was drawn."""
    rare = rarer_half(line["class_counts"])
    weights = np.array(line["class_weights"][-1], dtype=float)[rare]
    counts = np.array(line["class_counts"])[rare] * np.isfinite(weights)
    return float(np.nansum(weights * counts) / counts.sum()) if counts.any() else float("nan")


def findings(finals: pd.DataFrame) -> list[str]:
    """Whether ABSGD is above SGD with each loss, whether freezing helps it, and all methods together."""
    found = tables.paired_verdicts(finals, METRIC, PAIRS)
    found += tables.paired_verdicts(finals, METRIC, FROZEN)
    found.append(tables.ranking(finals, METRIC, blocks=("problem", "seed")))
    return found


def did_not_help(finals: pd.DataFrame) -> list[str]:
    """Rows over SGD against cross-entropy by SGD, rows over AdamW against it."""
    families = {"ce-sgd": NAMES[: -len(ADAPTIVE)], "adamw": ADAPTIVE}
    return [
        sentence
        for baseline, family in families.items()
        for sentence in tables.did_not_help(finals[finals["method"].isin(family)], METRIC, baseline)
    ]


def draw(finals: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods, and what ABSGD has over SGD with each loss."""
    protocol = finals.iloc[0]["protocol"]
    title = f"Ten classes of unequal size, {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=2, figsize=(13, 7.5), width_ratios=(1.3, 1)) as (_, (left, right)):
        plots.dots(left, finals, METRIC, label="balanced accuracy on the balanced test set, %")
        plots.gaps(right, finals, METRIC, (*PAIRS, *FROZEN), label="points of balanced accuracy")


EXPERIMENT = Experiment(
    "Long tails", "ten classes of unequal size: four losses by SGD and by ABSGD", PROTOCOLS, jobs, page
)
