"""Workers with data of their own, after section 6.4 of the ALSO paper (arXiv 2508.16734): who sends how much.

The classes are dealt out unevenly to M workers. In a step each works out the gradient of a batch of its own, and sends
all of it, or (Perm-K) a part of the coordinates that no other sends. With ALSO the groups are the workers, and a worker
with a larger pi may send more. The accuracy of a worker is that on the test set, weighted by the classes it has.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import comparison, compression, metrics, plots, records, search, tables, workers
from benchmarks import data as datasets
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import ADAM, ALSO, SGD
from benchmarks.records import Line
from benchmarks.search import Budget, Contest, Ran
from benchmarks.splits import parts_of
from benchmarks.tuning import Setting, Space
from benchmarks.workers import Course, Examples, Sizes, Way

CLASSES = 10
LARGEST = 4
"""How many times its even share of the examples a worker may have."""


class Row(NamedTuple):
    """A method: what is said of it, what is tuned, and how it learns."""

    about: str
    space: Space
    way: Way


ROWS: dict[str, Row] = {
    "sgd": Row("SGD with momentum .9, nothing compressed", SGD, Way("sgd", "all")),
    "adamw": Row("AdamW, nothing compressed", ADAM, Way("adamw", "all")),
    "perm-k": Row("AdamW, every worker an equal share of the coordinates", ADAM, Way("adamw", "equal")),
    "also": Row("ALSO by worker, nothing compressed", {**ADAM, **ALSO}, Way("also", "all")),
    "also-equal": Row("ALSO by worker, equal shares, scaled by pi", {**ADAM, **ALSO}, Way("also", "equal")),
    "also-shares": Row("ALSO by worker, shares by pi", {**ADAM, **ALSO}, Way("also", "pi")),
}
"""What is compared."""
AVERAGE, WORST = "average worker", "worst worker"
STEPS, BITS = "equal steps", "equal bits"
SLACK = 1.01
"""By which factor the bits of a checkpoint may be above those of Perm-K: losses are sent too."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set of images.
      workers: M.
      concentration: of the Dirichlet distribution that deals out each class.
      rounds: of tuning.
      trials: a round.
      tuning_seeds: a trial.
      seeds: of the final runs.
      steps: of the server.
      checks: how often the model is scored.
      batch: of each worker.
      per_class: at most so many images of a class for training and validation.
      test_per_class: for the test.
      methods: names in `ROWS`.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    workers: int = 8
    concentration: float = 0.3
    rounds: int = 4
    trials: int = 4
    tuning_seeds: int = 1
    seeds: int = 10
    steps: int = 1200
    checks: int = 24
    batch: int = 16
    per_class: int = 2000
    test_per_class: int = 500
    methods: tuple[str, ...] = tuple(ROWS)
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", 8, 0.3, 2, 4, 1, 6, 480, 16, 16),
    "smoke": Protocol("digits", 8, 0.3, 1, 1, 1, 2, 16, 8, 4, 40, 20, ("perm-k", "also-shares")),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them."""
    contest = Contest(
        "workers",
        Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds),
        {name: ROWS[name].space for name in protocol.methods},
        protocol.steps,
        {"network": "mlp"},
        functools.partial(_run, protocol),
    )
    return search.jobs([contest])


class Problem(NamedTuple):
    """The data of one seed.

    Attributes:
      training: of each worker.
      validation: cut into as many equal parts.
      test: the same.
      shares: of the classes among each worker's training examples, ``[M, C]``.
    """

    training: Examples
    validation: Examples
    test: Examples
    shares: np.ndarray


@functools.lru_cache(maxsize=4)
def _problem(protocol: Protocol, seed: int) -> Problem:
    dataset = datasets.load(protocol.data)
    parts = parts_of(dataset, seed, per_class=protocol.per_class)
    count = protocol.workers
    dealt = deal(dataset.classes[parts.training], count, protocol.concentration, seed)
    shards = [parts.training[rows] for rows in dealt]
    test = np.concatenate(
        [parts.test[dataset.classes[parts.test] == c][: protocol.test_per_class] for c in range(CLASSES)]
    )
    counts = np.array([np.bincount(dataset.classes[rows], minlength=CLASSES) for rows in shards])
    largest = LARGEST * len(parts.training) // count  # for all seeds alike, so that they share a compiled run
    return Problem(
        _examples(dataset, shards, largest),
        _examples(dataset, np.array_split(parts.validation, count)),
        _examples(dataset, np.array_split(test, count)),
        counts / counts.sum(1, keepdims=True),
    )


def deal(classes: np.ndarray, workers: int, concentration: float, seed: int) -> list[np.ndarray]:
    """Positions in `classes` of each worker: of each class shares drawn from a Dirichlet distribution.

    Drawn again until no worker has more than :data:`LARGEST` times its even share, or less than the inverse of that.
    """
    rng = np.random.default_rng(seed)
    even = len(classes) // workers
    while True:
        parts: list[list[np.ndarray]] = [[] for _ in range(workers)]
        for c in np.unique(classes):
            positions = rng.permutation(np.flatnonzero(classes == c))
            cuts = np.cumsum(rng.dirichlet(np.full(workers, concentration)))[:-1] * len(positions)
            for worker, piece in enumerate(np.split(positions, cuts.round().astype(int))):
                parts[worker].append(piece)
        dealt = [np.concatenate(pieces) for pieces in parts]
        if all(even / LARGEST <= len(positions) <= LARGEST * even for positions in dealt):
            return dealt


def _examples(dataset: datasets.Dataset, rows: Sequence[np.ndarray], size: int | None = None) -> Examples:
    """Examples of each worker, padded to `size`, or to the largest."""
    size = max(len(own) for own in rows) if size is None else size
    features = np.zeros((len(rows), size, dataset.features[0].size), np.uint8)
    classes = np.full((len(rows), size), -1, np.int32)
    for worker, own in enumerate(rows):
        features[worker, : len(own)] = dataset.features[own].reshape(len(own), -1)
        classes[worker, : len(own)] = dataset.classes[own]
    return Examples(features, classes)


def _run(
    protocol: Protocol,
    name: str,
    seeds: Sequence[int],
    settings: Sequence[Setting],
    on_progress: Callable[[float], None],
) -> Ran:
    dataset = datasets.load(protocol.data)
    sizes = Sizes(protocol.workers, protocol.steps, protocol.checks, protocol.batch, CLASSES, float(dataset.scale))
    call = workers.in_process(protocol.workers)
    courses: list[Course] = []
    for seed, setting in zip(seeds, settings, strict=True):
        problem = _problem(protocol, seed)
        data = (problem.training, problem.validation, problem.test)
        courses.append(call(workers.run, sizes, ROWS[name].way, *data, seed, dict(setting)))
        on_progress(len(courses) / len(seeds))
    scored = [scores(course, _problem(protocol, seed).shares) for course, seed in zip(courses, seeds, strict=True)]

    def lines() -> list[Line]:
        return [
            _line(protocol, course, of_run, _problem(protocol, seed), dataset.source)
            for course, of_run, seed in zip(courses, scored, seeds, strict=True)
        ]

    best = np.array([found.max() for found in scored])
    return Ran(best, sum(c.seconds for c in courses), sum(c.compile_seconds for c in courses), lines)


def by_worker(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Means over each worker's classes, ``[..., M]``, from values by class, ``[..., C]``."""
    return np.asarray(values @ shares.T)


