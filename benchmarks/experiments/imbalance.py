"""Class imbalance, after section 6.1 of the ALSO paper (arXiv 2508.16734): even against odd, the odd thinned.

Images of ten classes; the target is the parity of the class. In training and validation the odd classes are thinned by
a factor `uc`; the test set is balanced. The paper has CIFAR-10, which cannot be had out of a package: Fashion-MNIST is
as large and has as many classes. Validation is thinned like the training set, which is what a user would have.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import comparison, metrics, plots, splits, statistics, tables
from benchmarks import data as datasets
from benchmarks.comparison import Data, Problem
from benchmarks.data.images import as_images, runs_together
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import METHODS
from benchmarks.networks import MLP, ResNet
from benchmarks.search import Budget
from benchmarks.training import Pool, Task, training_set

NAMES = (
    "adamw",
    "adamw-prior",
    "static",
    "upsampling",
    "logit-adjustment",
    "also-examples",
    "also-lookahead",
    "also-balanced",
    "also-balanced-lookahead",
    "also-uniform",
    "also-classes",
    "also-classes-ball",
    "group-dro",
    "absgd",
    "abadam",
    "rgd",
    "cvar",
    "chi2",
    "spectral",
    "recover",
)
BASELINES = ("adamw", "adamw-prior", "static", "upsampling", "logit-adjustment")
ALSO = (
    "also-examples",
    "also-lookahead",
    "also-balanced",
    "also-balanced-lookahead",
    "also-classes",
    "also-classes-ball",
)
WATCHED = (
    *("static", "also-examples", "also-uniform", "also-classes", "group-dro"),
    *("absgd", "abadam", "rgd", "cvar", "chi2", "spectral"),
)
"""Whose weights are drawn: of the others they are constant, or as those of one of these."""
CONFIRMED = ("static", "logit-adjustment", "also-examples", "also-classes", "adamw")
"""What the ResNet runs too, at the settings of the MLP."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set.
      uc: the factors by which the odd classes are thinned.
      tuned_at: the factor that methods are tuned at.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs; each decides split, thinning, initial weights and batches, alike for all methods.
      steps: of the optimizer.
      batch: its size.
      per_class: at most so many images of each of the ten classes for training and validation, before thinning.
      methods: names in `METHODS`; all of `NAMES` where empty.
      resnet_seeds: of the ResNet; 0 is no ResNet.
      resnet_steps: of the ResNet.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    uc: tuple[int, ...] = (5, 10, 20, 50)
    tuned_at: int = 20
    rounds: int = 4
    trials: int = 5
    tuning_seeds: int = 2
    seeds: int = 10
    steps: int = 2000
    batch: int = 128
    per_class: int = 100_000
    methods: tuple[str, ...] = ()
    resnet_seeds: int = 5
    resnet_steps: int = 1000
    version: int = 3


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", (5, 20), 20, 3, 4, 2, 8, 400, 64, resnet_seeds=0),
    "smoke": Protocol(
        "digits",
        (5,),
        5,
        1,
        2,
        1,
        2,
        20,
        32,
        60,
        ("adamw", "also-examples", "recover"),
        resnet_seeds=2,
        resnet_steps=20,
    ),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    together = runs_together(protocol.data)
    task = Task(MLP(2), protocol.steps, protocol.batch, checks=10, together=together)
    methods = {name: METHODS[name] for name in protocol.methods or NAMES}
    problems = [
        Problem(
            f"uc {uc}",
            task,
            functools.partial(data_of, protocol, uc),
            f"uc {protocol.tuned_at}",
            budget,
            methods,
            {"network": "mlp"},
        )
        for uc in protocol.uc
    ]
    if protocol.resnet_seeds:
        worst = max(protocol.uc)
        resnet = Problem(
            f"uc {worst}, ResNet",
            Task(ResNet(2), protocol.resnet_steps, protocol.batch, checks=10),
            functools.partial(data_of, protocol, worst),
            f"uc {protocol.tuned_at}",
            budget._replace(seeds=protocol.resnet_seeds),
            {name: METHODS[name] for name in CONFIRMED if name in methods},
            {"network": "resnet"},
        )
        problems.append(resnet)
    return comparison.jobs(problems)


def data_of(protocol: Protocol, uc: int, seeds: tuple[int, ...]) -> Data:
    """The data at one factor, for each seed."""
    dataset = datasets.load(protocol.data)
    parity = dataset.classes % 2
    splits = [split(dataset, protocol, uc, seed) for seed in seeds]
    rows, validation, test = (list(part) for part in zip(*splits, strict=True))
    size = max(len(split(dataset, protocol, min(protocol.uc), seed)[0]) for seed in seeds[:1])
    sets = [training_set(r, parity[r], size=size, num_classes=2) for r in rows]
    pool = Pool(jnp.asarray(as_images(dataset.features)), jnp.float32(dataset.scale))
    return Data(
        pool,
        sets,
        np.stack(validation),
        np.stack(test),
        lambda s, outputs: metrics.balanced_score(parity[validation[s]], outputs),
        lambda s, outputs: metrics.of_parity(dataset.classes[test[s]], outputs),
        {
            "source": dataset.source,
            "train_class_counts": sets[0].class_counts.tolist(),
            "validation_class_counts": np.bincount(parity[validation[0]]).tolist(),
            "test_size": len(test[0]),
        },
    )


