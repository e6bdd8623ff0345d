"""Wrong labels, after ABSGD's experiments on label noise (arXiv 2012.06951): a temperature below 0 mistrusts them.

A share of the labels is replaced, by any other class alike ("symmetric") or by that of a class that looks like it
("asymmetric"), in the training set and in the validation set, which is what a user would have. The labels of the test
set are right.

For the engine the class of a training example is whether its label is wrong: no method here looks at classes, and mean
weights by class are then those of right and of wrong labels.
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
from benchmarks.methods import ADAM, METHODS, SGD, adamw, by_example, sgd
from benchmarks.networks import MLP
from benchmarks.search import Budget
from benchmarks.training import Loss, Method, Pool, Task, TrainingSet, cross_entropy, staircase, training_set
from benchmarks.tuning import Range, Setting, Space

NAMES = (
    *(f"{loss}-{by}" for loss in ("ce", "sce", "gce") for by in ("sgd", "absgd")),
    "eg-sgd",
    "adamw",
    "abadam",
    "rgd",
    "also-uniform",
)
MISTRUSTING = (*((f"{loss}-absgd", f"{loss}-sgd") for loss in ("ce", "sce", "gce")), ("abadam", "adamw"))
"""The paper's claim: the first is better than the second."""
OTHERS = (*((f"{name}-sgd", "ce-sgd") for name in ("sce", "gce", "eg")), ("rgd", "adamw"), ("also-uniform", "adamw"))
"""Losses and weights made for wrong labels, and two adversaries that trust them, over the same without."""
SIMILAR = {
    "fashion-mnist": {
        "T-shirt and shirt": (0, 6),
        "pullover and coat": (2, 4),
        "sneaker and boot": (7, 9),
        "trouser and dress": (1, 3),
    },
    "digits": {"1 and 7": (1, 7), "3 and 8": (3, 8), "4 and 9": (4, 9), "5 and 6": (5, 6)},
}
"""Pairs of classes that are taken for each other, by data set."""
MISTRUST: Space = {"mistrust": Range(0.1, 15.0), "averaging_rate": Range(0.1, 1.0, log=False)}
"""Of ABSGD; `mistrust` is minus the temperature."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set.
      rates: shares of the labels that are replaced; methods are tuned at the last one of each kind.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs; each decides split, wrong labels, initial weights and batches.
      steps: of the optimizer.
      batch: its size.
      per_class: images of each class for training and validation.
      methods: of `NAMES`; all where empty.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    rates: tuple[float, ...] = (0.2, 0.4)
    rounds: int = 4
    trials: int = 5
    tuning_seeds: int = 2
    seeds: int = 10
    steps: int = 1500
    batch: int = 128
    per_class: int = 1200
    methods: tuple[str, ...] = ()
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", (0.2, 0.4), 2, 4, 2, 8, 300, 64, 120),
    "smoke": Protocol("digits", (0.4,), 1, 2, 1, 2, 20, 32, 60, ("ce-sgd", "ce-absgd", "eg-sgd")),
}


def symmetric(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """Symmetric cross-entropy; only the ratio of its two parts is tuned, the learning rate does the rest."""
    return losses.symmetric_cross_entropy(logits, targets, setting["alpha"])


def generalised(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """Generalised cross-entropy."""
    return losses.generalised_cross_entropy(logits, targets, setting["q"])


def absgd(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """ABSGD with a temperature below 0."""
    return optax.chain(_mistrusting(setting), sgd(setting, training_set))


def abadam(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """ABAdam with a temperature below 0."""
    return optax.chain(_mistrusting(setting), adamw(setting, training_set))


def _mistrusting(setting: dict[str, Any]) -> optax.GradientTransformation:
    return also_optax.reweight_by_absgd(-setting["mistrust"], setting["averaging_rate"])


def exponentiated_gradient(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """SGD on weights, one an example, that every loss makes smaller; training sets without padding."""
    rule = also_optax.reweight_by_exponentiated_gradient(len(training_set.rows), setting["step_size"])
    return optax.chain(rule, sgd(setting, training_set))


def _rows() -> dict[str, Method]:
    kinds: dict[str, tuple[str, Loss, Space]] = {
        "ce": ("cross-entropy", cross_entropy, {}),
        "sce": ("symmetric cross-entropy", symmetric, {"alpha": Range(0.01, 1.0)}),
        "gce": ("generalised cross-entropy", generalised, {"q": Range(0.1, 1.0, log=False)}),
    }
    found = {}
    for name, (about, loss, space) in kinds.items():
        found[f"{name}-sgd"] = Method(f"SGD: {about}", {**SGD, **space}, sgd, robust=False, loss=loss)
        about = f"ABSGD, temperature below 0: {about}"
        found[f"{name}-absgd"] = Method(about, {**SGD, **space, **MISTRUST}, absgd, loss=loss)
    found["eg-sgd"] = Method(
        "SGD on exponentiated-gradient weights, one an example",
        {**SGD, "step_size": Range(1e-3, 1.0)},
        exponentiated_gradient,
        groups=by_example,
    )
    found["adamw"] = METHODS["adamw"]
    found["abadam"] = Method("ABAdam, temperature below 0", {**ADAM, **MISTRUST}, abadam)
    return found | {name: METHODS[name] for name in ("rgd", "also-uniform")}


ROWS = _rows()
WEIGHING = tuple(name for name, method in ROWS.items() if method.robust)


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    together = runs_together(protocol.data)
    task = Task(MLP(10), protocol.steps, protocol.batch, checks=10, shape=staircase, together=together)
    methods = {name: ROWS[name] for name in protocol.methods or NAMES}
    problems = [
        Problem(
            f"{kind} {rate}",
            task,
            functools.partial(_data, protocol, kind, rate),
            f"{kind} {protocol.rates[-1]}",
            budget,
            methods,
            {"network": "mlp"},
        )
        for kind in ("symmetric", "asymmetric")
        for rate in protocol.rates
    ]
    return comparison.jobs(problems)


def _data(protocol: Protocol, kind: str, rate: float, seeds: tuple[int, ...]) -> Data:
    dataset = datasets.load(protocol.data)
    num_classes = int(dataset.classes.max()) + 1
    chances = transition(kind, rate, num_classes, list(SIMILAR[protocol.data].values()))
    sets, validation, test, given = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        kept, held = splits.by_class(dataset, protocol.per_class, rng)
        rows, held_out = splits.thinned(kept, np.full(num_classes, protocol.per_class))
        labels = corrupted(dataset.classes, chances, rng)
        wrong = labels[rows] != dataset.classes[rows]
        sets.append(training_set(rows, labels[rows], size=len(rows), num_classes=2, classes=wrong))
        validation.append(held_out)
        test.append(held)
        given.append(labels[held_out])
    return Data(
        Pool(jnp.asarray(dataset.features), jnp.float32(dataset.scale)),
        sets,
        np.stack(validation),
        np.stack(test),
        lambda s, outputs: metrics.accuracy_score(given[s], outputs),
        lambda s, outputs: metrics.of_classes(dataset.classes[test[s]], outputs),
        {
            "source": dataset.source,
            "right_and_wrong": sets[0].class_counts.tolist(),
            "validation_size": len(validation[0]),
            "test_size": len(test[0]),
        },
    )


def transition(kind: str, rate: float, num_classes: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Chances of the label that is given, by the right one, ``[C, C]``.

    Args:
      kind: "symmetric", any other class alike, or "asymmetric", the other class of the pair; classes of no pair keep
        their labels.
      rate: the chance of a wrong label.
      num_classes: C.
      pairs: of classes that are taken for each other.
    """
    if kind == "symmetric":
        return np.where(np.eye(num_classes, dtype=bool), 1 - rate, rate / (num_classes - 1))
    chances = np.eye(num_classes)
    for pair in pairs:
        for label, other in (pair, pair[::-1]):
            chances[label, [label, other]] = 1 - rate, rate
    return chances