def scores(course: Course, shares: np.ndarray) -> np.ndarray:
    """Of each check, on validation: the worst worker's accuracy, ties broken by the mean cross-entropy."""
    worst = by_worker(course.right[:, 0], shares).min(1)
    losses = by_worker(course.losses[:, 0], shares).mean(1)
    return np.where(np.isfinite(losses), worst - metrics.TIE * np.minimum(losses, metrics.LARGEST_LOGIT), -np.inf)


def _line(protocol: Protocol, course: Course, scored: np.ndarray, problem: Problem, source: str) -> Line:
    accuracies = by_worker(course.right[:, 1], problem.shares)
    sent = course.sent.astype(np.int64)
    coordinates = workers.coordinates(CLASSES, problem.training.features.shape[-1])
    allowed = SLACK * coordinates * protocol.steps
    chosen = {STEPS: int(scored.argmax()), BITS: int(np.where(sent.sum(1) <= allowed, scored, -np.inf).argmax())}
    return {
        "results": {
            f"{which}, {limit}": {"accuracy": records.rounded(of_workers(accuracies[check]))}
            for limit, check in chosen.items()
            for which, of_workers in ((AVERAGE, np.mean), (WORST, np.min))
        },
        "finite": bool(np.isfinite(course.losses).all()),
        "curve": records.rounded(np.stack([accuracies.mean(1), accuracies.min(1)], axis=1)),
        "bits": [int(compression.BITS * numbers) for numbers in sent.sum(1)],
        "bits_of_workers": [int(compression.BITS * numbers) for numbers in sent[-1]],
        "weights": records.rounded(course.weights, 4),
        "coordinates": coordinates,
        "worker_sizes": (problem.training.classes >= 0).sum(1).tolist(),
        "source": source,
        "test_size": int((problem.test.classes >= 0).sum()),
    }


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    results, finals = comparison.results(lines, list(ROWS)), comparison.finals(lines, list(ROWS))
    first, protocol = finals.iloc[0], lines.iloc[-1]["protocol"]
    shown = {
        "Accuracy, %": tables.scores(results, "accuracy"),
        "Accuracy minus perm-k's, points": tables.gains(results, "accuracy", "perm-k"),
        "Megabits sent by the workers in a run": _traffic(finals),
        "Methods": tables.rows_of(ROWS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
        "Seconds a run": tables.seconds(finals),
    }
    return Page(
        intro=(
            f"{first['source']}; {protocol['workers']} workers on as many devices of one machine (`jax.shard_map`). "
            f"Each class is dealt out to them by a Dirichlet distribution of concentration "
            f"{protocol['concentration']:g}: at seed 0 they have {min(first['worker_sizes'])} to "
            f"{max(first['worker_sizes'])} examples. An MLP of {int(first['coordinates'])} parameters, "
            f"{protocol['steps']} steps, {protocol['batch']} examples a worker and step. A worker's accuracy is "
            f"that on the {int(first['test_size'])} test images, weighted by the classes of its own training examples.",
            "From section 6.4 of the paper: workers as groups, Perm-K, and pi as the measure of how many coordinates a "
            "worker sends. Ours: data (those of the paper are in no package), network, number of workers, how classes "
            "are dealt out; that the gradient is estimated without bias as sum_i pi_i g_i, with shares pi_i of the "
            "coordinates, whose lengths are rounded at random; and the control with equal shares, scaled by pi.",
            "Bits are those that workers send to the server: 32 for each coordinate, and 32 for its loss in a step "
            "where there is a pi; none for indices, which follow from a shared seed. They are counted; the simulation "
            "itself adds up whole vectors. What the server sends back is the parameters, for all methods alike, and "
            f"with shares by pi {protocol['workers']} numbers more. 'equal steps' is the best checkpoint by validation "
            "of the whole run, 'equal bits' that of the part of the run in which no more is sent than Perm-K sends in "
            "all of it.",
            comparison.budget_of(lines, "(accuracy of the worst worker, at equal steps)")
            + " "
            + comparison.how_to_read(finals),
        ),
        findings=findings(results),
        tables=shown,
        draw=functools.partial(draw, finals, results),
        did_not_help=tables.did_not_help(results, "accuracy", "perm-k"),
    )


def _traffic(finals: pd.DataFrame) -> pd.DataFrame:
    """All workers together, and the one that sends most; means over seeds."""
    rows = {}
    for name, of_method in finals.groupby("method", observed=True):
        sent = np.array(of_method["bits_of_workers"].tolist(), dtype=float) / 1e6
        rows[str(name)] = [f"{sent.sum(1).mean():.5g}", f"{sent.max(1).mean():.5g}", f"{sent.min(1).mean():.5g}"]
    return tables.named(pd.DataFrame.from_dict(rows, "index", columns=["all workers", "busiest", "idlest"]), "method")


def findings(results: pd.DataFrame) -> list[str]:
    """Where ALSO and its shares win and where they do not."""
    present, found = set(results["method"]), []
    pairs = (
        ("also", "adamw"),
        ("also-equal", "perm-k"),
        ("also-shares", "perm-k"),
        ("also-shares", "also-equal"),
        ("also-shares", "adamw"),
        ("perm-k", "adamw"),
    )
    for name, other in pairs:
        if {name, other} <= present:
            found.append(f"{name} {tables.verdicts(results, 'accuracy', name, other)}.")
    return found


def draw(finals: pd.DataFrame, results: pd.DataFrame, file: Path) -> None:
    """Accuracies of all methods; the worst worker's against the bits sent; pi of the workers where shares follow it."""
    protocol = finals.iloc[0]["protocol"]
    title = f"{protocol['workers']} workers with unlike classes, {protocol['data']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, ncols=3, figsize=(18, 6), width_ratios=(1.1, 1.1, 0.9)) as (_, axes):
        left, middle, right = axes
        plots.dots(left, results, "accuracy", label="accuracy on the test set, %", title="Accuracy")
        plots.legend_below(left, 2)
        _draw_curves(middle, finals)
        _draw_pi(right, finals, protocol)


def _draw_curves(ax: Any, finals: pd.DataFrame) -> None:
    """The worst worker against what all have sent; a legend, because the lines end at different bits."""
    looks = plots.styles([str(name) for name in finals["method"].cat.categories])
    looks["sgd"] = {"color": "black", "marker": "s", "linestyle": ":"}  # elsewhere it stands in adamw's place
    for name, of_method in finals.groupby("method", observed=True):
        worst = np.array(of_method["curve"].tolist(), dtype=float)[:, :, 1]
        bits = np.array(of_method["bits"].tolist(), dtype=float)
        every = max(1, worst.shape[1] // 5)
        at, values = bits.mean(0) / 1e6, 100 * worst.mean(0)
        ax.plot(at, values, label=name, linewidth=1.5, markersize=5, markevery=every, **looks[str(name)])
    ax.set_xscale("log")
    ax.set(xlabel="megabits sent by all workers", ylabel="accuracy, %")
    ax.set_title("Test accuracy of the worst worker", loc="left")
    ax.legend(fontsize=8, loc="best")


def _draw_pi(ax: Any, finals: pd.DataFrame, protocol: dict[str, int]) -> None:
    """pi of the workers at seed 0, a line each."""
    runs = finals[(finals["method"] == "also-shares") & (finals["seed"] == 0)]
    ax.set(xlabel="step", ylabel="pi")
    ax.set_title("pi of also-shares at seed 0", loc="left")
    if len(runs):
        pi = np.array(runs.iloc[0]["weights"], dtype=float)
        pi = np.concatenate([np.full((1, pi.shape[1]), 1 / pi.shape[1]), pi])
        at = np.arange(len(pi)) * protocol["steps"] / (len(pi) - 1)
        found = {f"worker {k}": (at, pi[:, k]) for k in range(pi.shape[1])}
        plots.curves(ax, found, x="step", y="pi = share of the coordinates", title="pi of also-shares at seed 0")


EXPERIMENT = Experiment(
    "Workers that send parts of their gradients", "Perm-K with shares by pi (ALSO, section 6.4)", PROTOCOLS, jobs, page
)
