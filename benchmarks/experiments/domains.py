"""Domain generalisation: leave one domain out, of rotated and of coloured digits (as DomainBed, arXiv 2007.01434).

Methods that know groups are told the domain. Settings and checkpoints are chosen on a held-out part of the training
domains, which is what a user has; the domain that is tested on is seen only at the end.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import comparison, metrics, plots, tables
from benchmarks import data as datasets
from benchmarks.comparison import Data, Problem
from benchmarks.data.domains import Domains, coloured, halved, rotated
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import METHODS
from benchmarks.networks import MLP
from benchmarks.search import Budget
from benchmarks.training import Pool, Task, training_set

NAMES = ("adamw", "group-dro-groups", "also-groups", "rgd", "abadam")
DEGREES = (0, 15, 30, 45, 60, 75)
AGREEMENTS = (0.95, 0.9, 0.05)
"""Correlations of .9, .8 and -.9 between colour and label."""
NOISE = 0.25
MADE_WITH = 0
"""The seed of the domains, which are made once; the seeds of the runs draw validation, initial weights and batches."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set of digits.
      families: "rotated", "coloured".
      degrees: of the rotated domains.
      left_out: at most so many domains of a family are tested on, the last ones.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: that a trial's score is the mean over.
      seeds: of the final runs.
      steps: of the optimizer.
      batch: its size.
      methods: names in `METHODS`.
      version: raised when results are no longer comparable.
    """

    data: str = "mnist-5k"
    families: tuple[str, ...] = ("rotated", "coloured")
    degrees: tuple[int, ...] = DEGREES
    left_out: int = 6
    rounds: int = 3
    trials: int = 4
    tuning_seeds: int = 2
    seeds: int = 8
    steps: int = 600
    batch: int = 128
    methods: tuple[str, ...] = NAMES
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", degrees=(0, 30, 60), rounds=2, trials=5, tuning_seeds=1, seeds=5, steps=300, batch=64),
    "smoke": Protocol("digits", ("coloured",), (), 1, 1, 2, 1, 2, 20, 32, ("adamw", "also-groups")),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    methods = {name: METHODS[name] for name in protocol.methods}
    for family in protocol.families:
        problems = []
        names = names_of(protocol, family)
        task = Task(MLP(10 if family == "rotated" else 2), protocol.steps, protocol.batch, checks=10)
        for left_out in range(len(names))[-protocol.left_out :]:
            name = f"{family} {names[left_out]}"
            data = functools.partial(_data, protocol, family, left_out)
            problems.append(Problem(name, task, data, name, budget, methods, {"network": "mlp"}))
        yield from comparison.jobs(problems)


def names_of(protocol: Protocol, family: str) -> list[str]:
    """Of the domains."""
    if family == "rotated":
        return [f"{angle:g}°" for angle in protocol.degrees]
    return [f"{200 * chance - 100:+.0f} %" for chance in AGREEMENTS]


@functools.lru_cache(maxsize=2)
def made(protocol: Protocol, family: str) -> Domains:
    """All domains of a family."""
    dataset = datasets.load(protocol.data)
    side = int(np.sqrt(dataset.features[0].size))
    images = dataset.features.reshape(-1, side, side)
    if family == "rotated":
        return rotated(images, dataset.classes, protocol.degrees, seed=MADE_WITH)
    small = halved(images) if side > 14 else images
    return coloured(small, dataset.classes, AGREEMENTS, noise=NOISE, seed=MADE_WITH)


def _data(protocol: Protocol, family: str, left_out: int, seeds: tuple[int, ...]) -> Data:
    dataset = datasets.load(protocol.data)
    found = made(protocol, family)
    splits = [split(found.domains, left_out, seed) for seed in seeds]
    groups = found.domains - (found.domains > left_out)
    size = max(len(training) for training, _ in splits)
    sets = [
        training_set(
            rows,
            found.classes[rows],
            size=size,
            num_classes=10 if family == "rotated" else 2,
            groups=groups[rows],
            num_groups=len(names_of(protocol, family)) - 1,
        )
        for rows, _ in splits
    ]
    validation = np.stack([rows for _, rows in splits])
    test = np.flatnonzero(found.domains == left_out)
    return Data(
        Pool(jnp.asarray(found.features), jnp.float32(dataset.scale)),
        sets,
        validation,
        np.tile(test, (len(seeds), 1)),
        lambda s, outputs: metrics.accuracy_score(found.classes[validation[s]], outputs),
        lambda s, outputs: metrics.of_classes(found.classes[test], outputs),
        {"source": dataset.source, "family": family, "train_size": size, "test_size": len(test)},
    )


def split(domains: np.ndarray, left_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and, a fifth of each domain but the one left out, for validation."""
    rng = np.random.default_rng(seed)
    training, validation = [], []
    for domain in np.unique(domains[domains != left_out]):
        rows = rng.permutation(np.flatnonzero(domains == domain))
        held, rest = np.split(rows, [len(rows) // 5])
        validation.append(held)
        training.append(rest)
    return np.concatenate(training), np.concatenate(validation)


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    finals = comparison.finals(lines, NAMES)
    averages = averaged(finals)
    metric = "accuracy"
    sizes = finals.groupby("family", sort=False)[["train_size", "test_size"]].max()
    of_family = [
        f"{family}: {train:.0f} images for training, about {test:.0f} a domain"
        for family, train, test in sizes.itertuples()
    ]
    shown = {"Accuracy on the domain left out, mean over domains, %": tables.scores(averages, metric)}
    for family in sizes.index:
        of = finals[finals["family"] == family].assign(
            problem=lambda found: found["problem"].cat.remove_unused_categories()
        )
        shown[f"Accuracy on the domain left out, {family}, %"] = tables.scores(of, metric)
        shown[f"Accuracy minus adamw's, {family}, points"] = tables.gains(of, metric, "adamw")
    shown |= {
        "Mean over domains minus adamw's, points": tables.gains(averages, metric, "adamw"),
        "Score on the validation part of the training domains, mean over domains, %": tables.scores(
            averages, "validation"
        ),
        "Ranks of accuracy, over domains and seeds": tables.ranks(finals, metric, blocks=("problem", "seed")),
        "Methods": tables.rows_of(METHODS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    return Page(
        intro=(
            f"{finals.iloc[0]['source']}. **Rotated**: each image turned by one of several angles. **Coloured** (after "
            "IRM, arXiv 1907.02893): the label is whether the digit is 5 or more, turned round with a chance of "
            f"{NOISE:g}; one of two colours, whose correlation with the label is the domain's name. Who trusts the "
            f"shape alone gets at most {100 * (1 - NOISE):g} % anywhere. One domain is left out, the model (an MLP of "
            f"128) is trained on the others; {'; '.join(of_family)}. DomainBed has a ConvNet and all of MNIST.",
            comparison.budget_of(lines, "of the training domains of each problem"),
            "Domains are made once: intervals (95 %, over seeds) are of validation splits, initial weights and "
            "batches. * is a paired t-test over seeds, Holm-corrected within a column, below .05.",
        ),
        findings=findings(finals, averages),
        tables=shown,
        draw=functools.partial(draw, finals),
    )


def averaged(finals: pd.DataFrame) -> pd.DataFrame:
    """The mean over the domains of a family, for each method and seed; `problem` is the family."""
    keys = ["method", "family", "seed"]
    found = finals.groupby(keys, observed=True, sort=False)[["accuracy", "validation"]].mean().reset_index()
    return found.rename(columns={"family": "problem"}).assign(
        problem=lambda lines: pd.Categorical(lines["problem"], list(dict.fromkeys(finals["family"])), ordered=True)
    )


def findings(finals: pd.DataFrame, averages: pd.DataFrame) -> list[str]:
    """Who is above plain training in the mean over domains, and on which domains."""
    present = [name for name in NAMES if name != "adamw" and name in set(finals["method"])]
    found = []
    for name in present:
        found.append(f"Mean over domains, {name} {tables.verdicts(averages, 'accuracy', name, 'adamw')}.")
        found.append(f"Single domains, {name} {tables.verdicts(finals, 'accuracy', name, 'adamw')}.")
    worst = finals.groupby("problem", observed=True)["accuracy"].mean().idxmin()
    by_method = finals[finals["problem"] == worst].groupby("method", observed=True)["accuracy"].mean()
    found.append(
        f"The hardest domain to leave out is {worst}: from {100 * by_method.min():.1f} % ({by_method.idxmin()}) to "
        f"{100 * by_method.max():.1f} % ({by_method.idxmax()})."
    )
    return found


def draw(finals: pd.DataFrame, file: Path) -> None:
    """Accuracy on each domain left out, a panel a family."""
    protocol = finals.iloc[0]["protocol"]
    families = list(dict.fromkeys(finals["family"]))
    title = f"One domain left out, {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=len(families), figsize=(7 * len(families), 5.5), squeeze=False) as (_, axes):
        for ax, family in zip(axes[0], families, strict=True):
            of_family = finals[finals["family"] == family]
            plots.dots(ax, of_family, "accuracy", label="accuracy on the domain left out, %", title=family)
            ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=6)


EXPERIMENT = Experiment(
    "Domain generalisation", "one domain left out, of rotated and of coloured digits", PROTOCOLS, jobs, page
)