def corrupted(labels: np.ndarray, chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels as they are given, drawn from the row of `chances` of each right one."""
    drawn = rng.random(len(labels))[:, None]
    return np.minimum((chances.cumsum(1)[labels] <= drawn).sum(1), len(chances) - 1)


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    finals = comparison.finals(lines, NAMES)
    weights = np.array([line[-1] for line in finals["class_weights"]], dtype=float)
    finals = finals.assign(right=weights[:, 0], wrong=weights[:, 1], ratio=weights[:, 1] / weights[:, 0])
    weighing = finals[finals["method"].isin(WEIGHING)]
    gains = functools.partial(tables.paired_gains, finals, "accuracy")
    shown = {
        "Accuracy on right labels, %": tables.scores(finals, "accuracy"),
        "ABSGD and ABAdam with a temperature below 0, over the same without it, points of accuracy": gains(MISTRUSTING),
        "The other losses and weights, over the same without them, points of accuracy": gains(OTHERS),
        "Accuracy on the worst class, %": tables.scores(finals, "worst_class"),
        "Ranks of accuracy, over problems and seeds": tables.ranks(finals, "accuracy", blocks=("problem", "seed")),
        "Mean weight of a right label in the last tenth of the steps (mean of all = 1)": tables.scores(
            weighing, "right", tables.plain
        ),
        "Mean weight of a wrong label in the last tenth of the steps": tables.scores(weighing, "wrong", tables.plain),
        "Methods": tables.rows_of(ROWS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    return Page(
        _intro(lines, finals),
        findings(finals),
        shown,
        functools.partial(draw, finals),
        did_not_help=did_not_help(finals),
    )


def _intro(lines: pd.DataFrame, finals: pd.DataFrame) -> list[str]:
    protocol, first = lines.iloc[-1]["protocol"], finals.iloc[0]
    tuned = " and ".join(f"{kind} {protocol['rates'][-1]}" for kind in ("symmetric", "asymmetric"))
    shares = finals.drop_duplicates("problem").set_index("problem")["right_and_wrong"]
    return [
        f"{first['source']}; {sum(first['right_and_wrong'])} for training, {int(first['validation_size'])} for "
        f"validation, {int(first['test_size'])} for the test. Symmetric: a label is replaced, with the chance in the "
        "problem's name, by any of the other nine classes alike. Asymmetric: by the other class of its pair, "
        f"{tables.listed([*SIMILAR[protocol['data']]])}; the classes of no pair keep their labels. Wrong labels for "
        "training, at the first seed: "
        + "; ".join(f"{problem}: {wrong}" for problem, (_, wrong) in shares.items())
        + ". The labels of the validation set, scored by accuracy, are wrong as often; those of the test set are "
        "right. Not here: the paper's CIFAR-10, CIFAR-100 and Clothing1M, which cannot be had out of a package, nor "
        "the ImageNet and GLUE of its other experiments; the network is a perceptron with one hidden layer of 128.",
        comparison.budget_of(lines, f"of {tuned}"),
        "The learning rate of all methods is divided by 10 after 80 % of the steps and again after 90 %. The best "
        "checkpoint is chosen on wrong labels too, and stops early where that helps: a defence that every method has. "
        "Exponentiated-gradient weights fall with every draw, and batches are drawn with replacement, so examples that "
        "happen to be drawn often lose some weight by that alone.",
        comparison.how_to_read(finals),
    ]


def findings(finals: pd.DataFrame) -> list[str]:
    """Each adversary against the same without it, all methods together, and whom the weights mistrust."""
    found = [
        sentence for pairs in (MISTRUSTING, OTHERS) for sentence in tables.paired_verdicts(finals, "accuracy", pairs)
    ]
    found.append(tables.ranking(finals, "accuracy", blocks=("problem", "seed")))
    for problem in hardest(finals):
        of_problem = finals[(finals["problem"] == problem) & finals["method"].isin(WEIGHING)]
        ratios = of_problem.groupby("method", observed=True)["ratio"].mean()
        parts = [f"{name} {ratio:.2g}" for name, ratio in ratios.items()]
        found.append(
            f"At {problem} the mean weight of a wrong label, over that of a right one, in the last tenth of the steps: "
            f"{tables.listed(parts)}."
        )
    return found


def did_not_help(finals: pd.DataFrame) -> list[str]:
    """Rows over SGD against cross-entropy by SGD, rows over AdamW against it."""
    families = {"ce-sgd": [name for name in NAMES if "sgd" in name], "adamw": [n for n in NAMES if "sgd" not in n]}
    return [
        sentence
        for baseline, family in families.items()
        for sentence in tables.did_not_help(finals[finals["method"].isin(family)], "accuracy", baseline)
    ]


def hardest(finals: pd.DataFrame) -> list[str]:
    """The problem of each kind with the most wrong labels."""
    rate = finals.iloc[0]["protocol"]["rates"][-1]
    return [f"{kind} {rate}" for kind in ("symmetric", "asymmetric")]


def draw(finals: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods, and the weight of wrong labels over training."""
    protocol = finals.iloc[0]["protocol"]
    title = f"Wrong labels, {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=3, figsize=(17, 6.5), width_ratios=(1.3, 1, 1)) as (_, (left, *others)):
        plots.dots(left, finals, "accuracy", label="accuracy on right labels, %")
        for ax, problem in zip(others, hardest(finals), strict=True):
            of_problem = finals[(finals["problem"] == problem) & finals["method"].isin(WEIGHING)]
            found = {
                str(n): _over_training(lines, protocol) for n, lines in of_problem.groupby("method", observed=True)
            }
            ax.set_yscale("log")
            ax.axhline(1, color="black", linewidth=0.8)
            plots.curves(ax, found, x="step", y="weight of a wrong label over that of a right one", title=problem)


def _over_training(lines: pd.DataFrame, protocol: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the weight of wrong labels over that of right ones, the mean over seeds."""
    weights = np.array(lines["class_weights"].tolist(), dtype=float)
    at = (np.arange(weights.shape[1]) + 0.5) * protocol["steps"] / weights.shape[1]
    return at, np.nanmean(weights[..., 1] / weights[..., 0], axis=0)


EXPERIMENT = Experiment(
    "Label noise",
    "wrong labels: losses made for them, and weights that mistrust",
    PROTOCOLS,
    jobs,
    page,
)
