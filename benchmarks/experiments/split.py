"""A second data set that joins late, after section 6.5 of the ALSO paper (arXiv 2508.16734): one encoder, two heads.

Training starts on the first data set alone. After half of the steps the examples of the second are among those that are
drawn, uniformly over all. There is a weight for each class of both. No method is told which data set is new.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from sklearn.metrics import top_k_accuracy_score

import also_optax
from benchmarks import comparison, metrics, plots, records, search, tables
from benchmarks import data as datasets
from benchmarks.data.images import as_images, runs_together
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import METHODS
from benchmarks.networks import MLP
from benchmarks.records import Line
from benchmarks.search import Budget, Contest, Ran
from benchmarks.splits import parts_of
from benchmarks.training import Pool, Runs, Task, TrainingSet, outputs_of, stacked, train_scored, training_set
from benchmarks.tuning import Setting

CLASSES = 10
"""Of each of the two data sets."""
NAMES = ("adamw", "static", "also-classes", "group-dro", "absgd", "abadam", "rgd")
WITH_PI = ("also-classes", "group-dro")


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      first: the data set that is there from the start.
      second: the one that joins; "turned" is the half of the first that it does without, turned by 90 degrees.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs.
      steps: of the optimizer.
      checks: how often the models are scored; half of them before the second data set joins.
      batch: its size.
      per_class: at most so many images of a class for training and validation.
      methods: names in `METHODS`.
      version: raised when results are no longer comparable.
    """

    first: str = "fashion-mnist"
    second: str = "mnist-5k"
    rounds: int = 4
    trials: int = 5
    tuning_seeds: int = 2
    seeds: int = 10
    steps: int = 1200
    checks: int = 12
    batch: int = 128
    per_class: int = 100_000
    methods: tuple[str, ...] = NAMES
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", "turned", 3, 4, 2, 8, 600, 12, 64),
    "smoke": Protocol("digits", "turned", 1, 2, 1, 2, 20, 4, 32, 30, ("adamw", "also-classes")),
}


class Both(NamedTuple):
    """The two data sets as one; the classes of the second come after those of the first.

    Attributes:
      pool: images of both.
      targets: in [0, 20), ``[N]``.
      first: the first data set.
      second: the second.
      offset: of the second's rows in the pool.
    """

    pool: Pool
    targets: np.ndarray
    first: datasets.Dataset
    second: datasets.Dataset
    offset: int


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    task = Task(
        MLP(2 * CLASSES, (128, 64)),
        protocol.steps,
        protocol.batch,
        checks=protocol.checks,
        loss=own_cross_entropy,
        available=functools.partial(available, protocol.steps // 2),
        together=runs_together(protocol.first),
    )
    contest = Contest(
        "split",
        Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds),
        {name: METHODS[name].space for name in protocol.methods},
        protocol.steps,
        {"network": "mlp-128-64"},
        functools.partial(_run, protocol, task),
    )
    return search.jobs([contest])


def available(joining: int, step: jax.Array, training_set: TrainingSet) -> jax.Array:
    """How many examples there are at `step`: those of the first data set, after `joining` steps all."""
    counts = training_set.class_counts
    return jnp.where(step < joining, counts[:CLASSES].sum(), counts.sum())