def split(
    dataset: datasets.Dataset, protocol: Protocol, uc: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, validation and test.

    The test set is the official one, or a quarter of each class where there is none; it is the same for all `uc`, and
    the odd examples left by a larger `uc` are among those left by a smaller one. A fifth of what is left after thinning
    is for validation.
    """
    rng = np.random.default_rng(seed)
    training, validation, test = [], [], []
    for c, (held, rest) in zip(np.unique(dataset.classes), splits.test_and_rest(dataset, rng), strict=True):
        rest = rest[: protocol.per_class]
        kept = rest[: max(2, round(len(rest) / uc))] if c % 2 else rest
        held_out = max(1, len(kept) // splits.VALIDATION)
        test.append(held)
        validation.append(kept[:held_out])
        training.append(kept[held_out:])
    return np.concatenate(training), np.concatenate(validation), np.concatenate(test)


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    finals = comparison.finals(lines, NAMES)
    protocol = lines.iloc[-1]["protocol"]
    mlp = finals[~finals["problem"].str.contains("ResNet")]
    metric = "balanced_accuracy"
    shown = {
        "Balanced accuracy, %": tables.scores(finals, metric),
        "F1 of the minority, %": tables.scores(finals, "f1"),
        "Accuracy on the worst of the ten classes, %": tables.scores(finals, "worst_of_ten"),
        "Area under the ROC curve (ranking alone, whatever the threshold), %": tables.scores(finals, "auc"),
        "Ranks of balanced accuracy, over factors and seeds": tables.ranks(mlp, metric, blocks=("problem", "seed")),
        "Balanced accuracy minus adamw's, points": tables.gains(finals, metric, "adamw"),
    }
    best = comparison.best_of(mlp, metric, BASELINES)
    shown[f"Balanced accuracy minus that of the best baseline, {best}, points"] = tables.gains(finals, metric, best)
    shown |= {
        "Methods": tables.rows_of(METHODS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(mlp),
        "Seconds a run": tables.seconds(finals),
    }
    first = finals.iloc[0]
    return Page(
        intro=(
            f"{first['source']}. The target is the parity of the class. In training and validation the odd classes "
            f"are thinned by the factor uc; the test set ({int(first['test_size'])} images) is balanced. The paper has "
            "CIFAR-10, which cannot be had out of a package.",
            comparison.budget_of(lines, f"of uc {protocol['tuned_at']}"),
            comparison.how_to_read(finals),
        ),
        findings=findings(mlp, best),
        tables=shown,
        draw=functools.partial(draw, finals),
        did_not_help=tables.did_not_help(mlp, metric, "adamw"),
    )


def findings(finals: pd.DataFrame, best: str) -> list[str]:
    """Where ALSO wins, and where it does not."""
    metric, blocks = "balanced_accuracy", ("problem", "seed")
    present = [name for name in ALSO if name in set(finals["method"])]
    found = []
    for name in present:
        against = [tables.verdicts(finals, metric, name, baseline) for baseline in dict.fromkeys(("adamw", best))]
        found.append(f"{name} {', '.join(against)}.")
        first, p = statistics.not_worse_than_the_best(finals, metric, name, blocks=blocks)
        rank = statistics.ranks(finals, metric, blocks=blocks)
        verdict = "it is the best" if first == name else f"the best is {first} ({rank[first]:.2f}), p = {p:.2g}"
        found.append(f"Mean rank of {name}: {rank[name]:.2f} of {len(rank)}; {verdict}.")
    return found + [_moved(finals, name) for name in present]


def _moved(finals: pd.DataFrame, name: str) -> str:
    """How far the chosen dual rate can take a weight: on average each step adds that rate times a loss to log pi."""
    chosen = finals[finals["method"] == name].iloc[0]
    rate, steps = chosen["setting"]["dual_learning_rate"], chosen["protocol"]["steps"]
    return (
        f"Tuning chose for {name} the dual rate {rate:.2g}: in {steps} steps log pi moves by about {rate * steps:.2g} "
        "times the mean loss."
    )


def draw(finals: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods, and where the weight goes at the largest factor."""
    protocol = finals.iloc[0]["protocol"]
    title = f"Odd classes thinned by uc, {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=2, figsize=(13, 7), width_ratios=(1.3, 1)) as (_, (left, right)):
        plots.dots(left, finals, "balanced_accuracy", label="balanced accuracy on the balanced test set, %")
        worst = finals[finals["problem"] == f"uc {max(protocol['uc'])}"]
        found = {}
        for name, of_method in worst[worst["method"].isin(WATCHED)].groupby("method", observed=True):
            weights = np.array(of_method["class_weights"].tolist(), dtype=float)[:, :, 1]
            at = (np.arange(weights.shape[1]) + 0.5) * protocol["steps"] / weights.shape[1]
            found[str(name)] = (at, np.nanmean(weights, axis=0))
        right.set_yscale("log")
        plots.curves(
            right,
            found,
            x="step",
            y="mean weight of an odd example (mean of all = 1)",
            title=f"Weight of the minority at uc = {max(protocol['uc'])}",
        )


EXPERIMENT = Experiment(
    "Class imbalance", "even against odd, the odd thinned (ALSO, section 6.1)", PROTOCOLS, jobs, page
)