def own_cross_entropy(outputs: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """Cross-entropy in the head of the example's own data set, from outputs of both heads, ``[B, 20]``."""
    heads = outputs.reshape(len(outputs), 2, CLASSES)
    own = jnp.take_along_axis(heads, (targets // CLASSES)[:, None, None], axis=1)[:, 0]
    return optax.softmax_cross_entropy_with_integer_labels(own, targets % CLASSES)


@functools.lru_cache(maxsize=1)
def _both(protocol: Protocol) -> Both:
    first = datasets.load(protocol.first)
    if protocol.second == "turned":
        is_second = np.arange(len(first.classes)) % 2 == 1
        turned = np.rot90(as_images(first.features[is_second]), axes=(1, 2))
        source = "the other half of them turned by 90 degrees"
        second = first._replace(features=turned, classes=first.classes[is_second], source=source)
        first = first._replace(features=first.features[~is_second], classes=first.classes[~is_second])
    else:
        second = datasets.load(protocol.second)
    images = np.concatenate([as_images(first.features), as_images(second.features)])
    targets = np.concatenate([first.classes, second.classes + CLASSES])
    pool = Pool(jnp.asarray(images), jnp.float32(first.scale))
    return Both(pool, targets, first, second, len(first.classes))


@functools.lru_cache(maxsize=64)
def _rows(protocol: Protocol, seed: int) -> tuple[np.ndarray, ...]:
    """Rows of the pool for training, validation and test."""
    both = _both(protocol)
    first = parts_of(both.first, seed, per_class=protocol.per_class)
    second = parts_of(both.second, seed, per_class=protocol.per_class)
    return tuple(np.concatenate([a, both.offset + b]) for a, b in zip(first, second, strict=True))


def _run(
    protocol: Protocol,
    task: Task,
    name: str,
    seeds: Sequence[int],
    settings: Sequence[Setting],
    on_progress: Callable[[float], None],
) -> Ran:
    both = _both(protocol)
    training, validation, test = zip(*(_rows(protocol, seed) for seed in seeds), strict=True)
    sets = [training_set(rows, both.targets[rows], size=len(rows), num_classes=2 * CLASSES) for rows in training]
    runs = Runs(stacked(sets), np.array(seeds), settings, np.stack(validation))
    before: Any = None
    weights = []

    def scores_of(check: int, params: Any, opt_state: Any) -> np.ndarray:
        nonlocal before
        if check == task.checks // 2 - 1:
            before = params
        if name in WITH_PI:
            weights.append(np.asarray(jax.vmap(also_optax.group_weights)(opt_state)))
        outputs = outputs_of(task, both.pool, params, runs.validation)
        return np.array([score(both.targets[rows], found) for rows, found in zip(validation, outputs, strict=True)])

    trained = train_scored(task, METHODS[name], both.pool, runs, scores_of, on_progress)

    def lines() -> list[Line]:
        rows = np.stack(test)
        first, last = (outputs_of(task, both.pool, params, rows) for params in (before, trained.params))
        found = []
        for r in range(len(seeds)):
            early, late = (measured(both.targets[rows[r]], outputs[r]) for outputs in (first, last))
            found.append(
                {
                    "results": {
                        f"{protocol.first} before": early[0],
                        f"{protocol.first} after": late[0],
                        f"{protocol.second} after": late[1],
                    },
                    "finite": bool(np.isfinite(last[r]).all()),
                    "class_weights": records.rounded(trained.class_weights[:, r], 4),
                    "pi": records.rounded([pi[r] for pi in weights], 4) if weights else None,
                    "sources": [both.first.source, both.second.source],
                    "training_sizes": [int(c.sum()) for c in np.split(sets[r].class_counts, 2)],
                    "test_sizes": [int((both.targets[rows[r]] // CLASSES == head).sum()) for head in (0, 1)],
                }
            )
        return found

    return Ran(trained.scores, trained.seconds, trained.compile_seconds, lines)


def by_head(targets: np.ndarray, outputs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each data set: the classes in [0, 10) of its examples, and the outputs of its head."""
    for head in (0, 1):
        own = targets // CLASSES == head
        yield targets[own] % CLASSES, outputs[own, head * CLASSES : (head + 1) * CLASSES]


def score(targets: np.ndarray, outputs: np.ndarray) -> float:
    """The mean of both data sets' balanced accuracy; -inf of a model that has diverged."""
    if not np.isfinite(outputs).all():
        return -np.inf
    return float(np.mean([metrics.balanced_score(*of_head) for of_head in by_head(targets, outputs)]))


def measured(targets: np.ndarray, outputs: np.ndarray) -> list[dict[str, float]]:
    """What is reported of each data set; the outputs of a model that has diverged count as 0."""
    found = []
    for classes, logits in by_head(targets, np.nan_to_num(outputs)):
        top5 = top_k_accuracy_score(classes, logits, k=5, labels=np.arange(CLASSES))
        of_classes = metrics.of_classes(classes, logits)
        kept = {name: of_classes[name] for name in ("accuracy", "worst_class")}
        found.append(kept | {"top5": round(float(top5), 6)})
    return found


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    results = comparison.results(lines, NAMES)
    finals = comparison.finals(lines, NAMES)
    protocol, first = lines.iloc[-1]["protocol"], finals.iloc[0]
    after = results[results["problem"].astype(str).str.endswith("after")]
    after = after.assign(problem=after["problem"].cat.remove_unused_categories())
    training, test, sources = first["training_sizes"], first["test_sizes"], first["sources"]
    shown = {
        "Accuracy@1, %": tables.scores(results, "accuracy"),
        "Accuracy@5, %": tables.scores(results, "top5"),
        "Accuracy on the worst class, %": tables.scores(results, "worst_class"),
        "Accuracy@1 minus adamw's, points": tables.gains(results, "accuracy", "adamw"),
        "Accuracy on the worst class minus adamw's, points": tables.gains(results, "worst_class", "adamw"),
        "Ranks of accuracy@1 after joining, over data sets and seeds": tables.ranks(
            after, "accuracy", blocks=("problem", "seed")
        ),
        "Methods": tables.rows_of(METHODS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    return Page(
        intro=(
            f"From the start: {sources[0]} ({training[0]} of them for training, {test[0]} for the test). After "
            f"{protocol['steps'] // 2} of {protocol['steps']} steps there joins: {sources[1]} ({training[1]} for "
            f"training, {test[1]} for the test). Batches are drawn uniformly from what there is: "
            f"{100 * training[1] / sum(training):.0f} % of them are then of the second. One encoder, a head of "
            f"{CLASSES} classes for each. The data sets stand in for the paper's, of which no package has the images; "
            "how much of each there is, and when the second joins, is ours.",
            "One weight for each of the 20 classes; q, where a method has it, is that of the whole training set, also "
            "while half of the classes are not drawn yet: what a user who knows of them would pass. "
            + comparison.budget_of(lines, "(the mean of both data sets' balanced accuracy)"),
            "'before' is the last checkpoint before the second data set joins, 'after' the best of the run. "
            + comparison.how_to_read(finals),
        ),
        findings=findings(results, after),
        tables=shown,
        draw=functools.partial(draw, finals, results),
        did_not_help=tables.did_not_help(results, "accuracy", "adamw"),
    )


def findings(results: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Where ALSO wins and where it does not."""
    found = []
    present = [name for name in ("adamw", "static", "group-dro") if name in set(results["method"])]
    for metric, about in (("accuracy", "Accuracy@1"), ("worst_class", "Worst class")):
        against = [tables.verdicts(results, metric, "also-classes", baseline) for baseline in present]
        found.append(f"{about}: also-classes {', '.join(against)}.")
    best = comparison.best_of(after, "accuracy", list(after["method"].unique()))
    found.append(f"The best mean rank of accuracy@1 after joining is that of {best}.")
    return found


def draw(finals: pd.DataFrame, results: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods; pi of ALSO, class by class; the weight of the second data set."""
    protocol = finals.iloc[0]["protocol"]
    names = [protocol["first"], protocol["second"]]
    title = f"{names[1]} joins {names[0]} after half of the steps, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=3, figsize=(18, 6), width_ratios=(1.1, 1, 1)) as (_, (left, middle, right)):
        plots.dots(left, results, "accuracy", label="accuracy@1 on the test sets, %", title="Accuracy")
        plots.legend_below(left, 3)
        _draw_classes(middle, _mean_pi(finals, "also-classes"), names, protocol["steps"])
        shares = {
            name: (_at(len(pi), protocol["steps"]), pi[:, CLASSES:].sum(1))
            for name in WITH_PI
            if (pi := _mean_pi(finals, name)) is not None
        }
        plots.curves(right, shares, x="step", y="sum of pi", title=f"Weight of all classes of {names[1]}")
        for ax in (middle, right):
            ax.axvline(protocol["steps"] / 2, color="black", linewidth=0.8, linestyle=":")


def _mean_pi(finals: pd.DataFrame, name: str) -> np.ndarray | None:
    """pi of a method over training, the mean over seeds, ``[checks, 20]``."""
    found = finals.loc[finals["method"] == name, "pi"]
    return np.mean(np.array(found.tolist(), dtype=float), axis=0) if len(found) else None


def _at(checks: int, steps: int) -> np.ndarray:
    return (np.arange(checks) + 1) * steps / checks


def _draw_classes(ax: Any, pi: np.ndarray | None, names: Sequence[str], steps: int) -> None:
    """A line for each class: solid of the first data set, dashed of the second; the largest four are named."""
    ax.set(xlabel="step", ylabel="pi")
    ax.set_title("pi of ALSO by class, from 1/20", loc="left")
    if pi is None:
        return
    at, looks = _at(len(pi), steps), (("#0072b2", "-"), ("#d55e00", "--"))
    ends: dict[str, float] = {}
    styles: Mapping[str, Mapping[str, Any]] = {}
    for k in range(2 * CLASSES):
        color, line = looks[k // CLASSES]
        label = names[k // CLASSES] if k % CLASSES == 0 else None
        ax.plot(at, pi[:, k], color=color, linestyle=line, linewidth=1.2, label=label)
        if k in np.argsort(pi[-1])[-4:]:
            name = f"{names[k // CLASSES]} {k % CLASSES}"
            ends[name] = float(pi[-1, k])
            styles = {**styles, name: {"color": color}}
    ax.legend(fontsize=8, loc="best")
    plots.label_ends(ax, ends, float(at[-1]), styles)


EXPERIMENT = Experiment(
    "A data set that joins late", "one encoder, two heads (ALSO, section 6.5)", PROTOCOLS, jobs, page
)
